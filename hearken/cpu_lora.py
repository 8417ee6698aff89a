"""A vLLM plugin for its CPU build: LoRA by two plain matmuls per layer and adapter in the batch.

vLLM 0.32's own CPU code gathers the weights of an adapter for every token. That has two faults. A token of
the base model has adapter index -1, which torch reads as the last slot: as soon as that slot is filled, base
answers in a batch with adapters are given some adapter's weights. (Measured: in a canary of a policy against
base, the base's answers became the canary's.) And it is slow: every step copies A and B once per token.

Here the rows of a batch are grouped by adapter whenever the batch changes, rows of the base are left alone,
and each group is multiplied with its adapter's weights where they lie. A layer that vLLM fuses from several
(q, k and v; gate and up) has one A and one B for each: they are laid out side by side, so that the layer
takes two matmuls all the same. Rows never meet the weights of an adapter that is not theirs, not even
multiplied by zero: an adapter with infinite weights spoils its own answers only. In bfloat16 a layer and its
adapters' shares are added before they are rounded (`hearken/cpu_linear.py`).

The output layer is apart. For a prompt's logprobs vLLM asks it about the rows of that prompt alone, and says
nowhere whose they are; the groups are of the rows that a token is sampled for. Adapters of hearken's learner
have no weights there, and such ones are left out. Where one has, a prompt's logprobs are the base's in this
layer: a fleet that proves the adapter by them refuses it.

Triton kernels on GPUs do all this already.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.lora.punica_wrapper import punica_cpu
from vllm.platforms import current_platform

from hearken import cpu_linear, cpu_norms, cpu_seeds

Rows = slice | Tensor
"""Some rows of a batch: a slice where they are neighbours, else their numbers (n,)."""

Groups = list[tuple[int, Rows]]
"""(adapter slot, its rows) for every adapter in a batch; rows of the base are in none."""


def group_rows(indices: Sequence[int]) -> Groups:
    """The rows of every adapter slot in `indices`, which has one slot for each row and -1 for the base."""
    rows_of: dict[int, list[int]] = {}
    for row, slot in enumerate(indices):
        if slot >= 0:
            rows_of.setdefault(slot, []).append(row)
    return [(slot, _as_rows(rows)) for slot, rows in rows_of.items()]


def _as_rows(rows: list[int]) -> Rows:
    first, last = rows[0], rows[-1]
    if last - first + 1 == len(rows):
        return slice(first, last + 1)
    return torch.tensor(rows)


class PackedWeights:
    """The A and B of one layer, all parts of the layer side by side, in all adapter slots.

    It takes over vLLM's own tensors, `lora_a[part]: (slots, 1, r, in)` and `lora_b[part]: (slots, 1, out
    of the part, r)`: they become views of the layout here, so what vLLM writes into a slot later is in both.
    B is block-diagonal (a part's rank meets only the part's outputs) with the zeros stored: for a rank that
    is small beside the layer that costs less than one more call.
    """

    def __init__(self, lora_a: Sequence[Tensor], lora_b: Sequence[Tensor]) -> None:
        slots, _, rank, width = lora_a[0].shape
        self.outputs = sum(b.shape[2] for b in lora_b)
        with torch.inference_mode(False):  # vLLM writes into slots outside of its inference mode, too
            all_a = lora_a[0].new_zeros(slots, len(lora_a) * rank, width)
            all_b = lora_b[0].new_zeros(slots, len(lora_b) * rank, self.outputs)
            ranks, outputs = 0, 0
            for a, b in zip(lora_a, lora_b, strict=True):
                size = b.shape[2]
                place_a = all_a[:, None, ranks : ranks + rank]
                place_b = all_b[:, None, ranks : ranks + rank, outputs : outputs + size].transpose(2, 3)
                a.data, b.data = place_a.copy_(a), place_b.copy_(b)
                ranks, outputs = ranks + rank, outputs + size
            self._a = [each.T for each in all_a]  # (in, parts * r) of each slot
            self._b = list(all_b)  # (parts * r, outputs) of each slot

    def add(self, y: Tensor, x: Tensor, groups: Groups, scale: float) -> None:
        """y[rows] += scale * (x[rows] @ A.T) @ B.T for each group, in place. y: (N, outputs); x: (N, in)."""
        if x.dtype != self._a[0].dtype:
            x = x.to(self._a[0].dtype)
        for slot, rows in groups:
            if isinstance(rows, Tensor):
                delta = torch.mm(torch.mm(x.index_select(0, rows), self._a[slot]), self._b[slot])
                y.index_add_(0, rows, delta.to(y.dtype), alpha=scale)
            elif y.dtype == x.dtype:
                y[rows].addmm_(torch.mm(x[rows], self._a[slot]), self._b[slot], alpha=scale)
            else:
                y[rows].add_(torch.mm(torch.mm(x[rows], self._a[slot]), self._b[slot]), alpha=scale)

    def share(self, x: Tensor, groups: Groups) -> Tensor:
        """What the adapters add to a layer's output: (N, outputs), zero in rows of the base. x: (N, in)."""
        slot, rows = groups[0]
        if isinstance(rows, slice) and rows.stop - rows.start == len(x):  # all rows are of one adapter
            return torch.mm(torch.mm(x, self._a[slot]), self._b[slot])
        added = x.new_zeros(len(x), self.outputs)
        self.add(added, x, groups, 1.0)
        return added


Stock = punica_cpu.PunicaWrapperCPU  # kept: `register` puts ours in its place


class GroupedPunicaWrapper(Stock):  # type: ignore[misc, valid-type]
    """vLLM's wrapper with the two operations that our adapters use done by groups."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._packed: dict[int, PackedWeights] = {}  # by the identity of what vLLM's layer holds for good
        self._token_groups: Groups = []
        self._sampler_groups: Groups = []
        self._output_groups: Groups | None = None  # those that have weights in the output layer

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Called when the adapters of a batch's tokens are not those of the batch before."""
        super().update_metadata(*args, **kwargs)
        self._token_groups = group_rows(self.token_lora_indices.tolist())
        self._sampler_groups = group_rows(self.sampler_indices.tolist())
        self._output_groups = None

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
        if self._token_groups:
            packed = self._weights(lora_a_stacked, lora_b_stacked)
            packed.add(_rows(y), _rows(x), self._token_groups, scale)

    def share(
        self, x: Tensor, lora_a_stacked: tuple[Tensor, ...], lora_b_stacked: tuple[Tensor, ...]
    ) -> Tensor | None:
        """What adapters add to a linear layer's output, (..., outputs); None where none does."""
        if not self._token_groups:
            return None
        share = self._weights(lora_a_stacked, lora_b_stacked).share(_rows(x), self._token_groups)
        return share.view(*x.shape[:-1], -1)

    def add_lora_logits(
        self, y: Tensor, x: Tensor, lora_a_stacked: Tensor, lora_b_stacked: Tensor, scale: float, **_: Any
    ) -> None:
        """Add each adapter's share to the logits, in place: of the rows that tokens are sampled for."""
        if self._output_groups is None:
            has = {slot: bool(lora_b_stacked[slot].any()) for slot, _ in self._sampler_groups}
            self._output_groups = [group for group in self._sampler_groups if has[group[0]]]
        if self._output_groups and len(_rows(x)) == len(self.sampler_indices):
            packed = self._weights((lora_a_stacked,), (lora_b_stacked,), key=id(lora_a_stacked))
            packed.add(_rows(y), _rows(x), self._output_groups, scale)

    def _weights(
        self, lora_a: tuple[Tensor, ...], lora_b: tuple[Tensor, ...], key: int | None = None
    ) -> PackedWeights:
        key = id(lora_a) if key is None else key
        packed = self._packed.get(key)
        if packed is None:
            packed = self._packed[key] = PackedWeights(lora_a, lora_b)
        return packed


def _rows(x: Tensor) -> Tensor:
    return x if x.ndim == 2 else x.view(-1, x.shape[-1])


def register() -> None:
    """vLLM calls this in each of its processes (entry point group `vllm.general_plugins`)."""
    punica_cpu.PunicaWrapperCPU = GroupedPunicaWrapper
    if current_platform.is_cpu():
        cpu_seeds.register()
        cpu_norms.register()
        cpu_linear.register()
