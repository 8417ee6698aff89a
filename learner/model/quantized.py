"""A frozen base in 8 or 4 bits, by bitsandbytes.

As in QLoRA (Dettmers et al. 2023, arXiv:2305.14314) the weights of the blocks' linear layers are kept in few
bits, with a scale for each `BLOCK` of them and the scales in 8 bits themselves, and are made whole for as
long as a product takes. 4 bits are NF4. 8 bits are evenly spaced: of weights that are spread normally this
loses .006 (relative error), bitsandbytes' default .010. Embeddings, output layer, norms, biases and adapters
stay as they are.

An engine serves the base as its files have it, which is another base. Passes that are to say what is served
read a layer's weights from the files again (`Served`), one after the other, so that no more memory is taken.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

BLOCK = 64  # weights with one scale, as in the paper


class CannotQuantize(ValueError):
    """The base cannot be had in so few bits; the message says why, and what to do."""


class Served:
    """The base's weights as they are served: in its safetensors files.

    dtype: that of the base. acts: whether passes use them now, see `acting`.
    """

    def __init__(self, files: Sequence[Path], dtype: torch.dtype) -> None:
        self.dtype, self.acts = dtype, False
        self._files: dict[str, Path] = {}
        for path in files:
            with safe_open(path, framework="pt") as file:
                self._files |= dict.fromkeys(file.keys(), path)

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Let the layers compute with these weights. There is no gradient of that."""
        before, self.acts = self.acts, True
        try:
            with torch.no_grad():
                yield
        finally:
            self.acts = before

    def read(self, name: str, device: torch.device) -> Tensor:
        """A weight by its name in the files. Raises `KeyError`."""
        with safe_open(self._files[name], framework="pt") as file:
            found: Tensor = file.get_tensor(name)
        return found.to(device, self.dtype)


class QuantizedLinear(nn.Linear):
    """A frozen linear layer whose `weight` is in 8 or 4 bits, packed into bytes.

    linear: the layer that it stands for, with its weights as `served` has them under `name`. device: where
    the new one is to be.
    """

    def __init__(self, linear: nn.Linear, bits: int, served: Served, name: str, device: torch.device) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        weight = linear.weight.data.to(device, served.dtype).contiguous()
        packed, self._state = _quantized(weight, bits)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = linear.bias
        self._bits, self._served, self._name = bits, served, name

    @property
    def held_bytes(self) -> int:
        """What the weights take, their scales included."""
        state = self._state
        return sum(part.nbytes for part in (self.weight, state.absmax, state.state2.absmax))

    def whole(self) -> Tensor:
        """The weights (out, in), in the base's dtype."""
        if self._served.acts:
            return self._served.read(self._name, self.weight.device)
        from bitsandbytes import functional as library

        make = library.dequantize_4bit if self._bits == 4 else library.dequantize_blockwise
        found: Tensor = make(self.weight.data, self._state)
        return found.flatten()[: self.out_features * self.in_features].view(-1, self.in_features)

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output; in the backward pass the weights are made whole once more."""
        found: Tensor = _Product.apply(input, self)  # type: ignore[no-untyped-call]
        return found


class _Product(torch.autograd.Function):
    """x @ W.T + bias of a frozen layer, of which nothing is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return functional.linear(x, layer.whole().to(x.dtype), layer.bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return torch.matmul(grads[0], ctx.layer.whole().to(grads[0].dtype)), None


class Stack:
    """The weights of layers with one input, one below the other, (O, H); used like a tensor of them."""

    def __init__(self, layers: Sequence[QuantizedLinear]) -> None:
        self._layers = tuple(layers)
        self.shape = sum(layer.out_features for layer in layers), layers[0].in_features
        self.dtype = layers[0]._served.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def to(self, dtype: torch.dtype) -> Tensor:
        """The whole weights."""
        if len(self._layers) == 1:
            return self._layers[0].whole().to(dtype)
        found = torch.empty(self.shape, dtype=dtype, device=self._layers[0].weight.device)
        row = 0
        for layer in self._layers:
            found[row : row + layer.out_features] = layer.whole()
            row += layer.out_features
        return found


def quantize(base: nn.Module, names: Sequence[str], bits: int, served: Served, device: torch.device) -> None:
    """Put the linear layers of `base` whose last names are among `names` into 8 or 4 bits on `device`, each
    by itself: what it was is given up before the next one.

    Raises `CannotQuantize` when bitsandbytes is not there, or when a layer is not what the files have.
    """
    for path, linear in list(base.named_modules()):
        parent, _, name = path.rpartition(".")
        if name not in names or not isinstance(linear, nn.Linear):
            continue
        weight = f"{path}.weight"
        try:
            same = torch.equal(served.read(weight, device), linear.weight.data.to(device, served.dtype))
        except KeyError:
            same = False
        if not same:
            raise CannotQuantize(
                f"{weight} is not in the model's safetensors files as it is computed with, so it could not "
                "be told what is served; take base_bits = 16, or a folder that transformers has saved"
            )
        setattr(base.get_submodule(parent), name, QuantizedLinear(linear, bits, served, weight, device))


def _quantized(weight: Tensor, bits: int) -> tuple[Tensor, Any]:
    """A weight as bytes, and what they are scaled by. As one row of whole blocks: bitsandbytes 0.50.2 gets
    rows of another length wrong on CPUs (NF4), and compiles a kernel for odd ones."""
    weight = functional.pad(weight.flatten(), (0, -weight.numel() % BLOCK))
    try:
        from bitsandbytes import functional as library
    except ImportError as error:
        raise CannotQuantize(
            'a base in 8 or 4 bits needs bitsandbytes: pip install "hearken[quant]"'
        ) from error
    if bits == 4:
        packed, state = library.quantize_4bit(
            weight, blocksize=BLOCK, compress_statistics=True, quant_type="nf4"
        )
    else:
        even = library.create_linear_map(signed=True, total_bits=8)
        packed, state = library.quantize_blockwise(weight, code=even, blocksize=BLOCK, nested=True)
    return packed, state
