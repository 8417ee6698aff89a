"""Simulated services for `python -m bench releases`: users with lasting tastes who are heard on two policies.

A user's share of thumbs up is drawn from a beta distribution with the service's mean, so that two votes of
one user correlate by `ICC`. A policy that is `effect` better moves the mean by it, and in a comparison of
both it is preferred as often as a logistic taste says. Windows close some time after the answer; all that is
drawn is a function of a seed.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deploy.evidence.betting import Array
from deploy.evidence.matching import MATCHES, Matching
from deploy.evidence.preference import EvidenceRules, Reading
from deploy.evidence.proving import read
from deploy.evidence.streams import MOST_VOTES, Ballots, Heard
from deploy.evidence.units import Unit
from deploy.history.scope import Side

ICC = 0.2
TASTES = (1 - ICC) / ICC
"""The sum of both parameters of a beta distribution with this correlation."""
SECONDS = 60.0
"""Between two canary users who are heard."""
WEIGHT = 0.25
DELAY_SECONDS = 1200.0
BEFORE = (0.02, 0.04, 0.08, 0.16, 0.32)
"""The bets of the rule before: one mean of all votes of a user, paired in closing order."""


@dataclass(frozen=True)
class World:
    """What is true of a release. Effects are shares: 0.01 is a point."""

    effect: float = 0.0  # of thumbs
    compared_effect: float | None = None  # where it is compared; None: the same
    mean: float = 0.7
    mood_at_end: float | None = None  # the mean at the end, of both policies
    compares: float = 0.5  # share of canary users who compare
    control_compares: float = 0.5
    canary_votes: float = 1.0  # how often canary users are heard, over control users
    silent: float = 0.0  # share of the canary's unhappy votes that are not given
    colluders: float = 0.0  # share of users who say the opposite of what they think
    minority: float = 0.0  # share of users who belong to a second tenant
    minority_effect: float = 0.0


class Layout:
    """When users of each side are heard, and who is matched with whom: the same for many runs.

    Twice as many of live's users as of each bucket are heard: a canary of a quarter of all users.
    """

    def __init__(self, users: int, canary_votes: float, rng: np.random.Generator) -> None:
        self.seconds = users * SECONDS
        counts = (round(users * canary_votes), users, round(users * (1 - 2 * WEIGHT) / WEIGHT))
        self.new, control, live = (np.sort(self._times(n, rng)) for n in counts)
        self.control = counts[1]
        self.old = np.concatenate([control, live])
        self.minor = [
            rng.random(n) for n in (self.new.size, self.old.size)
        ]  # below a share: the second tenant's

    def _times(self, users: int, rng: np.random.Generator) -> Array:
        return rng.uniform(0, self.seconds, users) + rng.exponential(DELAY_SECONDS, users)

    @cached_property
    def everybody(self) -> "Pairs":
        """The pairs of all users."""
        return Pairs(self, np.ones(self.new.size, dtype=bool), np.ones(self.old.size, dtype=bool))

    def tenant(self, share: float, *, minor: bool) -> "Pairs":
        """The pairs of one of two tenants, of which the minor one has a share of all users."""
        return Pairs(self, *((each < share) == minor for each in self.minor))


class Pairs:
    """Who is matched with whom, as indices into the values of both sides, one after the other."""

    def __init__(self, layout: Layout, new: Array, old: Array) -> None:
        sides: tuple[tuple[Side, Array, Array, int], ...] = (
            ("new", layout.new, new, 0),
            ("old", layout.old, old, layout.new.size),
        )
        units = [
            Unit(at, f"{side}{i}", side, "", float(i + first))
            for side, times, mine, first in sides
            for i, at in enumerate(times)
            if mine[i]
        ]
        matching = Matching(EvidenceRules().match_seconds)
        seen = matching.take(sorted(units))
        self._times = np.array([each.at for each in seen])
        self._index = np.zeros((len(seen), MATCHES + 1), dtype=np.int64)
        self._weight = np.zeros(self._index.shape)
        self._prefers = np.zeros(self._index.shape)  # canary users of a row
        for row, each in enumerate(seen):
            one, *others = each.users
            sign, here = (1.0 if one.side == "new" else -1.0), slice(0, len(each.users))
            self._index[row, here] = [int(unit.thumbs or 0) for unit in each.users]
            self._weight[row, here] = [sign, *[-sign / len(others)] * len(others)]
            self._prefers[row, here] = [unit.side == "new" for unit in each.users]

    def heard(self, thumbs: Array, preferences: Array) -> Heard:
        """What users say, as observations. thumbs, preferences: (users of both sides,); nan: did not
        compare."""
        said = ~np.isnan(preferences[self._index]) & (self._prefers > 0)
        total = np.where(said, 2 * np.nan_to_num(preferences[self._index]) - 1, 0).sum(axis=1)
        with np.errstate(invalid="ignore"):
            return Heard(
                self._times, (thumbs[self._index] * self._weight).sum(axis=1), total / said.sum(axis=1)
            )


@dataclass(frozen=True)
class Votes:
    """What users of one release said. new, old: values of thumbs; counts: how many votes each is of."""

    new: Array
    old: Array
    new_count: Array
    old_count: Array
    compared: Array  # shares for the new policy of canary users; nan: did not compare
    compared_count: Array
    control_compared: Array  # of live's own answers, which says nothing
    control_compared_count: Array


def vote(world: World, layout: Layout, rng: np.random.Generator) -> Votes:
    """Draw what users say."""
    mood = [_mood(world, times, layout.seconds) for times in (layout.new, layout.old)]
    effect = np.where(layout.minor[0] < world.minority, world.minority_effect, world.effect)
    new, new_count = thumbs_of(mood[0] + effect, world, rng, silent=world.silent)
    old, old_count = thumbs_of(mood[1], world, rng)
    felt = effect if world.compared_effect is None else np.full(effect.size, world.compared_effect)
    compared, compared_count = comparisons_of(preferred(felt, world.mean), world.compares, rng)
    none, none_count = comparisons_of(np.full(layout.control, 0.5), world.control_compares, rng)
    return Votes(new, old, new_count, old_count, compared, compared_count, none, none_count)


def preferred(effects: Array, mean: float) -> Array:
    """How often a policy is preferred whose thumbs are better by `effects`: a logistic taste."""
    return np.asarray(1 / (1 + np.exp(-effects / (mean * (1 - mean)))))


def _mood(world: World, times: Array, seconds: float) -> Array:
    end = world.mean if world.mood_at_end is None else world.mood_at_end
    return world.mean + (end - world.mean) * np.clip(times / seconds, 0, 1)


def _tastes(means: Array, rng: np.random.Generator) -> Array:
    means = np.clip(means, 0.01, 0.99)
    return rng.beta(TASTES * means, TASTES * (1 - means))


def thumbs_of(
    means: Array, world: World, rng: np.random.Generator, silent: float = 0.0
) -> tuple[Array, Array]:
    """Values and counts of users who are heard: with `silent`, of those who gave any vote at all."""
    ups, given = np.zeros(means.size), np.zeros(means.size)
    left = np.arange(means.size)
    while left.size:
        asked = 1 + rng.poisson(2.0, left.size)
        liked = rng.binomial(asked, _tastes(means[left], rng))
        disliked = rng.binomial(asked - liked, 1 - silent)
        ups[left], given[left] = liked, liked + disliked
        left = left[given[left] == 0]
    values = ups / given
    colludes = rng.random(means.size) < world.colluders
    return np.where(colludes, 1 - values, values), np.where(colludes, 20, given)


def comparisons_of(tastes: Array, share: float, rng: np.random.Generator) -> tuple[Array, Array]:
    asked = np.where(rng.random(tastes.size) < share, 1 + rng.poisson(0.5, tastes.size), 0)
    with np.errstate(invalid="ignore"):
        return rng.binomial(asked, _tastes(tastes, rng)) / asked, asked


def heard_share(world: World, rng: np.random.Generator) -> float:
    """The share of canary users who say anything where unhappy votes are not given."""
    asked = 1 + rng.poisson(2.0, 100_000)
    liked = rng.binomial(asked, _tastes(np.full(asked.size, world.mean + world.effect), rng))
    return float(np.mean(liked + rng.binomial(asked - liked, 1 - world.silent) > 0))


def judge(votes: Votes, layout: Layout, world: World, rules: EvidenceRules) -> Reading:
    """What the evidence says of a release, with a look after every vote."""
    thumbs = np.concatenate([votes.new, votes.old])
    preferences = np.concatenate([votes.compared, np.full(layout.old.size, np.nan)])
    all_users = layout.everybody.heard(thumbs, preferences)
    groups = {"all": all_users}
    if world.minority:
        tenants = {"minor": True, "major": False}
        groups = {
            name: layout.tenant(world.minority, minor=minor).heard(thumbs, preferences)
            for name, minor in tenants.items()
        }
    return read(all_users, groups, _ballots(votes, layout), rules)


def _ballots(votes: Votes, layout: Layout) -> Ballots:
    control = slice(0, layout.control)
    times = np.concatenate([layout.new, layout.old[control]])
    counts = np.concatenate(
        [
            votes.new_count + votes.compared_count,
            votes.old_count[control] + votes.control_compared_count,
        ]
    )
    order = np.argsort(times, kind="stable")
    canary = np.arange(times.size) < layout.new.size
    return Ballots(times[order], canary[order], np.minimum(counts, MOST_VOTES)[order] / MOST_VOTES)


def judge_as_before(votes: Votes, layout: Layout, margin: float) -> tuple[bool, int]:
    """Whether the rule before promotes, and after how many pairs: one mean of thumbs and comparisons for each
    user, canary and control users paired in closing order."""
    pairs = min(layout.new.size, layout.control)
    new = _mean_of_all(votes.new, votes.new_count, votes.compared, votes.compared_count)[:pairs]
    control = slice(0, layout.control)
    old = _mean_of_all(
        votes.old[control], votes.old_count[control], votes.control_compared, votes.control_compared_count
    )[:pairs]
    gains = new - old + margin
    up = np.mean([np.exp(np.cumsum(np.log1p(bet * gains))) for bet in BEFORE], axis=0) >= 20
    down = np.mean([np.exp(np.cumsum(np.log1p(-bet * (new - old)))) for bet in BEFORE], axis=0) >= 100
    first_up, first_down = (int(each.argmax()) if each.any() else pairs for each in (up, down))
    return first_up < first_down, 1 + first_up


def _mean_of_all(thumbs: Array, count: Array, compared: Array, compared_count: Array) -> Array:
    total = thumbs * count + np.where(compared_count > 0, np.nan_to_num(compared), 0) * compared_count
    return np.asarray(total / (count + compared_count))
