"""Logprobs of given tokens straight from states: never more than a slice of the logits in memory.

Shapes: N states of size H, V entries in the vocabulary.
"""

from typing import Any

import torch
from torch import Tensor


class TokenLogprobs(torch.autograd.Function):
    """Logprobs (N,) in nats of tokens: (N,) after states: (N, H), by the output layer's weights (V, H).

    `rows` states at a time; their logits are kept for the backward pass if that is all of them, and else
    computed again. The gradient of log softmax: one-hot(token) - softmax. All of it is in float32: bfloat16
    would make logprobs coarse.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, tokens: Tensor, weight: Tensor, rows: int) -> Tensor:
        chosen, sums, logits = torch.empty(len(tokens)), torch.empty(len(tokens)), None
        for start in range(0, len(tokens), rows):
            end = start + rows
            logits = torch.mm(states[start:end], weight.t())
            sums[start:end] = logits.logsumexp(-1)
            chosen[start:end] = logits.gather(-1, tokens[start:end, None]).squeeze(-1)
        kept = logits if ctx.needs_input_grad[0] and len(tokens) <= rows else None
        ctx.save_for_backward(states, tokens, weight, sums, kept)
        ctx.rows = rows
        return chosen.sub_(sums)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        states, tokens, weight, sums, kept = ctx.saved_tensors
        out = torch.empty_like(states)
        for start in range(0, len(tokens), ctx.rows):
            part = slice(start, start + ctx.rows)
            logits = torch.mm(states[part], weight.t()) if kept is None else kept
            gradient = grads[0][part, None]
            logits = (logits - sums[part, None]).exp_().mul_(-gradient)
            logits.scatter_add_(-1, tokens[part, None], gradient)
            torch.mm(logits, weight, out=out[part])
        return out, None, None, None
