"""The decoder blocks in bfloat16, by `trunk.cpp`: a whole pass is one call, and so is its gradient.

Shapes: T packed tokens of B rows, of which P are wanted, H hidden size, N weights of an adapter.
"""

from collections.abc import Mapping, Sequence
from ctypes import CDLL, Array, Structure, addressof, byref, c_double, c_int64, c_void_p
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from learner.batching import Batch
from learner.model.blocks import PROJECTIONS, Block, PackedTrunk, Unsuitable
from learner.model.native import LANES, pointers

GROUPS = len(PROJECTIONS)


class _Group(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("inputs", "outputs", "parts")),
        ("sizes", c_int64 * 3),
        *((name, c_void_p) for name in ("forward", "backward", "bias")),
    )


class _Layer(Structure):
    _fields_ = (("groups", _Group * GROUPS), ("norm_1", c_void_p), ("norm_2", c_void_p))


class _Trunk(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("layers", "hidden", "inner", "heads", "kv_heads", "head")),
        ("eps", c_double),
        *((name, c_void_p) for name in ("embedding", "norm", "layer")),
    )


class _Adapter(Structure):
    _fields_ = (
        ("rank", c_int64),
        ("count", c_int64),
        ("scale", c_double),
        *((name, c_void_p) for name in ("weights", "offsets", "packed")),
    )


class _Pass(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("rows", "outputs", "first", "layers", "whole", "keeps")),
        *((name, c_int64) for name in ("threads", "tapped")),
        *((name, c_void_p) for name in ("starts", "tokens", "wanted", "taps", "cos", "sin", "inputs")),
        *((name, c_void_p) for name in ("states", "tap_states", "kept")),
    )


