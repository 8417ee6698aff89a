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
in which they arrive, so a replay of the log gives the same verdict. Time is the events' own. The tests
themselves are in deploy/evidence/proving.py.
"""

import math
from dataclasses import dataclass
from typing import Literal

PREFERENCE = 4.0
"""How far a mean of comparisons moves where the share of thumbs moves by 1: a logistic taste at thumbs of .7
moves .21 for one unit and a preference .25, between two answers, on a scale from -1 to 1."""

AWFUL = 0.4
"""A policy that may be this much worse is shown to no more users."""

FEW_THUMBS = 0.1
"""Where fewer users than this share of those who compare give thumbs, comparisons decide alone."""

FORESEEN_FROM = 10
"""Users who have to have voted before it is told how many more may be needed."""


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
    return [what for evidence, what in _proofs(reading) if evidence < bound]


def votes_needed(reading: Reading, bound: float) -> int | None:
    """How many more users have to vote for a promotion, should evidence grow as it did so far: an estimate.

    None where nothing can be foreseen: few have voted, or evidence that is needed does not grow.
    """
    heard = reading.pairs + reading.compared
    missing = [evidence for evidence, _ in _proofs(reading) if evidence < bound]
    if not missing:
        return 0
    if heard < FORESEEN_FROM or min(missing) <= 1.0:
        return None
    return math.ceil(heard * (math.log(bound) / math.log(min(missing)) - 1))


def _proofs(reading: Reading) -> list[tuple[float, str]]:
    """The evidence that a promotion takes, and what it is of."""
    proofs = [(reading.promote, "that users like it better")]
    if not reading.pairs < FEW_THUMBS * reading.compared:
        proofs.append((reading.no_worse, "that thumbs are no lower"))
    compared = max(reading.no_worse_compared, reading.voters_alike)
    return [*proofs, (compared, "that comparisons agree, or that as many vote in both buckets")]
