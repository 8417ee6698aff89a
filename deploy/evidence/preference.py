"""Votes to evidence: do users like the new policy better than the old one, or less?

A user is heard once. All thumbs of a window are one value in [0, 1], and each user of the side with fewer is
compared with those of the other side who were heard at the same time (deploy/evidence/matching.py): T = new -
old, in [-1, 1]. A user who chose between answers of both policies says C = 2 v - 1, v the share of them in
which the new one was preferred; no other user is needed for that, and no time: both answers met the same
person.

Betting processes (deploy/evidence/betting.py) say what may be concluded, however often one looks:

    promote: H0 "no mean is above 0 (-margin)", on T + `WEIGHT` C, rejected at `promote_bound`. One process of
    both,
        as one user's thumbs and choices are not independent.
    no worse: H0 "T's mean <= -tolerance". Better where it is compared is not enough for one that is worse
        elsewhere.
    no worse where compared: H0 "C's mean <= -4 tolerance".
    voters: H0 "one bucket votes less often than the other, by `voters_tolerance`", both ways. Needed where
    there
        are too few comparisons: thumbs of a policy that its unhappy users leave in silence are too high.
    not awful: H0 "T's mean <= -AWFUL", or C's: needed before more users may meet it.
    harm: H0 "no mean is below 0", of T and C together and of each tenant's by themselves; a weighted sum of
        evidence, whose weights sum to 1, rejected at `harm_bound`.

The result depends on the set of votes and on the latest time seen, not on the order, batches or repetitions
in which they arrive, so a replay of the log gives the same verdict. Time is the events' own.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.evidence.betting import Array, log_evidence, shown
from deploy.evidence.matching import Matching, Observation
from deploy.evidence.units import Unit, Units
from deploy.evidence.voting import opinion
from deploy.history.scope import Scope, Side
from feedback.joining.join import Label

PREFERENCE = 4.0
"""How far a mean of comparisons moves where the share of thumbs moves by 1: a logistic taste at thumbs of .7
moves .21 for one unit and a preference .25, between two answers, on a scale from -1 to 1."""

WEIGHT = 0.5
"""Of a preference beside a thumb in the evidence: what it moves over its variance, about half of a
thumb's."""

MOST_VOTES = 5
"""Votes of one user that count for how often people vote: one who votes all the time is one user."""

AWFUL = 0.4
"""A policy that may be this much worse is shown to no more users."""

FEW_THUMBS = 0.1
"""Where fewer users than this share of those who compare give thumbs, comparisons decide alone."""

MAX_GROUPS = 32
"""Tenants that are looked at by themselves, the first ones: each more makes harm harder to show in the
others."""


@dataclass(frozen=True, slots=True)
class EvidenceRules:
    """How votes become units and when evidence is enough. A bound of infinity turns its test off.

    `windows_per_user` above 1 lets a user count again in later windows. That is faster with few users, but
    a user who is always content, or never, then counts as if several: the error bounds are proven for 1.
    """

    window_seconds: float = 3600.0
    windows_per_user: int = 1
    match_seconds: float = 3600.0
    margin: float = 0.0
    tolerance: float = 0.02
    voters_tolerance: float = 0.1
    promote_bound: float = 20.0
    harm_bound: float = 100.0


class Stream(NamedTuple):
    """Gains and their times, in order: (n,) each."""

    times: Array
    gains: Array

    def evidence(self, at: Array, sign: float = 1.0, margin: float = 0.0) -> Array:
        """log E at given times, of H0 "sign times the mean is at most -margin": (m,) -> (m,)."""
        logs = np.concatenate([[0.0], log_evidence(sign * self.gains + margin)])
        return np.asarray(logs[self.heard_by(at)])

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


