"""Logits, and logprobs of given tokens straight from states: never more than a slice of them in memory.

Shapes: N states of size H, V entries in the vocabulary. Everything here is in float32, whatever the weights
are in: logits in bfloat16 are off by a hundredth of a nat.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LOGIT_BYTES = 64 << 20  # of logits held at a time
UPCAST_BYTES = 64 << 20  # of an output layer in bfloat16 that is held in float32 at a time


@dataclass(frozen=True, slots=True)
class NextTokens:
    """Distributions of the next token at N places, one and some others.

    logprobs: (N,) of the tokens that followed; entropies: (N,); other_logprobs: (others, N); kl_nats:
    (others, N), each place's KL to the others, over the whole vocabulary. All in nats.
    """

    logprobs: Tensor
    entropies: Tensor
    other_logprobs: Tensor
    kl_nats: Tensor


class OutputLayer:
    """The output layer of a model: its weights (V, H) in any dtype and, if it has one, its bias (V,).

    On a GPU, where products in float32 are many times slower, states are taken apart into two numbers in
    bfloat16 each: 16 of float32's 24 bits, which a logit in float32 is summed from.
    """

    def __init__(self, layer: Any) -> None:
        self.weight: Tensor = layer.weight
        self.bias: Tensor | None = None if layer.bias is None else layer.bias.float()

    def token_logprobs(
        self, states: Tensor, tokens: Tensor, *, with_gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Logprobs (N,) in nats of tokens (N,) after states (N, H), and their gradients (N, H).

        The gradient of log softmax, one-hot(token) - softmax, goes through the layer while the logits are
        there: to make them again for a backward pass would cost half as much again.
        """
        chosen = states.new_empty(len(tokens))
        gradient = torch.empty_like(states) if with_gradient else None
        for part in _slices(len(tokens), LOGIT_BYTES // (4 * len(self.weight))):
            logprobs, chosen[part] = self._log_softmax(states[part], tokens[part])
            if gradient is not None:
                gradient[part] = self.weight[tokens[part]]
                gradient[part] -= self._mean(logprobs.exp_())
        return chosen, gradient

    def compare(self, states: Tensor, others: Sequence[Tensor], tokens: Tensor) -> NextTokens:
        """What follows states (N, H) beside what follows others, (N, H) each. tokens: (N,) that followed."""
        logprobs, entropies = states.new_empty(len(tokens)), states.new_empty(len(tokens))
        other_logprobs, kl_nats = (states.new_empty(len(others), len(tokens)) for _ in range(2))
        for part in _slices(len(tokens), LOGIT_BYTES // (8 * len(self.weight))):  # two tables at a time
            table, logprobs[part] = self._log_softmax(states[part], tokens[part])
            chances = table.exp()
            entropies[part] = -(chances * table).sum(-1)
            for place, other in enumerate(others):
                apart, other_logprobs[place, part] = self._log_softmax(other[part], tokens[part])
                apart = torch.sub(table, apart, out=apart).mul_(chances)
                kl_nats[place, part] = apart.sum(-1).clamp_(min=0.0)  # rounding can leave less than 0
        return NextTokens(logprobs, entropies, other_logprobs, kl_nats)

    def logits(self, states: Tensor) -> Tensor:
        """(N, V) of states (N, H), float32."""
        if self.weight.dtype == states.dtype:
            found = torch.mm(states, self.weight.t())
        elif self.weight.is_cuda and self.weight.dtype == torch.bfloat16:
            found = _by_parts(states, self.weight.t())
        else:
            found = states.new_empty(len(states), len(self.weight))
            for part in self._upcast():
                torch.mm(states, self.weight[part].to(states.dtype).t(), out=found[:, part])
        return found if self.bias is None else found.add_(self.bias)

    def _log_softmax(self, states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logprobs (N, V) of all tokens, and those (N,) of the ones that followed."""
        logits = self.logits(states)
        sums = logits.logsumexp(-1)
        chosen = logits.gather(-1, tokens[:, None]).squeeze(-1).sub_(sums)
        return logits.sub_(sums[:, None]), chosen

    def _mean(self, chances: Tensor) -> Tensor:
        """The mean (N, H) of the weight's rows by chances (N, V)."""
        if self.weight.dtype == chances.dtype:
            return torch.mm(chances, self.weight)
        if self.weight.is_cuda and self.weight.dtype == torch.bfloat16:
            return _by_parts(chances, self.weight)
        found = chances.new_zeros(len(chances), self.weight.shape[1])
        for part in self._upcast():
            found.addmm_(chances[:, part], self.weight[part].to(chances.dtype))
        return found

    def _upcast(self) -> list[slice]:
        entries, width = self.weight.shape
        return _slices(entries, UPCAST_BYTES // (4 * width))


class TokenLogprobs(torch.autograd.Function):
    """Logprobs (N,) in nats of tokens: (N,) after states: (N, H), by an `OutputLayer`."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, tokens: Tensor, layer: OutputLayer) -> Tensor:
        logprobs, gradient = layer.token_logprobs(states, tokens, with_gradient=ctx.needs_input_grad[0])
        ctx.save_for_backward(gradient)
        return logprobs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0][:, None], None, None


def _slices(count: int, step: int) -> list[slice]:
    """All of `count`, so many at a time, one at least."""
    step = max(1, step)
    return [slice(start, start + step) for start in range(0, count, step)]


def _by_parts(one: Tensor, other: Tensor) -> Tensor:
    """The product of float32 and bfloat16, in float32."""
    high = one.to(other.dtype)
    low = one.sub(high).to(other.dtype)
    found: Tensor = torch.mm(high, other, out_dtype=torch.float32)
    return found.add_(torch.mm(low, other, out_dtype=torch.float32))
