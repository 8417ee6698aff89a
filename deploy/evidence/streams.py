"""What users said, as numbers in the order of their times, and bets on them that go on where they were."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.evidence.betting import Array, capitals, mixed
from deploy.evidence.matching import Observation
from deploy.evidence.units import Unit

WEIGHT = 0.5
"""Of a preference beside a thumb in the evidence: what it moves over its variance, about half of a
thumb's."""

MOST_VOTES = 5
"""Votes of one user that count for how often people vote: one who votes all the time is one user."""


class Stream(NamedTuple):
    """Gains and their times, in order: (n,) each."""

    times: Array
    gains: Array

    def heard_by(self, at: Array) -> NDArray[np.int64]:
        """How many there were at given times: (m,) -> (m,)."""
        return np.searchsorted(self.times, at, side="right")

    def known(self) -> "Stream":
        """Those that are not nan."""
        there = ~np.isnan(self.gains)
        return Stream(self.times[there], self.gains[there])


class Heard(NamedTuple):
    """What was observed: (n,) each. thumbs: T, preferences: C; nan where a user said nothing of the kind."""

    times: Array
    thumbs: Array
    preferences: Array

    def given_thumbs(self) -> Stream:
        """T of those who gave one."""
        return Stream(self.times, self.thumbs).known()

    def given_preferences(self) -> Stream:
        """C of those who chose."""
        return Stream(self.times, self.preferences).known()

    def both(self) -> Stream:
        """T + `WEIGHT` C of each user, in [-1 - WEIGHT, 1 + WEIGHT]."""
        return Stream(self.times, np.nan_to_num(self.thumbs) + WEIGHT * np.nan_to_num(self.preferences))


class Ballots(NamedTuple):
    """How often users of both buckets vote, in windows by closing time: (n,) each.

    canary: whether they are the canary's. votes: how many, as a share of `MOST_VOTES`, so at most 1.
    """

    times: Array
    canary: NDArray[np.bool_]
    votes: Array

    def less(self, share: float, *, canary: bool) -> Stream:
        """Its mean is at most 0 where this bucket votes less often than the other, by `share` at least."""
        mine = self.canary == canary
        return Stream(self.times, np.where(mine, self.votes, -(1 - share) * self.votes))


class Bets:
    """Bets on a stream that comes in pieces. H0: "`sign` times the mean is at most -margin"."""

    __slots__ = ("_logs", "_margin", "_sign")

    def __init__(self, margin: float = 0.0, sign: float = 1.0) -> None:
        self._margin, self._sign = margin, sign
        self._logs: Array | None = None  # of what became of each bet's stake; replaced, never changed

    def copy(self) -> "Bets":
        """Bets that go on by themselves."""
        copied = Bets(self._margin, self._sign)
        copied._logs = self._logs
        return copied

    def take(self, piece: Stream, at: Array) -> Array:
        """log E at given times, the last of which is not before the last gain of the piece: (m,) -> (m,)."""
        logs = capitals(self._sign * piece.gains + self._margin, self._logs)
        self._logs = logs[:, -1]
        return np.asarray(mixed(logs)[piece.heard_by(at)])


def heard(observations: Sequence[Observation]) -> Heard:
    """Observations as arrays."""
    return Heard(
        np.array([each.at for each in observations], dtype=np.float64),
        np.array([each.difference for each in observations], dtype=np.float64),
        np.array([each.preference for each in observations], dtype=np.float64),
    )


def ballots(units: Iterable[Unit]) -> Ballots:
    """How often users of both buckets voted."""
    voted = [unit for unit in units if unit.votes]
    return Ballots(
        np.array([unit.closes_at for unit in voted], dtype=np.float64),
        np.array([unit.side == "new" for unit in voted], dtype=np.bool_),
        np.array([min(unit.votes, MOST_VOTES) / MOST_VOTES for unit in voted], dtype=np.float64),
    )
