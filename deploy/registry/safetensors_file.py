"""Safetensors files, read with nothing but the standard library: what tensors there are, and whether all of
their numbers are numbers.

A file is a little-endian 64-bit length, as many bytes of JSON (name -> dtype, shape, data_offsets), and the
data (https://github.com/huggingface/safetensors, "Format").
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class Broken(ValueError):
    """The file is not what its header says, or has none."""


class Tensor(NamedTuple):
    """One tensor; its values are `data[start:end]`, in C order and little-endian."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


# dtype -> bytes of a value, and where in these bytes the exponent is: (byte, mask) pairs. With all of its
# bits set a value is infinite or not a number.
_EXPONENTS: Mapping[str, tuple[int, tuple[tuple[int, int], ...]]] = {
    "F32": (4, ((3, 0x7F), (2, 0x80))),
    "BF16": (2, ((1, 0x7F), (0, 0x80))),
    "F16": (2, ((1, 0x7C),)),
}


def read_tensors(data: bytes) -> dict[str, Tensor]:
    """The tensors of a file. Raises `Broken` for a header that is none, that says something of bytes that are
    not there, or that says nothing of some that are, and for values that are no floats."""
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= len(data) - 8:
        raise Broken("it does not have that format's header")
    try:
        header = json.loads(data[8 : 8 + length], object_pairs_hook=_once)
        header.pop("__metadata__", None)
        found = {name: _tensor(entry, 8 + length) for name, entry in header.items()}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise Broken(f"it does not have that format's header: {str(error)[:200]}") from error
    place = 8 + length
    for name, tensor in sorted(found.items(), key=lambda item: item[1].start):
        if tensor.start != place:
            raise Broken(f"{name} begins at byte {tensor.start}, not where the tensor before it ends")
        place = tensor.end
    if place != len(data):
        raise Broken(f"it has {len(data)} bytes, its header speaks of {place}")
    return found


def is_finite(tensor: Tensor, data: bytes) -> bool:
    """Whether no value is infinite or not a number."""
    size, exponent = _EXPONENTS[tensor.dtype]
    values = memoryview(data)[tensor.start : tensor.end]
    wrong = -1  # one byte for each value, as one large number: all of them at once
    for byte, mask in exponent:
        is_full = bytes(1 if value & mask == mask else 0 for value in range(256))
        wrong &= int.from_bytes(bytes(values[byte::size]).translate(is_full), "little")
    return wrong == 0


def _tensor(entry: Any, data_at: int) -> Tensor:
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    start, end = entry["data_offsets"]
    if dtype not in _EXPONENTS:
        raise ValueError(f"{dtype!r} is not one of {', '.join(_EXPONENTS)}")
    if not all(type(each) is int and each >= 0 for each in (*shape, start, end)):
        raise ValueError("shapes and offsets are whole numbers")
    if end - start != math.prod(shape) * _EXPONENTS[dtype][0]:
        raise ValueError(f"{shape} of {dtype} are not {end - start} bytes")
    return Tensor(dtype, shape, data_at + start, data_at + end)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names occur once: two readers must not find two tensors under one name."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found
