"""The output layer by `head.cpp`: logits stay in a core's cache until all is there that is wanted of them.

Shapes: N states of size H, V entries in the vocabulary.
"""

import logging
from collections.abc import Sequence
from ctypes import CDLL, Structure, byref, c_int64, c_void_p

import torch
from torch import Tensor

from learner.model import native
from learner.model.blocks import Unsuitable
from learner.model.head import NextTokens, OutputLayer
from learner.model.native import LANES, numbers, pointers

logger = logging.getLogger("hearken.learner")


class _Head(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("width", "entries")),
        *((name, c_void_p) for name in ("forward", "backward", "bias")),
    )


class NativeOutputLayer(OutputLayer):
    """An output layer whose weights are numbers in bfloat16, as the files of most models have them, though
    they are held in float32. Raises `Unsuitable` for another one.

    A state is taken apart into two numbers in bfloat16, as on a GPU. Chances, by which a gradient is made,
    are rounded to one: the blocks below take no more of it.
    """

    def __init__(self, library: CDLL, layer: OutputLayer) -> None:
        self.weight, self.bias = layer.weight, layer.bias
        entries, width = self.weight.shape
        if entries % LANES or width % LANES:
            raise Unsuitable(f"its output layer's sizes, {entries} and {width}, are no multiples of {LANES}")
        if self.weight.dtype != torch.float32 or not _is_bf16(self.weight):
            raise Unsuitable("its output layer has more digits than bfloat16")
        self._library = library
        self._packed = torch.empty(2, entries * width, dtype=torch.bfloat16)
        forward, backward = (c_void_p(part.data_ptr()) for part in self._packed)
        bias = None if self.bias is None else self.bias.data_ptr()
        library.hearken_pack(
            c_void_p(self.weight.data_ptr()), c_int64(entries), c_int64(width), forward, backward
        )
        self._head = _Head(width, entries, forward, backward, bias)

    def token_logprobs(
        self, states: Tensor, tokens: Tensor, *, with_gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        states, tokens = _whole(states), self._checked(tokens)
        chosen, means = torch.empty(len(tokens)), torch.empty_like(states) if with_gradient else None
        self._library.hearken_token_logprobs(
            byref(self._head),
            *pointers(states, tokens),
            *numbers(len(tokens), torch.get_num_threads()),
            *pointers(chosen, means),
        )
        return chosen, None if means is None else self.weight[tokens].sub_(means)

    def compare(self, states: Tensor, others: Sequence[Tensor], tokens: Tensor) -> NextTokens:
        states, tokens = _whole(states), self._checked(tokens)
        beside = torch.stack([_whole(other) for other in others]) if others else states.new_empty(0)
        found = NextTokens(
            *torch.empty(2, len(tokens)).unbind(), *torch.empty(2, len(others), len(tokens)).unbind()
        )
        self._library.hearken_compare(
            byref(self._head),
            *pointers(states, beside, tokens),
            *numbers(len(tokens), len(others), torch.get_num_threads()),
            *pointers(found.logprobs, found.entropies, found.other_logprobs, found.kl_nats),
        )
        return found

    def _checked(self, tokens: Tensor) -> Tensor:
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < len(self.weight):
            raise IndexError(f"tokens are not all from 0 to {len(self.weight) - 1}")
        return tokens.contiguous()


def compiled(layer: OutputLayer, name: str) -> OutputLayer:
    """The output layer of a model, compiled if it is suited to that; the log says why it is not. The library
    has to be there."""
    library = native.library()
    assert library is not None
    try:
        return NativeOutputLayer(library, layer)
    except Unsuitable as why:
        logger.info("logits of %s are made by torch: %s", name, why)
        return layer


def _whole(states: Tensor) -> Tensor:
    return states.float().contiguous()


def _is_bf16(weight: Tensor) -> bool:
    return all(bool((part == part.bfloat16()).all()) for part in torch.split(weight, 4096))
