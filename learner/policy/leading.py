"""A learner on several processes: rank 0 learns, the others compute their share of its steps.

Rank 0 reads the log, samples, judges, publishes and saves as if it were alone. Before each computation that
all ranks share, it sends all that this depends on, so the others have nothing to remember and cannot drift.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from learner.model.ranks import Ranks
from learner.model.shared import LIVE
from learner.optimiser import Optimiser

Led = TypeVar("Led", bound=Optimiser)


@dataclass(frozen=True, slots=True)
class _Call:
    """A method of the optimiser, what it is called with, and the state in which it is called."""

    name: str
    arguments: tuple[Any, ...]
    live: dict[str, Tensor]
    optimiser: dict[str, Any]


def lead(optimiser: Led) -> Led:
    """The optimiser of rank 0, in whose `measure` and `step` the others take part while they `follow`."""

    def announce(name: str, *arguments: Any) -> None:
        if optimiser.ranks.world > 1:
            live = optimiser.model.adapter_state(LIVE)
            optimiser.ranks.send(_Call(name, arguments, live, optimiser.snapshot()))

    optimiser.announce = announce
    return optimiser


def keep_waiting(ranks: Ranks) -> None:
    """Tell the others that there is nothing to do yet: they take long silence for a broken connection."""
    ranks.send("wait")


def dismiss(ranks: Ranks) -> None:
    """Let the others end."""
    ranks.send("end")


def follow(optimiser: Optimiser) -> None:
    """Take part in what rank 0 computes until it is done. Raises `RankGone` when rank 0 is gone."""
    while (call := optimiser.ranks.receive()) != "end":
        if isinstance(call, _Call):
            optimiser.model.load_adapter_state(LIVE, call.live)
            optimiser.restore(call.optimiser)
            getattr(optimiser, call.name)(*call.arguments)
