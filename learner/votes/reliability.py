"""Weights of models' votes, by how often each model agrees with people.

A judge model votes on far more pairs than people do, and it may be wrong in the same way each time: what it
weighs is learned from the pairs on which people voted too. Where it agrees with their votes in a share `a` of
them, its vote is one of people's that was turned around with the chance 1 - a, and weighs 2 a - 1 of theirs;
a model that is right no more often than a coin weighs nothing, and so does one that is always wrong.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from feedback.joining.labels import Label

MODEL = "model"
"""The source of a model's votes."""

PRIOR_PAIRS = 20.0
"""Pairs of the agreement that is expected of a model before it is known, with which it is credited."""

Pair = frozenset[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Reliability:
    """What a model's votes are worth. pairs: that people voted on too, counted as their votes weigh;
    agreement: with those votes, shrunk towards what is expected; proven: whether it is above a half, beyond
    chance."""

    pairs: float
    agreement: float
    proven: bool

    @property
    def weight(self) -> float:
        """Of a vote, as a share of a vote of people."""
        return max(0.0, 2 * self.agreement - 1)


def reliabilities(labels: Iterable[Label], expected: float) -> dict[str, Reliability]:
    """By rater, of all models that voted. expected: the weight of a vote of one that nothing is known of.

    Comparisons are what people and models have in common: of the same two answers.
    """
    people: dict[Pair, list[tuple[float, float]]] = defaultdict(list)
    models: dict[str, list[tuple[Pair, float]]] = defaultdict(list)
    for label in labels:
        if label.source == MODEL:
            models[label.rater]  # also one whose votes are of other kinds
        if label.kind == "comparison":
            pair, value = _sided(label)
            if label.source == MODEL:
                models[label.rater].append((pair, value))
            else:
                people[pair].append((value, label.weight))
    return {rater: _reliability(votes, people, (1 + expected) / 2) for rater, votes in models.items()}


def _sided(label: Label) -> tuple[Pair, float]:
    """The two answers, and how much the one of them that comes first by name is liked better."""
    first, second = ((answer.completion_id, answer.choice) for answer in label.answers)
    return frozenset((first, second)), label.value if first < second else 1 - label.value


def _reliability(
    votes: Sequence[tuple[Pair, float]],
    people: Mapping[Pair, Sequence[tuple[float, float]]],
    expected: float,
) -> Reliability:
    pairs = agreed = 0.0
    for pair, value in votes:
        for theirs, weight in people.get(pair, ()):
            pairs += weight
            agreed += weight * (value * theirs + (1 - value) * (1 - theirs))
    agreement = (PRIOR_PAIRS * expected + agreed) / (PRIOR_PAIRS + pairs)
    by_chance = 1 / math.sqrt(pairs) if pairs else math.inf  # two standard errors, as large as they can be
    return Reliability(pairs, agreement, pairs > 0 and agreed / pairs - 0.5 > by_chance)


def weighed(labels: Sequence[Label], found: Mapping[str, Reliability], cap: float) -> list[Label]:
    """The labels, a model's with what it weighs; those without any weight are left out.

    The votes of a model that is not proven weigh no more than the share `cap` of all, however many they are.
    """
    people = math.fsum(label.weight for label in labels if label.source != MODEL)
    totals: dict[str, float] = defaultdict(float)
    for label in labels:
        if label.source == MODEL:
            totals[label.rater] += label.weight * found[label.rater].weight
    most = people * cap / (1 - cap) if cap < 1 else math.inf
    shares = {
        rater: found[rater].weight * (1.0 if found[rater].proven or total <= most else most / total)
        for rater, total in totals.items()
    }
    return [
        label if label.source != MODEL else replace(label, weight=label.weight * shares[label.rater])
        for label in labels
        if label.source != MODEL or shares[label.rater] > 0
    ]
