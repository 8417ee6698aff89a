"""How much the deeds of each name weigh: what they tell of votes, learned from both.

A deed weighs the share of thumbs up where it happened, less that where it did not: 1 where people do it
exactly when they like an answer, 0 where it tells nothing. By so much, its slope, its log-odds rise with
those of a thumb (`learner.votes.objectives.Deed`), for rises that are not too large. It is estimated in two
ways:

- by votes of the same people on the same answers, as it stands;
- by the judging model, which learned from votes of others and from no deeds: how its score moves the odds of
  the deed, over how it moves those of votes that it did not learn from either. What it does not know of
  people makes both smaller alike. It may be wrong in the same way for all answers, so it counts no more than
  `JUDGED` votes would.

Both are put together by their precision, with a prior of `PRIOR` votes' precision at 0, and what chance may
explain is taken off, a standard error: a deed of which nothing is known weighs nothing, and a few hundred of
a deed that tells nothing do not change that. A deed whose direction is known and that goes the other way
weighs nothing, too: who lies is not to be trusted backwards. One whose direction is learned has the sign that
votes say; as either sign would do, two standard errors are taken off.

The newest `RECENT` deeds are asked by themselves as well: a product changes, and its events keep their names.
They alone count where they contradict all beyond chance. So they do where all speak for one direction and the
newest go the other way by the score of the reward model, which has not learned from them yet. It is asked
whether a deed still is what it was, and nothing else: what it learned from deeds cannot prove them right.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feedback.joining.labels import Answer, Label
from learner.votes.meanings import Direction
from learner.votes.objectives import Deed, Objective, said_of

Array = NDArray[np.float64]

PRIOR = 10.0
"""Votes beside deeds, half of which happened, to which the prior at 0 is equal."""

JUDGED = 100.0
"""Votes beside deeds that the judging model's opinion counts as, at most."""

RECENT = 500
"""Newest deeds of a name that are asked by themselves as well: it may mean something else by now."""

NEWEST = 2000
"""Deeds of a name, and votes, that the judging model is asked about: the newest ones."""

APART = 2.0
"""Standard errors between what the newest deeds and what all tell, from which on the newest alone count."""

LEAST, LEAVES = 0.05, 0.02
"""A deed that weighs less is not heard; one that was heard is, down to the second."""

STEPS = 25
"""Of Newton's method, at most."""


class Estimate(NamedTuple):
    """A weight, and its precision: one over the square of its standard error. voted: deeds beside votes."""

    value: float = 0.0
    precision: float = 0.0
    voted: int = 0


