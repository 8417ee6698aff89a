"""Proximal policy optimisation of the policy adapter, with a KL penalty to the base.

One `step` on rollouts of the present policy (Ouyang et al. 2022, appendix C; Schulman et al. 2017):

    reward_t  = -coefficient * (log policy - log base)_t, and at the last token the score, less a penalty
                when the answer was cut off
    advantage = GAE of the rewards under the critic, whitened over the batch
    update    = some epochs of minibatches on the clipped surrogate; an epoch is the last one when the policy
                has moved too far from the one that made the rollouts

The critic is a small network on the policy trunk's states, taken without gradient: the policy's adapter then
serves the policy alone, and the critic trains on states that were computed anyway, at almost no cost.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deploy.engine import Sample
from learner.batching import Batch, Item, in_buckets
from learner.losses import (
    adapt_kl_coefficient,
    explained_variance,
    gae,
    importance_weights,
    kl_k1,
    kl_k3,
    policy_loss,
    value_loss,
    whiten,
)
from learner.model import LIVE, POLICY, SharedModel
from learner.settings import PPOSettings


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of rollouts before a step: B responses of at most T tokens, 0 outside `mask`.

    mask, logprobs, base_logprobs, engine_logprobs: (B, T); states: (B, T, H), those that predict each
    token; kl_nats_base, kl_nats_live: k1 per response, of the policy that made the rollouts.
    """

    items: list[Item]
    cut_off: Tensor  # (B,) bool
    mask: Tensor
    logprobs: Tensor
    base_logprobs: Tensor
    engine_logprobs: Tensor
    states: Tensor
    entropy_nats: float
    kl_nats_base: float
    kl_nats_live: float


@dataclass(frozen=True, slots=True)
class PPOMetrics:
    """What a step was like. KL per response, entropy per token, lengths in tokens, `mismatch`: the largest
    difference (nats) between the engine's and the trainer's logprobs of a rollout token."""

    reward_mean: float
    kl_nats_base: float
    kl_nats_live: float
    kl_nats_step: float
    kl_coefficient: float
    clip_ratio: float
    entropy_nats: float
    response_tokens: float
    explained_variance: float
    grad_norm: float
    mismatch: float
    epochs: int
    skipped_updates: int


