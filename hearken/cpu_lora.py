"""A vLLM plugin for its CPU build: LoRA by one plain matmul per adapter in the batch.

vLLM 0.32's own CPU code gathers the weights of an adapter for every token. That has two faults. A token of
the base model has adapter index -1, which torch reads as the last slot: as soon as that slot is filled, base
answers in a batch with adapters are given some adapter's weights. (Measured: in a canary of a policy against
base, the base's answers became the canary's.) And it is slow: every step copies A and B once per token.

Here the rows of a batch are grouped by adapter once per step, rows of the base are left alone, and each
group is multiplied with its adapter's weights where they lie. Triton kernels on GPUs do all this already.
"""

from typing import Any

import torch
from torch import Tensor
from vllm.lora.punica_wrapper import punica_cpu

Groups = list[tuple[int, Tensor | None]]
"""(adapter slot, its rows); rows None stands for all of them."""


def group_rows(indices: Tensor) -> Groups:
    """The rows of every adapter slot in `indices: (N,)`, which has -1 for rows of the base."""
    slots = torch.unique(indices).tolist()
    if len(slots) == 1:
        return [(slots[0], None)] if slots[0] >= 0 else []
    return [(slot, torch.nonzero(indices == slot).squeeze(1)) for slot in slots if slot >= 0]


def add_delta(
    y: Tensor, x: Tensor, lora_a: Tensor, lora_b: Tensor, scale: float, groups: Groups, offset: int, size: int
) -> None:
    """y[rows, offset : offset + size] += scale * (x[rows] @ A.T) @ B.T for each group, in place.

    y: (N, out); x: (N, in); lora_a: (slots, 1, r, in); lora_b: (slots, 1, size, r).
    """
    for slot, rows in groups:
        a, b = lora_a[slot].flatten(0, -2), lora_b[slot].flatten(0, -2)[:size]
        inputs = x if rows is None else x[rows]
        delta = ((inputs.to(a.dtype) @ a.T) * scale @ b.T).to(y.dtype)
        place = y[:, offset : offset + delta.shape[1]]
        if rows is None:
            place += delta
        else:
            place.index_add_(0, rows, delta)


class GroupedPunicaWrapper(punica_cpu.PunicaWrapperCPU):  # type: ignore[misc]
    """vLLM's wrapper with the two operations that our adapters use done by groups."""

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Called once per step with the adapters of its tokens."""
        super().update_metadata(*args, **kwargs)
        self._token_groups = group_rows(self.token_lora_indices)
        self._sampler_groups = group_rows(self.sampler_indices)

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        """Add each adapter's share to a linear layer's output, in place."""
        rows_y, rows_x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        offset = 0
        for a, b, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            add_delta(rows_y, rows_x, a, b, scale, self._token_groups, offset, size)
            offset += size

    def add_lora_logits(
        self, y: Tensor, x: Tensor, lora_a_stacked: Tensor, lora_b_stacked: Tensor, scale: float, **_: Any
    ) -> None:
        """Add each adapter's share to the logits, in place."""
        rows_y, rows_x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        size = rows_y.shape[1]
        add_delta(rows_y, rows_x, lora_a_stacked, lora_b_stacked, scale, self._sampler_groups, 0, size)


def register() -> None:
    """vLLM calls this in each of its processes (entry point group `vllm.general_plugins`)."""
    punica_cpu.PunicaWrapperCPU = GroupedPunicaWrapper