@dataclass(frozen=True, slots=True)
class Belief:
    """What is known of the deeds of a name. share: of those that happened, or did not where it speaks against
    an answer; voted: those on whose answers the same people voted; mean, error: of the weight."""

    events: int
    share: float
    voted: int
    mean: float
    error: float

    @property
    def sentence(self) -> str:
        """For people."""
        return (
            f"{self.mean:+.2f} +- {self.error:.2f} by {self.events} events, {self.voted} of them beside votes"
        )

    def weight(self, direction: Direction, most: float, heard: bool) -> float:
        """What a deed weighs, in [-1, 1]; heard: whether it weighed anything before."""
        told = self.mean - self.error
        sure = min(most, abs(self.mean) - 2 * self.error if direction == "learned" else told)
        if sure < (LEAVES if heard else LEAST):
            return 0.0
        return sure if self.mean > 0 else -sure


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a judging model that learned from no deeds thinks of answers.

    scores: (B,) of answers, in logits; unlearned: votes that it did not learn from.
    """

    scores: Callable[[Sequence[Answer]], Array]
    unlearned: Sequence[Label]


@dataclass(frozen=True, slots=True)
class Foresight:
    """What the reward model, which learned from deeds too, thinks of answers: (B,) in logits; and which deeds
    it has not learned from."""

    scores: Callable[[Sequence[Answer]], Array]
    is_new: Callable[[Deed], bool]

    def of_newest(self, deeds: Sequence[Deed]) -> Estimate:
        """How the odds of the newest deeds that are new to it rise with its score."""
        new = [deed for deed in deeds[-RECENT:] if self.is_new(deed)]
        return _slope(_scores(self.scores, new), new) if new else Estimate()


def beliefs(
    deeds: Sequence[Deed],
    votes: Sequence[Label],
    opinion: Opinion | None = None,
    foresight: Foresight | None = None,
) -> dict[str, Belief]:
    """What is known of deeds, by name. deeds: oldest first, weights as they count; votes: what people said;
    opinion, foresight: of the judging and of the reward model on what is liked, None where there are none
    yet."""
    by_name: dict[str, list[Deed]] = defaultdict(list)
    for deed in deeds:
        by_name[deed.name or ""].append(deed)
    said = {name: _said(name, votes) for name in dict.fromkeys(deed.objective for deed in deeds)}
    scale = None if opinion is None else _scale(opinion)
    found = {}
    for name, of_one in by_name.items():
        judged, foreseen = None, Estimate()
        if of_one[-1].objective == "helpful":
            if opinion is not None and scale is not None:
                judged = _Judged(_scores(opinion.scores, of_one[-NEWEST:]), scale)
            if foresight is not None and len(of_one) > RECENT:
                foreseen = foresight.of_newest(of_one)
        found[name] = _belief(of_one, said[of_one[-1].objective], judged, foreseen)
    return found


Key = tuple[str, frozenset[tuple[str, int]]]
"""A rater, and the answer, or the two answers, that they voted on."""

Said = Mapping[Key, Sequence[tuple[float, float]]]
"""What people said of answers: values, each with its weight."""


class _Judged(NamedTuple):
    """The judging model's scores of the newest deeds, and how they move the odds of votes."""

    scores: Array
    scale: Estimate


def _belief(deeds: Sequence[Deed], said: Said, judged: _Judged | None, foreseen: Estimate) -> Belief:
    whole = chosen = _found(deeds, said, judged)
    if len(deeds) > RECENT:
        newest = None if judged is None else judged._replace(scores=judged.scores[-RECENT:])
        recent = _found(deeds[-RECENT:], said, newest)
        if _contradicts(recent, whole) or _turns(foreseen, whole):
            chosen = recent
    precision = PRIOR + chosen.precision
    mean = chosen.value * chosen.precision / precision
    share = float(np.mean([deed.value for deed in deeds]))
    return Belief(len(deeds), share, whole.voted, mean, 1 / sqrt(precision))


def _found(deeds: Sequence[Deed], said: Said, judged: _Judged | None) -> Estimate:
    """The weight by all that speaks of it, without the prior."""
    by_votes = _by_votes(deeds, said)
    by_judge = Estimate() if judged is None else _by_judge(deeds[-len(judged.scores) :], judged)
    return _pooled(by_votes, by_judge)


def _contradicts(one: Estimate, other: Estimate) -> bool:
    if not one.precision or not other.precision:
        return False
    return abs(one.value - other.value) > APART * hypot(1 / sqrt(one.precision), 1 / sqrt(other.precision))


def _turns(foreseen: Estimate, whole: Estimate) -> bool:
    """Whether the newest go the other way than all, beyond a standard error."""
    return foreseen.value * whole.value < 0 and abs(foreseen.value) * sqrt(foreseen.precision) > 1


# ---- votes of the same people


def _said(objective: Objective, votes: Sequence[Label]) -> dict[Key, list[tuple[float, float]]]:
    """What people said of an objective, of one answer or of which of two is better: (value, weight)."""
    found: dict[Key, list[tuple[float, float]]] = defaultdict(list)
    for vote in said_of(objective, votes):
        pair = vote.kind == "comparison" and len(vote.answers) == 2
        if pair or (vote.kind in ("thumbs", "rating") and len(vote.answers) == 1):
            found[_key(vote)].append((_sided(vote), vote.weight))
    return found


def _key(label: Label) -> Key:
    return label.rater, frozenset((answer.completion_id, answer.choice) for answer in label.answers)


