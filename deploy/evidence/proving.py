"""What was shown by now, from what users said in pieces: each costs what is in it and not what was before."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deploy.evidence.betting import Array, shown
from deploy.evidence.preference import AWFUL, FEW_THUMBS, PREFERENCE, EvidenceRules, Reading
from deploy.evidence.streams import Ballots, Bets, Heard, Stream


@dataclass(slots=True)
class _Sum:
    """How many values of a kind there were, and their sum."""

    count: int = 0
    total: float = 0.0

    def with_those_by(self, stream: Stream, at: Array) -> "_Sum":
        """The same with a stream's values up to a time: (1,)."""
        values = stream.gains[: stream.heard_by(at)[0]]
        return _Sum(self.count + values.size, self.total + float(values.sum()))

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None


def read(all_users: Heard, groups: Mapping[str, Heard], voted: Ballots, rules: EvidenceRules) -> Reading:
    """What was shown, up to the first bound that is crossed. groups: the tenants', in order of appearance."""
    proving = Proving(rules)
    proving.take(all_users, groups, voted)
    return proving.reading


@dataclass(slots=True)
class Proving:
    """The tests of deploy/evidence/preference.py, which go on with each piece.

    A piece comes after the one before: all its times are later. `reading` is what a look at everything at
    once would give, and needs a piece at least. What is said after harm was found changes nothing.
    """

    rules: EvidenceRules
    reading: Reading = field(default_factory=Reading)
    _bets: dict[str, Bets] = field(default_factory=dict)
    _most: dict[str, float] = field(default_factory=dict)  # log E at its highest, by the names of `Reading`
    _harm: dict[str, Bets] = field(default_factory=dict)  # by tenant, "" for all users
    _thumbs: _Sum = field(default_factory=_Sum)
    _preferences: _Sum = field(default_factory=_Sum)

    def __post_init__(self) -> None:
        rules = self.rules
        self._bets = {
            "promote": Bets(rules.margin),
            "no_worse": Bets(rules.tolerance),
            "no_worse_compared": Bets(PREFERENCE * rules.tolerance),
            "canary_votes": Bets(),
            "control_votes": Bets(),
            "not_awful": Bets(AWFUL),
            "not_awful_compared": Bets(2 * AWFUL),
        }
        self._harm = {"": Bets(sign=-1.0)}

    def copy(self) -> "Proving":
        """Another one that goes on by itself from here."""
        copied = Proving(self.rules, self.reading)
        copied._bets = {name: bets.copy() for name, bets in self._bets.items()}
        copied._most = dict(self._most)
        copied._harm = {name: bets.copy() for name, bets in self._harm.items()}
        copied._thumbs, copied._preferences = self._thumbs, self._preferences
        return copied

    @property
    def is_over(self) -> bool:
        """Whether harm was found."""
        return self.reading.crossed == "harm"

    def take(self, all_users: Heard, groups: Mapping[str, Heard], voted: Ballots) -> None:
        """Go on with the next piece. groups: of tenants, those who are new in their order."""
        if self.is_over:
            return
        times = np.unique(np.concatenate([all_users.times, voted.times, *(g.times for g in groups.values())]))
        if not self._most:
            times = np.concatenate([[-math.inf], times])
        if not times.size:
            return
        thumbs, preferences = all_users.given_thumbs(), all_users.given_preferences()
        proofs = self._proofs(all_users, thumbs, preferences, voted, times)
        harm, parts = self._harm_at(all_users, groups, times)
        promoted = self._may_promote(thumbs, preferences, proofs, times)
        harmful = harm >= math.log(self.rules.harm_bound)
        crossed: Literal["promote", "harm"] | None = None
        at = times.size - 1
        if harmful.any():  # also after a promotion was due: it may have to wait until more users were served
            crossed, at = "harm", int(harmful.argmax())
        elif self.reading.crossed is None and promoted.any():
            crossed, at = "promote", int(promoted.argmax())
        if crossed is not None or self.reading.crossed is None:
            values: dict[str, Any] = {name: shown(each[at]) for name, each in proofs.items()}
            self.reading = Reading(
                crossed=crossed,
                at=float(times[at]) if crossed else math.inf,
                harmed=max(parts, key=lambda name: parts[name][at]),
                harm=shown(harm[at]),
                **values,
            )
            self.reading = self._with_means(thumbs, preferences, times[at : at + 1])
        self._thumbs = self._thumbs.with_those_by(thumbs, times[-1:])
        self._preferences = self._preferences.with_those_by(preferences, times[-1:])

    def _with_means(self, thumbs: Stream, preferences: Stream, at: Array) -> Reading:
        ours, chosen = (
            self._thumbs.with_those_by(thumbs, at),
            self._preferences.with_those_by(preferences, at),
        )
        return replace(
            self.reading,
            pairs=ours.count,
            mean_difference=ours.mean,
            compared=chosen.count,
            preferred=None if chosen.mean is None else (chosen.mean + 1) / 2,
        )

    def _proofs(
        self, all_users: Heard, thumbs: Stream, preferences: Stream, voted: Ballots, times: Array
    ) -> dict[str, Array]:
        """log E of what has to be shown, by the names of `Reading`: (m,) each."""
        share, bets = self.rules.voters_tolerance, self._bets
        return {
            "promote": bets["promote"].take(all_users.both(), times),
            "no_worse": bets["no_worse"].take(thumbs, times),
            "no_worse_compared": bets["no_worse_compared"].take(preferences, times),
            "voters_alike": np.minimum(
                bets["canary_votes"].take(voted.less(share, canary=True), times),
                bets["control_votes"].take(voted.less(share, canary=False), times),
            ),
            "not_awful": np.maximum(
                bets["not_awful"].take(thumbs, times), bets["not_awful_compared"].take(preferences, times)
            ),
        }

    def _may_promote(
        self, thumbs: Stream, preferences: Stream, proofs: Mapping[str, Array], times: Array
    ) -> NDArray[np.bool_]:
        """Whether all that a promotion needs was shown by then: (m,)."""
        bound = math.log(self.rules.promote_bound)
        was = {}
        for name, values in proofs.items():
            most = np.maximum.accumulate(np.maximum(values, self._most.get(name, -math.inf)))
            self._most[name], was[name] = float(most[-1]), most >= bound
        given = self._thumbs.count + thumbs.heard_by(times)
        few = given < FEW_THUMBS * (self._preferences.count + preferences.heard_by(times))
        return np.asarray(
            was["promote"] & (was["no_worse"] | few) & (was["no_worse_compared"] | was["voters_alike"])
        )

    def _harm_at(
        self, all_users: Heard, groups: Mapping[str, Heard], times: Array
    ) -> tuple[Array, dict[str, Array]]:
        """log E of harm at given times, and its parts by where it was found: (m,) each. "" is all users.

        A half on all users, 1 / (2 k (k + 1)) on the k-th tenant, and on nothing what is left: together 1,
        and so a weighted sum of evidence is evidence.
        """
        self._harm |= {name: Bets(sign=-1.0) for name in groups if name not in self._harm}
        none = Stream(times[:0], times[:0])
        parts: dict[str, Array] = {}
        for k, (name, bets) in enumerate(self._harm.items()):
            users = all_users if name == "" else groups.get(name)
            stake = math.log(2 * k * (k + 1)) if k else math.log(2)
            parts[name] = bets.take(none if users is None else users.both(), times) - stake
        rest = np.full(times.size, -math.log(2 * len(self._harm)))
        return np.asarray(np.logaddexp.reduce([*parts.values(), rest])), parts