class Critic(nn.Module):
    """The value of what is still to come, from the state (…, H) that predicts the next token."""

    def __init__(self, hidden_size: int, width: int = 64) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.inner = nn.Linear(hidden_size, width)
        self.outer = nn.Linear(width, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Values (…)."""
        values: Tensor = self.outer(torch.tanh(self.inner(self.norm(states)))).squeeze(-1)
        return values


class PPO:
    """Trains `model`'s policy adapter. Deterministic on a CPU: the same calls give the same bits."""

    def __init__(self, model: SharedModel, settings: PPOSettings, seed: int = 0) -> None:
        self.model = model
        self.settings = settings
        self.steps = 0
        self.kl_coefficient = settings.kl_coefficient
        self._generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.critic = Critic(model.hidden_size).to(model.device)
        self._optimizer = torch.optim.AdamW(
            model.parameters(POLICY), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        )
        self._critic_optimizer = torch.optim.AdamW(
            self.critic.parameters(), lr=settings.critic_learning_rate, weight_decay=0.0
        )

    # ---- before a step

    @torch.no_grad()
    def measure(self, rollouts: Sequence[Sample]) -> Measured:
        """Logprobs, states and KL of rollouts, which the present policy must have made.

        Raises `ValueError` for no rollouts or one without tokens.
        """
        if not rollouts or not all(rollout.token_ids for rollout in rollouts):
            raise ValueError("rollouts need at least one token each")
        items: list[Item] = [(rollout.prompt_token_ids, rollout.token_ids) for rollout in rollouts]
        mask, logprobs, states, entropy = self._policy_pass(items)
        base = self.model.answer_logprobs(items, None)
        live = base if self.model.is_base(LIVE) else self.model.answer_logprobs(items, LIVE)
        engine = torch.zeros_like(logprobs)
        for row, rollout in enumerate(rollouts):
            engine[row, : len(rollout.logprobs)] = torch.tensor(rollout.logprobs)
        return Measured(
            items=items,
            cut_off=torch.tensor([rollout.finish_reason != "stop" for rollout in rollouts]),
            mask=mask,
            logprobs=logprobs,
            base_logprobs=base,
            engine_logprobs=engine,
            states=states,
            entropy_nats=entropy,
            kl_nats_base=float(kl_k1(logprobs, base).sum(1).mean()),
            kl_nats_live=float(kl_k1(logprobs, live).sum(1).mean()),
        )

    def _policy_pass(self, items: Sequence[Item]) -> tuple[Tensor, Tensor, Tensor, float]:
        """Mask, logprobs, predicting states and the mean entropy of the policy on items, on the CPU."""
        width = max(len(answer) for _, answer in items)
        mask = torch.zeros(len(items), width, dtype=torch.bool)
        logprobs = torch.zeros(len(items), width)
        states = torch.zeros(len(items), width, self.model.hidden_size)
        total = 0.0
        for rows, batch in in_buckets(items, self.model.max_tokens, self.model.device):
            found = self.model.predicting_states(batch, POLICY)
            chosen, entropies = self.model.token_logprobs(found, batch.answers[batch.mask])
            chosen, found, start = chosen.float().cpu(), found.float().cpu(), 0
            for row, length in zip(rows, batch.mask.sum(1).tolist(), strict=True):
                mask[row, :length] = True
                logprobs[row, :length] = chosen[start : start + length]
                states[row, :length] = found[start : start + length]
                start += length
            total += float(entropies.sum())
        return mask, logprobs, states, total / max(int(mask.sum()), 1)

    # ---- a step

    def step(self, measured: Measured, scores: Tensor) -> PPOMetrics:
        """One PPO step on measured rollouts with `scores: (B,)` from the reward model.

        Raises `ValueError` when the scores are not finite or not as many as the rollouts.
        """
        _check_scores(scores, len(measured.items))
        rewards = self._rewards(measured, scores)
        with torch.no_grad():
            values = self.critic(measured.states.to(self.model.device)).cpu() * measured.mask
        advantages, returns = gae(rewards, values, measured.mask, self.settings.gamma, self.settings.lam)
        moved = _Moved()
        if self.steps >= self.settings.critic_warmup_steps:
            moved = self._improve(measured, whiten(advantages, measured.mask))
        self._train_critic(measured, values, returns)
        used = self.kl_coefficient
        self.kl_coefficient = adapt_kl_coefficient(
            used,
            measured.kl_nats_base,
            self.settings.kl_target_nats,
            len(measured.items),
            self.settings.kl_horizon,
        )
        self.steps += 1
        mask = measured.mask
        return PPOMetrics(
            reward_mean=float(scores.mean()),
            kl_nats_base=measured.kl_nats_base,
            kl_nats_live=measured.kl_nats_live,
            kl_nats_step=moved.kl_nats,
            kl_coefficient=used,
            clip_ratio=moved.clipped / max(moved.tokens, 1),
            entropy_nats=measured.entropy_nats,
            response_tokens=float(mask.sum(1).float().mean()),
            explained_variance=explained_variance(values[mask], returns[mask]),
            grad_norm=moved.grad_norm,
            mismatch=float((measured.logprobs - measured.engine_logprobs)[mask].abs().max()),
            epochs=moved.epochs,
            skipped_updates=moved.skipped,
        )

    def _rewards(self, measured: Measured, scores: Tensor) -> Tensor:
        """Rewards (B, T): the KL penalty at every token, score and cut-off penalty at the last one."""
        rewards = -self.kl_coefficient * kl_k1(measured.logprobs, measured.base_logprobs)
        last = measured.mask.sum(1) - 1
        final = scores.float().cpu() - self.settings.cut_off_penalty * measured.cut_off
        rewards[torch.arange(len(last)), last] += final
        return rewards

    def _improve(self, measured: Measured, advantages: Tensor) -> "_Moved":
        moved = _Moved()
        warm = (self.steps - self.settings.critic_warmup_steps + 1) / max(self.settings.warmup_steps, 1)
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * min(1.0, warm)
        for _ in range(self.settings.epochs):
            kl_total = 0.0
            for rows in self._minibatches(len(measured.items)):
                kl_total += self._update(measured, advantages, rows, moved)
            moved.epochs += 1
            moved.kl_nats = kl_total / len(measured.items)
            if moved.kl_nats > self.settings.kl_step_nats:
                break
        return moved

    def _minibatches(self, count: int) -> Iterator[list[int]]:
        order = torch.randperm(count, generator=self._generator).tolist()
        size = -(-count // self.settings.minibatches)
        for start in range(0, count, size):
            yield order[start : start + size]

    def _update(self, measured: Measured, advantages: Tensor, rows: list[int], moved: "_Moved") -> float:
        """One optimiser step on some rows; their KL (nats, summed) to the rollouts' policy before it."""
        total, kl_nats = int(measured.mask[rows].sum()), 0.0
        self._optimizer.zero_grad(set_to_none=True)
        items = [measured.items[row] for row in rows]
        for places, batch in in_buckets(items, self.settings.update_tokens, self.model.device):
            part = [rows[place] for place in places]
            losses, clipped, kl = self._losses(measured, advantages, part, batch)
            (losses.sum() / total).backward()  # type: ignore[no-untyped-call]
            kl_nats += float(kl.sum())
            moved.clipped += int(clipped.sum())
        moved.tokens += total
        norm = nn.utils.clip_grad_norm_(self.model.parameters(POLICY), self.settings.max_grad_norm)
        if bool(torch.isfinite(norm)):
            self._optimizer.step()
            moved.grad_norm = float(norm)
        else:
            moved.skipped += 1
        return kl_nats

    def _losses(
        self, measured: Measured, advantages: Tensor, rows: list[int], batch: Batch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, whether it was clipped, and KL (k3) to the rollouts' policy at each of the rows' N tokens."""
        width, device = batch.mask.shape[1], self.model.device
        mask = measured.mask[rows][:, :width]
        old, engine, advantage = (
            table[rows][:, :width][mask].to(device)
            for table in (measured.logprobs, measured.engine_logprobs, advantages)
        )
        states = self.model.predicting_states(batch, POLICY)
        logprobs, _ = self.model.token_logprobs(states, batch.answers[batch.mask])
        losses, clipped = policy_loss(logprobs, old, advantage, self.settings.clip)
        weights = importance_weights(old, engine, self.settings.importance_cap)
        return losses * weights, clipped, kl_k3(old, logprobs.detach())

    def _train_critic(self, measured: Measured, values: Tensor, returns: Tensor) -> None:
        mask, device = measured.mask, self.model.device
        states, old, target = (part[mask].to(device) for part in (measured.states, values, returns))
        spread = float(target.std()) if len(target) > 1 else 1.0
        for _ in range(self.settings.critic_epochs):
            losses = value_loss(self.critic(states), old, target, self.settings.value_clip * max(spread, 1.0))
            self._critic_optimizer.zero_grad(set_to_none=True)
            losses.mean().backward()  # type: ignore[no-untyped-call]
            self._critic_optimizer.step()

    # ---- going back, and going on later

    def snapshot(self) -> dict[str, Any]:
        """All that a step changes, for `restore`; plain tensors and numbers, so that it can be saved."""
        return {
            "policy": self.model.adapter_state(POLICY),
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
            "critic": {key: value.detach().cpu().clone() for key, value in self.critic.state_dict().items()},
            "critic_optimizer": copy.deepcopy(self._critic_optimizer.state_dict()),
            "generator": self._generator.get_state(),
            "kl_coefficient": self.kl_coefficient,
            "steps": self.steps,
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Become what `snapshot` described."""
        self.model.load_adapter_state(POLICY, snapshot["policy"])
        self._optimizer.load_state_dict(copy.deepcopy(snapshot["optimizer"]))
        self.critic.load_state_dict(snapshot["critic"])
        self._critic_optimizer.load_state_dict(copy.deepcopy(snapshot["critic_optimizer"]))
        self._generator.set_state(snapshot["generator"])
        self.kl_coefficient = snapshot["kl_coefficient"]
        self.steps = snapshot["steps"]


def _check_scores(scores: Tensor, count: int) -> None:
    if scores.shape != (count,):
        raise ValueError(f"scores have the shape {tuple(scores.shape)}; {count} scores are needed")
    bad = (~torch.isfinite(scores)).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"the score of rollout {bad[0]} is {float(scores[bad[0]])}; scores must be finite")


@dataclass(slots=True)
class _Moved:
    """What the epochs of one step added up to."""

    kl_nats: float = 0.0
    clipped: int = 0
    tokens: int = 0
    grad_norm: float = 0.0
    epochs: int = 0
    skipped: int = 0
