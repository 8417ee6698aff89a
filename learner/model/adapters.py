"""An adapter's weights in one piece of memory, and their gradients in another; and in another rank."""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from learner.model.blocks import PROJECTIONS

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
    projection = name.split(".lora_")[0].rpartition(".")[2]
    known = projection in GROUP
    return (
        layer_of(name),
        GROUP[projection] if known else len(GROUP),
        ".lora_B." in name,
        ORDER.index(projection) if known else 0,
        name,
    )


def layer_of(name: str) -> int:
    """The number of the layer that a weight belongs to, -1 for one of none."""
    found = re.search(r"\.layers\.(\d+)\.", name)
    return int(found[1]) if found else -1


class LayersTooFew(ValueError):
    """A model cannot take over an adapter that changes layers on which its own have no weights."""


class RankTooLow(ValueError):
    """A model cannot take over an adapter of a higher rank than its own."""


def rank_of(state: Mapping[str, Tensor]) -> int:
    """The highest rank of an adapter's pairs, which are all of one rank in adapters of ours."""
    return max(len(value) for name, value in state.items() if ".lora_A." in name)


def on_layers_of(ours: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same adapter with weights on the layers that `ours` has some on, in its own rank.

    Raises `LayersTooFew` when it changes others.
    """
    mine, theirs = set(map(layer_of, ours)), set(map(layer_of, state))
    changed = {layer_of(name) for name, value in state.items() if ".lora_B." in name and value.any()}
    if beyond := sorted(changed - mine):
        raise LayersTooFew(
            f"an adapter changes layer {beyond[0]} of the model, and those of this learner begin at "
            f"{min(mine)}; a larger learner.adapted_layers is needed, 1 for all layers"
        )
    found = {name: value for name, value in state.items() if layer_of(name) in mine}
    new = {name: value for name, value in ours.items() if layer_of(name) in mine - theirs}
    return {**found, **_fresh(new, rank_of(state))} if new else found


def _fresh(like: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """Weights of a rank that change nothing, always the same, named and shaped like others."""
    none = {
        name: value.new_zeros(0, value.shape[1]) if ".lora_A." in name else value.new_zeros(len(value), 0)
        for name, value in like.items()
    }
    return embed(none, rank, 1.0)


def embed(state: Mapping[str, Tensor], rank: int, ratio: float) -> dict[str, Tensor]:
    """The same adapter in a rank that is not lower, with all of B times `ratio`.

    state: each A (r, in) and B (out, r) by its name in an adapter file. ratio: what alpha / r is there over
    what it is here, so that the change of the base stays what it was. New rows of A are drawn as for a fresh
    adapter (He et al. 2015, as peft does it) and always the same, new columns of B are zero: they change
    nothing, and can be trained.
    """
    found = {}
    for index, (name, value) in enumerate(sorted(state.items())):
        if ".lora_B." in name:
            new = value.new_zeros(len(value), rank - value.shape[1])
            found[name] = torch.cat([value * ratio, new], dim=1)
        else:
            draw = torch.Generator().manual_seed(index)
            bound = 1 / math.sqrt(value.shape[1])
            new = (2 * torch.rand(rank - len(value), value.shape[1], generator=draw) - 1) * bound
            found[name] = torch.cat([value, new.to(value.dtype)])
    return found