@dataclass(frozen=True, slots=True)
class Reading:
    """What the evidence says. Once a bound was crossed, the numbers are those at the crossing.

    at: the time of the crossing. pairs: users of the smaller side who were matched, mean_difference: of their
    thumbs. compared: users who chose between both policies, preferred: the share for the new one. Evidence
    starts at 1. harmed: the tenant that harm was found in, "" for all users.
    """

    crossed: Literal["promote", "harm"] | None = None
    at: float = math.inf
    pairs: int = 0
    mean_difference: float | None = None
    compared: int = 0
    preferred: float | None = None
    promote: float = 1.0
    harm: float = 1.0
    no_worse: float = 1.0
    no_worse_compared: float = 1.0
    voters_alike: float = 1.0
    not_awful: float = 1.0
    harmed: str = ""
    canary_users: int = 0
    control_users: int = 0
    canary_value: float | None = None
    control_value: float | None = None


def said(reading: Reading) -> list[str]:
    """What users said so far, in words; nothing where nobody voted."""
    found = []
    if reading.mean_difference is not None:
        found.append(f"{reading.pairs} paired users, mean difference {reading.mean_difference:+.2f}")
    if reading.preferred is not None:
        found.append(f"preferred in {reading.preferred:.0%} by {reading.compared} users who compared")
    return found


def unproven(reading: Reading, bound: float) -> list[str]:
    """What a promotion still needs, in words."""
    missing = []
    if reading.promote < bound:
        missing.append("that users like it better")
    if reading.no_worse < bound and not reading.pairs < FEW_THUMBS * reading.compared:
        missing.append("that thumbs are no lower")
    if max(reading.no_worse_compared, reading.voters_alike) < bound:
        missing.append("that comparisons agree, or that as many vote in both buckets")
    return missing


class Evidence:
    """Collects the labels of one comparison. Its state is only what it was fed: rebuild it by replay."""

    def __init__(self, rules: EvidenceRules, scope: Scope) -> None:
        self.rules = rules
        self.scope = scope
        self.clock = -math.inf
        self._units = Units(rules.window_seconds, rules.windows_per_user)
        self._matched = 0  # units that were
        self._all = Matching(rules.match_seconds)
        self._groups: dict[str, Matching] = {}
        self._reading = Reading()

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
        """The evidence of all units that are closed by now."""
        late = self._units.close(self.clock) < self._matched
        if late:  # one closed among those that were matched: all anew
            self._matched, self._all, self._groups = 0, Matching(self.rules.match_seconds), {}
        closed = self._units.closed
        if late or self._matched < len(closed):
            self._match(closed[self._matched :])
            groups = {name: heard(matching.observations) for name, matching in self._groups.items()}
            said = read(heard(self._all.observations), groups, ballots(closed), self.rules)
            self._reading = _with_sides(said, closed)
        return self._reading

    def heard(self) -> dict[str, Heard]:
        """What was observed by now: of all users (""), and of each tenant's by themselves."""
        self.reading()
        return {"": heard(self._all.observations)} | {
            name: heard(matching.observations) for name, matching in self._groups.items()
        }

    def _match(self, units: list[Unit]) -> None:
        self._matched += len(units)
        self._all.take(units)
        for unit in units:
            if unit.group in self._groups or len(self._groups) < MAX_GROUPS:
                self._groups.setdefault(unit.group, Matching(self.rules.match_seconds)).take([unit])


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


def read(all_users: Heard, groups: Mapping[str, Heard], voted: Ballots, rules: EvidenceRules) -> Reading:
    """What was shown, up to the first bound that is crossed. groups: the tenants', in order of appearance."""
    heard_at = [all_users.times, voted.times, *(group.times for group in groups.values())]
    times = np.unique(np.concatenate([[-math.inf], *heard_at]))
    proofs = _proofs(all_users, voted, rules, times)
    harm, by_group = _harm(all_users, groups, times)
    promoted = _may_promote(all_users, rules, times, proofs)
    harmful = harm >= math.log(rules.harm_bound)
    crossed: Literal["promote", "harm"] | None = None
    at = times.size - 1
    if harmful.any():  # also after a promotion was due: it may have to wait until more users were served
        crossed, at = "harm", int(harmful.argmax())
    elif promoted.any():
        crossed, at = "promote", int(promoted.argmax())
    given = (all_users.given_thumbs(), all_users.given_preferences())
    thumbs, preferences = (each.gains[: each.heard_by(times[at : at + 1])[0]] for each in given)
    return Reading(
        crossed=crossed,
        at=float(times[at]) if crossed else math.inf,
        pairs=thumbs.size,
        mean_difference=float(thumbs.mean()) if thumbs.size else None,
        compared=preferences.size,
        preferred=float(preferences.mean() + 1) / 2 if preferences.size else None,
        harm=shown(harm[at]),
        harmed=max(by_group, key=lambda name: by_group[name][at]),
        promote=shown(proofs["promote"][at]),
        no_worse=shown(proofs["no_worse"][at]),
        no_worse_compared=shown(proofs["no_worse_compared"][at]),
        voters_alike=shown(proofs["voters_alike"][at]),
        not_awful=shown(proofs["not_awful"][at]),
    )


