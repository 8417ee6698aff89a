"""Matrix products in bfloat16 on a CPU, in few shapes.

oneDNN, which computes them for torch, compiles a product anew for every shape that it meets and keeps it:
half a megabyte each, up to a thousand of them. Packed batches have another number of tokens every time. So a
product goes through in tiles of a few fixed sizes, and what is between is filled up with zeros.
"""

from functools import cache

import torch
from torch import Tensor

TILES = (640, 384, 128)
"""Rows of a product, the largest first. More sizes take more memory, fewer more calls; what is left of the
smallest is filled up with zeros."""

RANKS = 32
"""What the rank of a stack of adapters is filled up to a multiple of."""

COUNT, WIDTH = 8, 16
"""Of batched products: so many matrices at a time, for every head of keys, and rows of a multiple of so many
tokens."""


def up_to(count: int, multiple: int) -> int:
    """The next multiple, from `count` on."""
    return count + -count % multiple


def filled(places: Tensor) -> Tensor:
    """places: (T,) with the first of them again, up to whole tiles."""
    return torch.cat([places, places[:1].expand(-len(places) % TILES[-1])])


def rounded(x: Tensor) -> Tensor:
    """x: (T, H) in bfloat16, with zeros below, up to whole tiles."""
    count, width = x.shape
    out = x.new_empty(up_to(count, TILES[-1]), width, dtype=torch.bfloat16)
    out[:count] = x
    out[count:].zero_()
    return out


def product(x: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """x @ weight (T, N) of x: (T, K), whole tiles, and weight: (K, N), both in bfloat16."""
    if len(x) in TILES:
        return torch.mm(x, weight, out=out)
    if out is None:
        out = x.new_empty(len(x), weight.shape[1])
    for rows in _tiles(len(x)):
        torch.mm(x[rows], weight, out=out[rows])
    return out


def product_of_columns(one: Tensor, two: Tensor) -> Tensor:
    """one.T @ two (M, N), float32, of (T, M) and (T, N), whole tiles, in bfloat16."""
    parts = [torch.mm(one[rows].t(), two[rows]) for rows in _tiles(len(one))]
    found = parts[0].float()
    for part in parts[1:]:
        found += part
    return found


def batched(one: Tensor, two: Tensor, count: int) -> Tensor:
    """one @ two (B', M, N) of B' pairs of matrices, a multiple of `count`, so many at a time."""
    out = one.new_empty(len(one), one.shape[1], two.shape[2])
    for start in range(0, len(one), count):
        part = slice(start, start + count)
        torch.bmm(one[part], two[part], out=out[part])
    return out


@cache
def _tiles(count: int) -> tuple[slice, ...]:
    found: list[slice] = []
    start = 0
    for size in TILES:
        while count - start >= size:
            found.append(slice(start, start + size))
            start += size
    return tuple(found)