class NativeTrunk:
    """What a `PackedTrunk` computes, in bfloat16. Raises `Unsuitable` for sizes that it is not made for.

    weights: each adapter's weights, (N,), of which the blocks' parameters are views.
    """

    def __init__(self, library: CDLL, packed: PackedTrunk, weights: Mapping[str, Tensor]) -> None:
        blocks, embedding, norm, one = packed.blocks, packed.embedding, packed.norm, packed.blocks[0]
        inner = one.adapted(None, GROUPS - 1).weight.shape[1]
        sizes = {"hidden size": embedding.shape[1], "intermediate size": inner, "size of a head": one.head}
        for name, size in sizes.items():
            if size % LANES:
                raise Unsuitable(f"its {name}, {size}, is not a multiple of {LANES}")
        if embedding.dtype != torch.float32 or embedding.device.type != "cpu":
            raise Unsuitable(
                f"its weights are {embedding.dtype} on {embedding.device.type}, not float32 on a CPU"
            )
        library.hearken_adapter_size.restype = library.hearken_kept_size.restype = c_int64
        self._library, self._packed, self._weights = library, packed, dict(weights)
        self._pointed_to: list[Tensor] = []
        self._layers: Array[_Layer] = (_Layer * len(blocks))(*map(self._layer, blocks))
        self._trunk = _Trunk(
            layers=len(blocks),
            hidden=embedding.shape[1],
            inner=inner,
            heads=one.heads,
            kv_heads=one.kv_heads,
            head=one.head,
            eps=one.eps,
            embedding=embedding.data_ptr(),
            norm=norm.data_ptr(),
            layer=addressof(self._layers),
        )
        self._adapters = {name: self._adapter(blocks, name) for name in weights}
        self._turns = torch.empty(0), torch.empty(0)

    def states(
        self, batch: Batch, adapter: str | None, *, layers: int | None = None, wanted: Tensor | None = None
    ) -> Tensor:
        """The states (T, H) after the first `layers` blocks, or after all and the final norm; only the rows
        `wanted` (P,), which ascend, if given. Differentiable in the adapter's weights."""
        frozen = self._packed.frozen
        if adapter is None or (layers is not None and layers <= frozen):
            flat, adapter = self._packed.embedding, None
        else:
            flat = self._weights[adapter]
            if frozen and batch.lower is None:  # an adapter has nothing for the blocks below
                batch = replace(batch, lower=self.base_states(batch, frozen, None, ())[0])
        found: Tensor = _States.apply(flat, self, batch, adapter, layers, wanted)  # type: ignore[no-untyped-call]
        return found

    def base_states(
        self, batch: Batch, layers: int | None, wanted: Tensor | None, taps: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """The base's states (P, H) as `states` gives them, and in the same pass those after `taps` blocks
        each, rising and fewer than `layers`, (L, P, H). Without gradient."""
        found, (_, held) = self.forward(batch, None, layers, wanted, False, taps)
        return found, held[-1]

    # ---- what the library is given

    def _layer(self, block: Block) -> _Layer:
        groups = (self._group(block, index) for index in range(GROUPS))
        return _Layer((_Group * GROUPS)(*groups), block.norm_1.data_ptr(), block.norm_2.data_ptr())

    def _group(self, block: Block, index: int) -> _Group:
        base, (some, *_) = block.adapted(None, index), self._weights
        if not isinstance(base.weight, Tensor):
            raise Unsuitable("its base is held in fewer than 16 bits")
        sizes = [len(part) for part in block.adapted(some, index).up]
        outputs, inputs = base.weight.shape
        forward, backward = torch.empty(2, outputs * inputs, dtype=torch.bfloat16)
        self._library.hearken_pack(
            c_void_p(base.weight.data_ptr()),
            c_int64(outputs),
            c_int64(inputs),
            c_void_p(forward.data_ptr()),
            c_void_p(backward.data_ptr()),
        )
        self._pointed_to += [forward, backward]
        return _Group(
            inputs=inputs,
            outputs=outputs,
            parts=len(sizes),
            sizes=(c_int64 * 3)(*sizes),
            forward=forward.data_ptr(),
            backward=backward.data_ptr(),
            bias=None if base.bias is None else base.bias.data_ptr(),
        )

    def _adapter(self, blocks: Sequence[Block], name: str) -> _Adapter:
        flat, frozen = self._weights[name], self._packed.frozen
        one = blocks[frozen].adapted(name, 0)
        groups = [block.adapted(name, index) for block in blocks[frozen:] for index in range(GROUPS)]
        starts = [group.parameters[0].data_ptr() - flat.data_ptr() for group in groups]
        offsets = torch.tensor([0] * (GROUPS * frozen) + starts) // flat.element_size()
        found = _Adapter(
            rank=one.up[0].shape[1],
            count=len(flat),
            scale=one.scale,
            weights=flat.data_ptr(),
            offsets=offsets.data_ptr(),
        )
        room = self._library.hearken_adapter_size(byref(self._trunk), byref(found))
        packed = torch.zeros(room, dtype=torch.bfloat16)
        found.packed = packed.data_ptr()
        self._pointed_to += [offsets, packed]
        return found

    def turns(self, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin, (length or more, d / 2), of the first positions."""
        if len(self._turns[0]) < length:
            self._turns = self._packed.turns(torch.arange(length))
        return self._turns

    def forward(
        self,
        batch: Batch,
        adapter: str | None,
        layers: int | None,
        wanted: Tensor | None,
        keeps: bool,
        taps: Sequence[int] = (),
    ) -> tuple[Tensor, "_Held"]:
        """The states that `states` gives, and what `backward` takes, if what they are made of `keeps`.

        The last of the tensors held are the states (L, P, H) after `taps` blocks each, fewer than `layers`.
        """
        lengths = (batch.final - torch.arange(len(batch.final)) * batch.tokens.shape[1]) + 1
        starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        tokens = batch.tokens.flatten()[batch.real]
        if not 0 <= int(tokens.min()) <= int(tokens.max()) < len(self._packed.embedding):
            raise IndexError(f"tokens are not all from 0 to {len(self._packed.embedding) - 1}")
        wanted = torch.arange(len(tokens)) if wanted is None else wanted
        count = self._trunk.layers if layers is None else layers
        frozen = self._packed.frozen
        lower = None if batch.lower is None or count < frozen else batch.lower.float().contiguous()
        states = torch.empty(len(wanted), self._trunk.hidden)
        tapped, tap_states = torch.tensor(taps), torch.empty(len(taps), len(wanted), self._trunk.hidden)
        cos, sin = self.turns(batch.tokens.shape[1])
        call = _Pass(
            rows=len(lengths),
            outputs=len(wanted),
            first=0 if lower is None else frozen,
            layers=count,
            whole=layers is None,
            keeps=keeps,
            threads=min(len(lengths), torch.get_num_threads()),
            tapped=len(taps),
            starts=starts.data_ptr(),
            tokens=tokens.data_ptr(),
            wanted=wanted.data_ptr(),
            taps=tapped.data_ptr(),
            cos=cos.data_ptr(),
            sin=sin.data_ptr(),
            inputs=None if lower is None else lower.data_ptr(),
            states=states.data_ptr(),
            tap_states=tap_states.data_ptr(),
        )
        chosen = None if adapter is None else byref(self._adapters[adapter])
        size = self._library.hearken_kept_size(byref(self._trunk), chosen, byref(call))
        kept = torch.empty(size, dtype=torch.uint8)
        call.kept = kept.data_ptr()
        self._library.hearken_forward(byref(self._trunk), chosen, byref(call))
        lent = torch.empty(0) if lower is None else lower
        return states, (call, (starts, tokens, wanted, tapped, cos, sin, lent, kept, tap_states))

    def backward(self, adapter: str, held: "_Held", d_states: Tensor) -> Tensor:
        """The gradient (N,) of the adapter's weights from that of the states (P, H)."""
        gradient, d_states = torch.empty_like(self._weights[adapter]), d_states.contiguous()
        self._library.hearken_backward(
            byref(self._trunk),
            byref(self._adapters[adapter]),
            byref(held[0]),
            *pointers(d_states, gradient),
        )
        return gradient


_Held = tuple[_Pass, tuple[Tensor, ...]]
"""A pass, and the tensors that it points to."""


class _States(torch.autograd.Function):
    """`NativeTrunk.forward` as a function of an adapter's weights."""

    @staticmethod
    def forward(
        ctx: Any,
        flat: Tensor,
        trunk: NativeTrunk,
        batch: Batch,
        adapter: str | None,
        layers: int | None,
        wanted: Tensor | None,
    ) -> Tensor:
        states, held = trunk.forward(batch, adapter, layers, wanted, ctx.needs_input_grad[0])
        ctx.trunk, ctx.adapter, ctx.held = trunk, adapter, held
        return states

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return ctx.trunk.backward(ctx.adapter, ctx.held, grads[0]), None, None, None, None, None
