"""The critic: what is still to come, read off the policy trunk's states."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from learner.losses import value_loss


class Critic(nn.Module):
    """Values from the states (N, H) that predict the next token.

    A small network on states that are taken without gradient: the policy's adapter then serves the policy
    alone, and the critic trains on states that were computed anyway, at almost no cost. States come
    normalised (`prepare`), once for all epochs. It starts by expecting 0.
    """

    def __init__(self, hidden_size: int, width: int = 64) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, width)
        self.outer = nn.Linear(width, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    @staticmethod
    def prepare(states: Tensor) -> Tensor:
        """States (N, H) with mean 0 and variance 1 each."""
        return functional.layer_norm(states.float(), states.shape[-1:])

    def forward(self, prepared: Tensor) -> Tensor:
        """Values (N,) of prepared states."""
        values: Tensor = self.outer(torch.tanh(self.inner(prepared))).squeeze(-1)
        return values


class CriticTrainer:
    """Fits the critic to the returns of one batch after the other."""

    def __init__(self, critic: Critic, learning_rate: float, epochs: int, clip: float) -> None:
        self.critic, self.epochs, self.clip = critic, epochs, clip
        self.optimizer = torch.optim.AdamW(
            critic.parameters(), lr=learning_rate, weight_decay=0.0, fused=True
        )

    def train(self, prepared: Tensor, old_values: Tensor, returns: Tensor) -> int:
        """Some epochs of the clipped loss on a whole batch, all (N, ...); how many were skipped as not
        finite. The clip is in units of the returns' spread."""
        spread = float(returns.std()) if len(returns) > 1 else 1.0
        clip = self.clip * max(spread, 1.0) if math.isfinite(self.clip) else math.inf
        skipped = 0
        for _ in range(self.epochs):
            loss = value_loss(self.critic(prepared), old_values, returns, clip).mean()
            self.optimizer.zero_grad(set_to_none=True)
            if bool(torch.isfinite(loss)):
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
            else:
                skipped += 1
        return skipped

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser."""
        return {
            "critic": {key: value.detach().cpu().clone() for key, value in self.critic.state_dict().items()},
            "critic_optimizer": self.optimizer.state_dict(),
        }
