"""Trust in raters: how much the votes of each weigh in training, and why.

Weight follows from agreement. Before the reward model is fitted to a vote, it predicts it; a rater whose
votes are predicted as well as everyone's has weight 1, one whose votes agree no better than chance has 0.
Agreement is shrunk towards everyone's, so that a few votes change little, and only what chance does not
explain counts against anybody. Disagreeing more than chance earns no negative weight: who is always wrong is
not to be trusted backwards either.

Who changes their mind is no liar. Where most raters disagree with the model more than it expected, votes are
judged against others of the same update: taste has turned, and nobody is at fault. And who was shown to agree
with others keeps that; what they say differently later is their opinion.

Votes wait, see `learner.votes.quarantine`, while their rater is new, when they come in a burst, when many
raters fall upon one answer that none of them asked for, and when raters of whom nothing is known contradict,
as a crowd, those who are known. Waiting votes are kept, and train again once the reason is gone.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median, stdev
from typing import Annotated, Any, TypeVar

from feedback.joining.labels import Label

CHANCE = 3.0
"""Standard errors by which a rater's agreement may fall short of everyone's by chance."""

PROOF_VOTES = 20
"""Votes of a rater from which on they can be shown to agree."""

KEPT = 0.95
"""Weight above which who was shown to agree does not lose any."""

SHIFT_RATERS = 10
"""Raters who are credited with having found what was expected, when it is asked whether taste has turned."""

CROWD_RATERS, CROWD_SHORTFALL = 10, 0.1
"""So many raters of whom nothing is known are a crowd when they agree with the model by so much less, and
beyond chance, than as many who were shown to agree with others."""

NEW, BURST, BRIGADE, CROWD = REASONS = ("new rater", "burst", "brigade", "crowd")


@dataclass(frozen=True, slots=True)
class TrustRules:
    """When votes wait, and how agreement counts. Times are in seconds."""

    newcomer_seconds: Annotated[float, "how long the votes of a rater wait after their first one"] = 0.0
    burst_votes: Annotated[
        int, "votes of one rater within burst_seconds that train; the rest of them wait"
    ] = 30
    burst_seconds: Annotated[float, "the time in which burst_votes are counted"] = 60.0
    brigade_raters: Annotated[
        int,
        "so many raters who judge, within brigade_seconds, one answer given to none of them are a brigade",
    ] = 5
    brigade_seconds: Annotated[float, "the time in which brigade_raters are counted"] = 600.0
    prior_votes: Annotated[float, "votes of average agreement that everyone is credited with"] = 20.0
    least_agreement: Annotated[
        float, "everyone's agreement (0.5 is chance) below which the model is no judge of anyone"
    ] = 0.55


@dataclass(frozen=True, slots=True)
class Standing:
    """A rater as operators see them. `waiting`: reason -> votes."""

    votes: int
    agreement: float
    weight: float
    waiting: Mapping[str, int]

    @property
    def is_suspect(self) -> bool:
        """Whether an operator would want to know."""
        return self.weight < 0.5 or bool(self.waiting)


Sums = MutableMapping[str, tuple[float, int]]
"""Rater -> sum of agreements, votes."""


class Agreement:
    """How well each rater's votes were predicted before they were trained on.

    `crowd`: votes that contradict everyone's as a crowd's do, event id -> rater.

    Sums are kept by rater and for everyone, so that a vote costs the same however many raters there are.
    `sums` holds those by rater; a file may stand behind it, then `state` need not hold them too.
    """

    def __init__(self, sums: Sums | None = None) -> None:
        self._seen: dict[str, int] = {}  # event id -> revision
        self._in_memory = sums is None
        self._sums: Sums = {} if sums is None else sums
        self._everyone = (0.0, 0, 0.0)  # for all raters together, and the sum of the agreements' squares
        self.crowd: dict[str, str] = {}

    def unseen(self, labels: Iterable[Label]) -> list[Label]:
        """The labels that were not scored yet."""
        return [label for label in labels if self._seen.get(label.event_id) != label.revision]

    def add(self, labels: Sequence[Label], predicted: Sequence[float]) -> None:
        """Score the votes of one update. `predicted[i]`: the probability that the vote's value is 1, before
        it was known."""
        agreed: dict[str, list[float]] = defaultdict(list)
        beyond: dict[str, list[float]] = defaultdict(list)
        for label, p in zip(labels, predicted, strict=True):
            self._seen[label.event_id] = label.revision
            agreed[label.rater].append(label.value * p + (1 - label.value) * (1 - p))
            beyond[label.rater].append(agreed[label.rater][-1] - p * p - (1 - p) * (1 - p))
        short = {rater: fmean(found) for rater, found in beyond.items()}
        if crowd := self._crowd(short):
            votes = zip(labels, predicted, strict=True)
            against = (
                label for label, p in votes if label.rater in crowd and (label.value > 0.5) != (p > 0.5)
            )
            self.crowd |= {label.event_id: label.rater for label in against}
        turned = _turned([*short.values()])
        for rater, found in agreed.items():
            self._add(rater, [each + turned for each in found])

    def _add(self, rater: str, agreed: Sequence[float]) -> None:
        total, votes = self._sums.get(rater, (0.0, 0))
        after, count = total + sum(agreed), votes + len(agreed)
        if self.is_proven(rater):
            level = min(total / votes, 0.5 + KEPT * (self.mean - 0.5))
            after = max(after, count * max(level, _proof(count)))
        self._sums[rater] = (after, count)
        of_all, all_votes, squares = self._everyone
        squares += sum(each * each for each in agreed)
        self._everyone = (of_all + sum(agreed), all_votes + len(agreed), squares)

    def _crowd(self, short: Mapping[str, float]) -> set[str]:
        """The raters of whom nothing is known, if they contradict those who are known, as a crowd.

        short: by how much more each rater of one update agreed with the model than it expected.
        """
        proven = {rater for rater in short if self.is_proven(rater)}
        known = [by for rater, by in short.items() if rater in proven]
        others = {rater: by for rater, by in short.items() if rater not in proven}
        if min(len(known), len(others)) < CROWD_RATERS:
            return set()
        error = math.hypot(*(stdev(group) / math.sqrt(len(group)) for group in (known, [*others.values()])))
        shortfall = fmean(known) - fmean(others.values())
        return set(others) if shortfall > max(CROWD_SHORTFALL, CHANCE * error) else set()

    def waiting(self) -> dict[str, str]:
        """The votes of crowds, until their raters were shown to agree with others: event id -> reason."""
        return {event_id: CROWD for event_id, rater in self.crowd.items() if not self.is_proven(rater)}

    def is_proven(self, rater: str) -> bool:
        """Whether a rater was shown to agree with others, beyond chance."""
        total, votes = self._sums.get(rater, (0.0, 0))
        return votes >= PROOF_VOTES and total / votes >= _proof(votes)

    def forget_others(self, labels: Iterable[Label]) -> None:
        """Remember which votes were scored of these only: of others nobody asks any more. Sums stay."""
        ids = {label.event_id for label in labels}
        self._seen = {event_id: revision for event_id, revision in self._seen.items() if event_id in ids}
        self.crowd = {event_id: rater for event_id, rater in self.crowd.items() if event_id in ids}

    def of(self, rater: str, rules: TrustRules) -> float:
        """A rater's agreement in [0, 1], shrunk towards everyone's."""
        total, votes = self._sums.get(rater, (0.0, 0))
        return (rules.prior_votes * self.mean + total) / (rules.prior_votes + votes)

    @property
    def mean(self) -> float:
        """Everyone's agreement; 0.5 before there is any."""
        total, votes, _ = self._everyone
        return total / votes if votes else 0.5

    def _by_chance(self, rater: str, rules: TrustRules) -> float:
        """How far `of` may fall short of everyone's by chance."""
        votes, (_, all_votes, squares) = self._sums.get(rater, (0.0, 0))[1], self._everyone
        variance = max(0.0, squares / all_votes - self.mean**2) if all_votes else 0.0
        return CHANCE * math.sqrt(variance * votes) / (rules.prior_votes + votes)

    def weight(self, rater: str, rules: TrustRules) -> float:
        """A rater's weight in [0, 1]."""
        mean = self.mean
        if mean < rules.least_agreement:
            return 1.0
        agreement = self.of(rater, rules) + self._by_chance(rater, rules)
        return min(1.0, max(0.0, (agreement - 0.5) / (mean - 0.5)))

    def state(self) -> dict[str, Any]:
        """All of it as JSON types; without the sums of raters where a file holds them."""
        sums = {rater: list(pair) for rater, pair in self._sums.items()} if self._in_memory else None
        return {"seen": self._seen, "everyone": list(self._everyone), "sums": sums, "crowd": dict(self.crowd)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what `state` described."""
        self._seen, self.crowd = dict(state["seen"]), dict(state.get("crowd", {}))
        if state["sums"] is not None:
            self._sums.clear()
            self._sums.update({rater: (float(of), int(n)) for rater, (of, n) in state["sums"].items()})
        if "everyone" in state:
            total, votes, *squares = state["everyone"]
        else:  # of a checkpoint of before
            total = sum(of for of, _ in state["sums"].values())
            votes, squares = sum(count for _, count in state["sums"].values()), []
        self._everyone = (float(total), int(votes), float(squares[0] if squares else total))


def _proof(votes: int) -> float:
    """The mean agreement of so many votes that chance does not explain: two standard errors, as large as they
    can be, above 0.5."""
    return 0.5 + 1 / math.sqrt(votes)


def _turned(beyond: Sequence[float]) -> float:
    """How much less most raters agree with the model than it expected. beyond: of each rater of one update,
    the mean difference."""
    if not beyond:
        return 0.0
    return max(0.0, -median(beyond)) * len(beyond) / (len(beyond) + SHIFT_RATERS)


Kind = TypeVar("Kind", bound=Label)


def trusted(labels: Sequence[Kind], agreement: Agreement, rules: TrustRules) -> list[Kind]:
    """The labels to train on, each with its rater's weight; those of raters without any are left out."""
    weights = {rater: agreement.weight(rater, rules) for rater in {label.rater for label in labels}}
    return [
        label if weight == 1.0 else replace(label, weight=label.weight * weight)
        for label in labels
        if (weight := weights[label.rater]) > 0
    ]


def standings(
    labels: Sequence[Label], waiting: Mapping[str, str], agreement: Agreement, rules: TrustRules
) -> dict[str, Standing]:
    """Every rater with votes, for operators."""
    votes: dict[str, int] = defaultdict(int)
    held: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for label in labels:
        votes[label.rater] += 1
        if reason := waiting.get(label.event_id):
            held[label.rater][reason] += 1
    return {
        rater: Standing(
            count, agreement.of(rater, rules), agreement.weight(rater, rules), dict(held.get(rater, {}))
        )
        for rater, count in votes.items()
    }