def _proofs(all_users: Heard, voted: Ballots, rules: EvidenceRules, times: Array) -> dict[str, Array]:
    """log E of what has to be shown, by the names of `Reading`: (m,) each."""
    thumbs, preferences = all_users.given_thumbs(), all_users.given_preferences()
    less = [voted.less(rules.voters_tolerance, canary=canary).evidence(times) for canary in (True, False)]
    return {
        "promote": all_users.both().evidence(times, margin=rules.margin),
        "no_worse": thumbs.evidence(times, margin=rules.tolerance),
        "no_worse_compared": preferences.evidence(times, margin=PREFERENCE * rules.tolerance),
        "voters_alike": np.minimum(*less),
        "not_awful": np.maximum(
            thumbs.evidence(times, margin=AWFUL), preferences.evidence(times, margin=2 * AWFUL)
        ),
    }


def _may_promote(
    all_users: Heard, rules: EvidenceRules, times: Array, proofs: Mapping[str, Array]
) -> NDArray[np.bool_]:
    """Whether all that a promotion needs was shown by then: (m,)."""
    bound = math.log(rules.promote_bound)
    was = {name: np.maximum.accumulate(values) >= bound for name, values in proofs.items()}
    thumbs, preferences = all_users.given_thumbs(), all_users.given_preferences()
    few = thumbs.heard_by(times) < FEW_THUMBS * preferences.heard_by(times)
    return np.asarray(
        was["promote"] & (was["no_worse"] | few) & (was["no_worse_compared"] | was["voters_alike"])
    )


def _harm(all_users: Heard, groups: Mapping[str, Heard], times: Array) -> tuple[Array, dict[str, Array]]:
    """log E of harm at given times, and its parts by where it was found: (m,) each. "" is all users.

    A half on all users, 1 / (2 k (k + 1)) on the k-th tenant, and on nothing what is left: together 1, and so
    a weighted sum of evidence is evidence.
    """
    parts = {"": all_users.both().evidence(times, sign=-1.0) - math.log(2)}
    for k, (name, group) in enumerate(groups.items(), start=1):
        parts[name] = group.both().evidence(times, sign=-1.0) - math.log(2 * k * (k + 1))
    rest = np.full(times.size, -math.log(2 * (len(groups) + 1)))
    return np.asarray(np.logaddexp.reduce([*parts.values(), rest])), parts


def _with_sides(reading: Reading, units: Iterable[Unit]) -> Reading:
    """The reading with the users of both sides who gave thumbs by then."""
    sides: dict[Side, list[Unit]] = {"new": [], "old": []}
    for unit in units:
        if unit.closes_at <= reading.at and unit.thumbs is not None:
            sides[unit.side].append(unit)
    return replace(
        reading,
        canary_users=len({unit.user for unit in sides["new"]}),
        control_users=len({unit.user for unit in sides["old"]}),
        canary_value=_mean(sides["new"]),
        control_value=_mean(sides["old"]),
    )


def _mean(units: list[Unit]) -> float | None:
    return math.fsum(unit.thumbs for unit in units if unit.thumbs is not None) / len(units) if units else None
