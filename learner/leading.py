"""A learner on several processes: rank 0 learns, the others compute their share of its PPO steps.

Rank 0 reads the log, samples, judges, publishes and saves as if it were alone. Before each computation that
all ranks share, it sends all that this depends on, so the others have nothing to remember and cannot drift.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from learner.model import LIVE
from learner.ppo import PPO


@dataclass(frozen=True, slots=True)
class _Call:
    """A method of PPO, what it is called with, and the state in which it is called."""

    name: str
    arguments: tuple[Any, ...]
    live: dict[str, Tensor]
    ppo: dict[str, Any]


class LeadingPPO(PPO):
    """PPO on rank 0, whose `measure` and `step` the other ranks take part in while they `follow`."""

    def keep_waiting(self) -> None:
        """Tell the others that there is nothing to do yet: they take long silence for a broken connection."""
        self.ranks.send("wait")

    def dismiss(self) -> None:
        """Let the others end."""
        self.ranks.send("end")

    def _announce(self, name: str, *arguments: Any) -> None:
        if self.ranks.world > 1:
            live = self.model.adapter_state(LIVE)
            self.ranks.send(_Call(name, arguments, live, self.snapshot()))


def follow(ppo: PPO) -> None:
    """Take part in what rank 0 computes until it is done. Raises `RankGone` when rank 0 is gone."""
    while (call := ppo.ranks.receive()) != "end":
        if isinstance(call, _Call):
            ppo.model.load_adapter_state(LIVE, call.live)
            ppo.restore(call.ppo)
            getattr(ppo, call.name)(*call.arguments)