def _sided(label: Label) -> float:
    """The value, of two answers as if the first one by name were named first."""
    if len(label.answers) == 1:
        return label.value
    first, second = ((answer.completion_id, answer.choice) for answer in label.answers)
    return label.value if first < second else 1 - label.value


def _by_votes(deeds: Iterable[Deed], said: Said) -> Estimate:
    """The difference of votes' values by whether a deed happened: their regression on it."""
    rows = [
        (_sided(deed), value, weight * deed.weight)
        for deed in deeds
        for value, weight in said.get(_key(deed), ())
    ]
    if not rows:
        return Estimate()
    happened, values, weights = np.array(rows).T
    apart = happened - np.average(happened, weights=weights)
    spread = float((weights * apart**2).sum())
    if spread <= 0:
        return Estimate(voted=len(rows))  # what always happens tells nothing
    value = float((weights * apart * values).sum()) / spread
    # What the variance is where deeds tell nothing; a thumb of each kind keeps it above 0.
    mean = (float((weights * values).sum()) + 1) / (float(weights.sum()) + 2)
    return Estimate(value, spread / (mean * (1 - mean)), len(rows))


# ---- the judging model


def _scores(score: Callable[[Sequence[Answer]], Array], labels: Sequence[Label]) -> Array:
    """The scores of each label's answer, or how much better the first of two is: (N,)."""
    scores = score([answer for label in labels for answer in label.answers])
    found, start = np.empty(len(labels)), 0
    for row, label in enumerate(labels):
        found[row] = scores[start] - (scores[start + 1] if len(label.answers) == 2 else 0.0)
        start += len(label.answers)
    return found


def _scale(opinion: Opinion) -> Estimate | None:
    """By how much the odds of votes rise with the judging model's score; None where that is not sure."""
    found = Estimate()
    votes = said_of("helpful", opinion.unlearned)[-NEWEST:]
    for kinds, count in ((("thumbs", "rating"), 1), (("comparison",), 2)):
        some = [vote for vote in votes if vote.kind in kinds and len(vote.answers) == count]
        if some:
            found = _pooled(found, _slope(_scores(opinion.scores, some), some))
    return found if found.value * sqrt(found.precision) > APART else None


def _by_judge(deeds: Sequence[Deed], judged: _Judged) -> Estimate:
    slope, scale = _slope(judged.scores, deeds), judged.scale
    if not slope.precision:
        return Estimate()
    value = slope.value / scale.value
    variance = (1 / slope.precision + value**2 / scale.precision) / scale.value**2
    return Estimate(value, min(1 / variance, JUDGED))  # of which no deed is beside a vote


def _pooled(one: Estimate, other: Estimate) -> Estimate:
    precision, voted = one.precision + other.precision, one.voted + other.voted
    if not precision:
        return Estimate(voted=voted)
    return Estimate((one.value * one.precision + other.value * other.precision) / precision, precision, voted)


def _slope(scores: Array, labels: Sequence[Label]) -> Estimate:
    """By how much the log-odds of labels' values rise with scores (N,): logistic regression with an
    intercept, by Newton's method, with normal priors of a standard deviation of 5 that keep it finite."""
    values = np.array([label.value for label in labels])
    weights = np.array([label.weight for label in labels])
    if len(set(values.tolist())) < 2 or float(np.ptp(scores)) <= 0:
        return Estimate()  # what always happens, or always the same answer, tells nothing
    inputs = np.stack([scores - scores.mean(), np.ones(len(scores))], 1)
    found, prior = np.zeros(2), np.eye(2) / 25
    hessian: Any = prior
    for _ in range(STEPS):
        chances = 1 / (1 + np.exp(-np.clip(inputs @ found, -30, 30)))
        gradient = inputs.T @ (weights * (values - chances)) - prior @ found
        hessian = (inputs * (weights * chances * (1 - chances))[:, None]).T @ inputs + prior
        step = np.linalg.solve(hessian, gradient)
        found = found + np.clip(step, -2, 2)
        if float(np.abs(step).max()) < 1e-6:
            break
    variance = float(np.linalg.inv(hessian)[0, 0])
    return Estimate(float(found[0]), 1 / variance)
