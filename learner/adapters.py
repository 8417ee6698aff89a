"""An adapter's weights in one piece of memory, and their gradients in another."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from learner.blocks import PROJECTIONS

ORDER = [name for _, names in PROJECTIONS for name in names]
GROUP = {name: index for index, (_, names) in enumerate(PROJECTIONS) for name in names}


class FlatAdapter:
    """The parameters of one adapter as views of `weights`: (N,), so that an optimiser step, a norm or a sum
    over ranks is one operation. Their gradients are views of `weights.grad`.

    The matrices A of projections with one input lie one after the other: together they are one matrix.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = dict(parameters)
        ordered = [self.parameters[name] for name in sorted(self.parameters, key=_place)]
        with torch.no_grad():
            self.weights = nn.Parameter(torch.cat([parameter.flatten() for parameter in ordered]))
        self.weights.grad = torch.zeros_like(self.weights)
        sizes = [parameter.numel() for parameter in ordered]
        places = zip(
            ordered,
            torch.split(self.weights.detach(), sizes),
            torch.split(self.weights.grad, sizes),
            strict=True,
        )
        self._gradients: list[tuple[nn.Parameter, Tensor]] = []
        for parameter, values, gradient in places:
            parameter.data = values.view_as(parameter)
            self._gradients.append((parameter, gradient.view_as(parameter)))

    def zero_grad(self) -> Tensor:
        """Set the gradients to 0; what a backward pass adds to the parameters' appears in the result (N,)."""
        assert self.weights.grad is not None
        self.weights.grad.zero_()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        return self.weights.grad


def _place(name: str) -> tuple[int, int, bool, int, str]:
    """Order by layer, by group of projections with one input, A before B, by projection."""
    layer = re.search(r"\.layers\.(\d+)\.", name)
    projection = name.split(".lora_")[0].rpartition(".")[2]
    known = projection in GROUP
    return (
        int(layer[1]) if layer else -1,
        GROUP[projection] if known else len(GROUP),
        ".lora_B." in name,
        ORDER.index(projection) if known else 0,
        name,
    )
