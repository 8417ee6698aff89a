"""Logits, and logprobs of given tokens straight from states: never more than a slice of them in memory.

Shapes: N states of size H, V entries in the vocabulary. Everything here is in float32, whatever the weights
are in: logits in bfloat16 are off by a hundredth of a nat.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

UPCAST_BYTES = 64 << 20  # of an output layer in bfloat16 that is held in float32 at a time


class OutputLayer:
    """The output layer of a model: its weights (V, H) in any dtype and, if it has one, its bias (V,).

    On a GPU, where products in float32 are many times slower, states are taken apart into two numbers in
    bfloat16 each: 16 of float32's 24 bits, which a logit in float32 is summed from.
    """

    def __init__(self, layer: Any) -> None:
        self.weight: Tensor = layer.weight
        self.bias: Tensor | None = None if layer.bias is None else layer.bias.float()

    def logits(self, states: Tensor) -> Tensor:
        """(N, V) of states (N, H), float32."""
        if self.weight.dtype == states.dtype:
            found = torch.mm(states, self.weight.t())
        elif self.weight.is_cuda and self.weight.dtype == torch.bfloat16:
            found = self._by_parts(states, self.weight.t())
        else:
            found = states.new_empty(len(states), len(self.weight))
            for part in self._slices():
                torch.mm(states, self.weight[part].to(states.dtype).t(), out=found[:, part])
        return found if self.bias is None else found.add_(self.bias)

    def backward(self, gradient: Tensor) -> Tensor:
        """The gradient (N, H) of the states from that of the logits (N, V)."""
        if self.weight.dtype == gradient.dtype:
            return torch.mm(gradient, self.weight)
        if self.weight.is_cuda and self.weight.dtype == torch.bfloat16:
            return self._by_parts(gradient, self.weight)
        found = gradient.new_zeros(len(gradient), self.weight.shape[1])
        for part in self._slices():
            found.addmm_(gradient[:, part], self.weight[part].to(gradient.dtype))
        return found

    def _by_parts(self, one: Tensor, other: Tensor) -> Tensor:
        """The product of float32 and bfloat16, in float32."""
        high = one.to(other.dtype)
        low = one.sub(high).to(other.dtype)
        found: Tensor = torch.mm(high, other, out_dtype=torch.float32)
        return found.add_(torch.mm(low, other, out_dtype=torch.float32))

    def _slices(self) -> list[slice]:
        entries, width = self.weight.shape
        step = max(1, UPCAST_BYTES // (4 * width))
        return [slice(start, start + step) for start in range(0, entries, step)]


class TokenLogprobs(torch.autograd.Function):
    """Logprobs (N,) in nats of tokens: (N,) after states: (N, H), by an `OutputLayer`.

    `rows` states at a time; their logits are kept for the backward pass if that is all of them, and else
    computed again. The gradient of log softmax: one-hot(token) - softmax.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, tokens: Tensor, layer: OutputLayer, rows: int) -> Tensor:
        chosen, sums, logits = states.new_empty(len(tokens)), states.new_empty(len(tokens)), None
        for start in range(0, len(tokens), rows):
            end = start + rows
            logits = layer.logits(states[start:end])
            sums[start:end] = logits.logsumexp(-1)
            chosen[start:end] = logits.gather(-1, tokens[start:end, None]).squeeze(-1)
        kept = logits if ctx.needs_input_grad[0] and len(tokens) <= rows else None
        ctx.save_for_backward(states, tokens, sums, kept)
        ctx.rows, ctx.layer = rows, layer
        return chosen.sub_(sums)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        states, tokens, sums, kept = ctx.saved_tensors
        out = torch.empty_like(states)
        for start in range(0, len(tokens), ctx.rows):
            part = slice(start, start + ctx.rows)
            logits = ctx.layer.logits(states[part]) if kept is None else kept
            gradient = grads[0][part, None]
            logits = (logits - sums[part, None]).exp_().mul_(-gradient)
            logits.scatter_add_(-1, tokens[part, None], gradient)
            out[part] = ctx.layer.backward(logits)
        return out, None, None, None


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


def compare_next_tokens(
    layer: OutputLayer, states: Tensor, others: Sequence[Tensor], tokens: Tensor, rows: int
) -> NextTokens:
    """Compare what follows `states: (N, H)` with what follows `others: (N, H)` each.

    tokens: (N,) that followed; rows: states at a time. Logprobs are made as `TokenLogprobs` makes them.
    """
    logprobs, entropies = states.new_empty(len(tokens)), states.new_empty(len(tokens))
    other_logprobs, kl_nats = (states.new_empty(len(others), len(tokens)) for _ in range(2))
    for start in range(0, len(tokens), rows):
        part = slice(start, start + rows)
        table, logprobs[part] = _log_softmax(layer, states[part], tokens[part])
        chances = table.exp()
        entropies[part] = -(chances * table).sum(-1)
        for place, other in enumerate(others):
            apart, other_logprobs[place, part] = _log_softmax(layer, other[part], tokens[part])
            apart = torch.sub(table, apart, out=apart).mul_(chances)
            kl_nats[place, part] = apart.sum(-1).clamp_(min=0.0)  # rounding can leave less than 0
    return NextTokens(logprobs, entropies, other_logprobs, kl_nats)


def _log_softmax(layer: OutputLayer, states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Logprobs (N, V) of all tokens, and those (N,) of the ones that followed."""
    logits = layer.logits(states)
    sums = logits.logsumexp(-1)
    chosen = logits.gather(-1, tokens[:, None]).squeeze(-1).sub_(sums)
    return logits.sub_(sums[:, None]), chosen
