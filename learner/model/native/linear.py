"""A linear layer by `linear.cpp`: for engines, which add an adapter's share before they round."""

from collections.abc import Callable

import torch
from torch import Tensor

from learner.model import native
from learner.model.native import LANES, numbers, pointers

Linear = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
"""x @ W.T + bias + share, rounded once. x: (..., in); share, if any, and the result: (..., out)."""


def compiled(weight: Tensor) -> Linear:
    """The product with a layer's weight (out, in) in bfloat16; out is a multiple of `LANES`, in is even. The
    library has to be there."""
    library = native.library()
    assert library is not None
    outputs, inputs = weight.shape
    packed, weight = torch.empty(outputs * inputs, dtype=torch.bfloat16), weight.detach().contiguous()
    library.hearken_pack_linear(*pointers(weight), *numbers(outputs, inputs), *pointers(packed))

    def linear(x: Tensor, bias: Tensor | None, share: Tensor | None) -> Tensor:
        rows = x.reshape(-1, inputs)
        rows = rows if rows.stride(1) == 1 else rows.contiguous()
        y = x.new_empty(*x.shape[:-1], outputs)
        bias = None if bias is None else bias.float()
        share = None if share is None else share.to(torch.bfloat16).contiguous()
        library.hearken_linear(
            *pointers(rows),
            *numbers(rows.stride(0), len(rows)),
            *pointers(packed),
            *numbers(inputs, outputs),
            *pointers(bias, share, y),
            *numbers(torch.get_num_threads()),
        )
        return y

    return linear


def faster(weight: Tensor) -> Linear | None:
    """`compiled` where that is faster than oneDNN; None elsewhere, and for sizes that it does not take."""
    outputs, inputs = weight.shape
    library = native.library()
    if library is None or not library.hearken_widens() or outputs % LANES or inputs % 2:
        return None
    return compiled(weight)
