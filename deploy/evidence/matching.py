"""Whom a user is compared with: users of the other policy who were heard at the same time.

The mood of all users moves, with the hour of the day and with the news. Two sides that are heard at different
times, because one of them votes sooner, would differ by it. So each user of the smaller side is compared with
the newest users of the other one who were heard shortly before, `MATCHES` of them where there are so many:
their mean has less noise than one of them, and live's users are many. Who is compared with whom follows from
times alone, never from what was said. How many there are is counted as votes come: the side with fewer is the
one whose users get several.

A user is heard on one side only: someone who was compared as a user of live, and got the canary when it grew,
would bring what is known of them already.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import NamedTuple

from deploy.evidence.units import Unit
from deploy.history.scope import Side

MATCHES = 8
"""Users of the larger side for one of the smaller, at most: eight leave an eighth of their noise."""

KEPT = 0.99
"""What a user counts less with each one who follows: the sides' shares change as a canary grows."""


class Observation(NamedTuple):
    """What a user says about both policies, and those who are compared with this one; known at a time.

    difference: of thumbs, the new policy's less the old one's, in [-1, 1]; None: no thumb, or nobody to
    compare it with. preference: between an answer of each, 1 for the new, -1 for the old one; None: nobody
    was asked. users: whose thumbs the difference is of, the one first.
    """

    at: float
    difference: float | None
    preference: float | None
    users: tuple[Unit, ...]


class Mark(NamedTuple):
    """Where a matching was: who waits, how many there were of each side, and how many users were heard."""

    waiting: Mapping[Side, tuple[Unit, ...]]
    counts: Mapping[Side, float]
    heard: int


class Matching:
    """Takes in units in closing order and makes observations of them, in the order of their times."""

    def __init__(self, max_gap_seconds: float) -> None:
        self._observations: list[Observation] = []  # since they were given out
        self._max_gap = max_gap_seconds
        self._waiting: dict[Side, deque[Unit]] = {"new": deque(), "old": deque()}
        self._heard: dict[str, Side] = {}  # in the order in which they were
        self._count: dict[Side, float] = {"new": 0.0, "old": 0.0}

    def take(self, units: Iterable[Unit]) -> list[Observation]:
        """Go on with the next units. Gives what is observed by them."""
        for unit in units:
            if self._heard.get(unit.user, unit.side) == unit.side:
                self._expire(unit.closes_at)
                self._take(unit)
        found, self._observations = self._observations, []
        return found

    def mark(self) -> Mark:
        """Where it is, to come back to."""
        waiting = {side: tuple(units) for side, units in self._waiting.items()}
        return Mark(waiting, dict(self._count), len(self._heard))

    def back(self, mark: Mark) -> None:
        """Be where it was: whoever came since has not."""
        self._waiting = {side: deque(units) for side, units in mark.waiting.items()}
        self._count = dict(mark.counts)
        self._heard = dict(islice(self._heard.items(), mark.heard))

    def _take(self, unit: Unit) -> None:
        other: Side = "old" if unit.side == "new" else "new"
        matches = self._matches(unit.side, other)
        if unit.thumbs is None:
            self._observe(unit, unit.closes_at, [])
            return
        found = self._newest(unit, other, matches)
        if found:
            self._observe(unit, unit.closes_at, found)
        else:
            self._waiting[unit.side].append(unit)

    def _expire(self, now: float) -> None:
        """Those who waited too long are heard without a match."""
        for waiting in self._waiting.values():
            while waiting and waiting[0].closes_at < now - self._max_gap:
                self._observe(waiting.popleft(), now, [])

    def _matches(self, side: Side, other: Side) -> int:
        """How many of the other side there are for one of this."""
        for each in self._count:
            self._count[each] *= KEPT
        self._count[side] += 1
        return max(1, min(MATCHES, round(self._count[other] / self._count[side])))

    def _newest(self, unit: Unit, side: Side, at_most: int) -> list[Unit]:
        """Up to so many of the newest waiting users of a side, taken out; not those heard elsewhere by
        now."""
        found: list[Unit] = []
        waiting = self._waiting[side]
        while waiting and len(found) < at_most:
            each = waiting.pop()
            if each.user != unit.user and self._heard.get(each.user, side) == side:
                found.append(each)
        return found

    def _observe(self, one: Unit, at: float, others: list[Unit]) -> None:
        difference, preference = None, None
        if one.thumbs is not None and others:
            mean = sum(each.thumbs for each in others if each.thumbs is not None) / len(others)
            difference = one.thumbs - mean if one.side == "new" else mean - one.thumbs
        preferred = [each.preference for each in (one, *others) if each.preference is not None]
        if preferred:
            preference = 2 * sum(preferred) / len(preferred) - 1
        if difference is None and preference is None:
            return
        for each in (one, *others):
            self._heard.setdefault(each.user, each.side)
        self._observations.append(Observation(at, difference, preference, (one, *others)))
