"""The labels of one comparison, and what they say: each look costs what is new since the last one."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple

from deploy.evidence.matching import Mark, Matching, Observation
from deploy.evidence.preference import EvidenceRules, Reading
from deploy.evidence.proving import Proving
from deploy.evidence.streams import Heard, ballots, heard
from deploy.evidence.units import Unit, Units
from deploy.evidence.voting import opinion
from deploy.history.scope import Scope, Side
from feedback.joining.join import Label

MAX_GROUPS = 32
"""Tenants that are looked at by themselves, the first ones: each more makes harm harder to show in the
others."""

PIECE = 1000
"""Units. A place costs what waits to be matched, some thousand references; a late vote so many units more."""


class Evidence:
    """Collects the labels of one comparison. Its state is only what it was fed: rebuild it by replay. piece:
    units after which a place is kept to go on from, should a vote arrive late."""

    def __init__(self, rules: EvidenceRules, scope: Scope, piece: int = PIECE) -> None:
        self.rules = rules
        self.scope = scope
        self.clock = -math.inf
        self._units = Units(rules.window_seconds, rules.windows_per_user)
        self._judged = _Judged(rules, piece)

    def advance(self, at: float) -> None:
        """The log's time is at least `at` (Unix seconds, from any event): windows close by it."""
        self.clock = max(self.clock, at)

    def feed(self, labels: Iterable[Label]) -> None:
        """Take labels in; those outside the scope only advance the time."""
        for label in labels:
            self.advance(label.at)
            said = opinion(label, self.scope)
            if said is not None:
                self._units.add(said.side, said.user, label.tenant, said.vote)

    def reading(self) -> Reading:
        """The evidence of all units that are closed by now. A vote that arrives after later ones were
        counted costs a look at all since then."""
        same = self._units.close(self.clock)
        self._judged.go_on(self._units.closed, same)
        return self._judged.reading

    def heard(self) -> dict[str, Heard]:
        """What was observed by now: of all users (""), and of each tenant's by themselves. It costs a look at
        all of them."""
        self._units.close(self.clock)
        matchings = _Matchings(self.rules.match_seconds)
        return {name: heard(found) for name, found in matchings.take(self._units.closed).items()}


class _Matchings:
    """The matching of all users (""), and of each tenant's by themselves."""

    def __init__(self, max_gap_seconds: float) -> None:
        self._max_gap = max_gap_seconds
        self._all: dict[str, Matching] = {"": Matching(max_gap_seconds)}

    def take(self, units: Sequence[Unit]) -> dict[str, list[Observation]]:
        """Go on with the next units. Gives what is observed by them, "" first, then tenants as they came."""
        of: dict[str, list[Unit]] = {"": [*units]}
        for unit in units:
            if unit.group not in self._all and len(self._all) <= MAX_GROUPS:
                self._all[unit.group] = Matching(self._max_gap)
            if unit.group and unit.group in self._all:
                of.setdefault(unit.group, []).append(unit)
        return {name: matching.take(of.get(name, ())) for name, matching in self._all.items()}

    def mark(self) -> dict[str, Mark]:
        return {name: matching.mark() for name, matching in self._all.items()}

    def back(self, marks: dict[str, Mark]) -> None:
        self._all = {name: self._all[name] for name in marks}
        for name, mark in marks.items():
            self._all[name].back(mark)


@dataclass(slots=True)
class _Sides:
    """The users of both sides who gave thumbs, and the sums of their values."""

    users: dict[Side, dict[str, None]] = field(default_factory=lambda: {"new": {}, "old": {}})
    values: dict[Side, tuple[int, float]] = field(default_factory=lambda: {"new": (0, 0.0), "old": (0, 0.0)})

    def take(self, units: Iterable[Unit]) -> None:
        for unit in units:
            if unit.thumbs is not None:
                self.users[unit.side].setdefault(unit.user)
                count, total = self.values[unit.side]
                self.values[unit.side] = count + 1, total + unit.thumbs

    def mean(self, side: Side) -> float | None:
        count, total = self.values[side]
        return total / count if count else None

    def mark(self) -> dict[Side, tuple[int, tuple[int, float]]]:
        return {side: (len(users), self.values[side]) for side, users in self.users.items()}

    def back(self, mark: dict[Side, tuple[int, tuple[int, float]]]) -> None:
        for side, (count, values) in mark.items():
            self.users[side] = dict.fromkeys(islice(self.users[side], count))
            self.values[side] = values


class _Place(NamedTuple):
    """All that is known after the first `taken` units, to go on from."""

    taken: int
    matchings: dict[str, Mark]
    sides: dict[Side, tuple[int, tuple[int, float]]]
    proving: Proving
    reading: Reading


class _Judged:
    """What closed units say, from the first on, and places in between to come back to."""

    def __init__(self, rules: EvidenceRules, piece: int) -> None:
        self.reading = Reading()
        self._piece = piece
        self._matchings = _Matchings(rules.match_seconds)
        self._sides = _Sides()
        self._proving = Proving(rules)
        self._taken = 0
        self._places = [self._place()]

    def go_on(self, closed: Sequence[Unit], same: int) -> None:
        """Be at the end of `closed`. same: how many from its start are as they were."""
        if same < self._taken or not _parts(closed, self._taken):
            self._back(closed, same)
        while self._taken < len(closed):
            end = min(self._taken + self._piece, len(closed))
            while not _parts(closed, end):
                end += 1
            self._take(closed[self._taken : end])
            if self._taken - self._places[-1].taken >= self._piece:
                self._places.append(self._place())

    def _take(self, units: Sequence[Unit]) -> None:
        self._taken += len(units)
        seen = {name: heard(observed) for name, observed in self._matchings.take(units).items()}
        before = self._proving.reading
        self._proving.take(seen.pop(""), seen, ballots(units))
        said = self._proving.reading
        if said is not before and said.crossed is not None:  # the numbers are those at the crossing
            sides = self._sides.mark()
            self._sides.take(unit for unit in units if unit.closes_at <= said.at)
            self.reading = self._with_sides(said)
            self._sides.back(sides)
        self._sides.take(units)
        if said.crossed is None:
            self.reading = self._with_sides(said)

    def _with_sides(self, reading: Reading) -> Reading:
        return replace(
            reading,
            canary_users=len(self._sides.users["new"]),
            control_users=len(self._sides.users["old"]),
            canary_value=self._sides.mean("new"),
            control_value=self._sides.mean("old"),
        )

    def _place(self) -> _Place:
        marks = self._matchings.mark(), self._sides.mark()
        return _Place(self._taken, *marks, self._proving.copy(), self.reading)

    def _back(self, closed: Sequence[Unit], same: int) -> None:
        """Be at the newest place before which nothing changed."""
        while self._places[-1].taken > same or not _parts(closed, self._places[-1].taken):
            self._places.pop()
        place = self._places[-1]
        self._taken, self.reading, self._proving = place.taken, place.reading, place.proving.copy()
        self._matchings.back(place.matchings)
        self._sides.back(place.sides)


def _parts(closed: Sequence[Unit], at: int) -> bool:
    """Whether units before and after a place differ in time: those of one time are heard together."""
    return not 0 < at < len(closed) or closed[at - 1].closes_at < closed[at].closes_at
