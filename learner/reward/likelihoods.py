"""Likelihoods of votes under scores: one for each kind of vote, all of them on the same scores.

comparison   Bradley-Terry; a tie counts half for each
correction   a comparison that the written answer wins, maybe with a margin
ranking      Plackett-Luce; every order that agrees with it counts equally, so a group is a tie as in a
             comparison; its choices together are one vote
thumbs       Bernoulli with a bias, which is everyone's and the rater's own leniency
rating       cumulative logit with thresholds for each number of levels, and the same leniency
signal       what a person did (`learner.votes.objectives.Deed`): Bernoulli with a slope, which is what it
             tells, and a bias for each name, which is how often it happens anyhow

A share `noise` of all votes says the opposite of what was meant: each vote's loss is mixed with that of its
opposite (another winner, the other thumb, a mirrored rating, a ranking from the end), which bounds what one
vote can claim (label smoothing; for comparisons Mitchell 2023's conservative DPO, and Chowdhury et al. 2024,
arXiv:2403.00409, on flips of preferences). A deed's slope bounds what it claims already.

Everything is convex in scores, biases and thresholds.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from feedback.joining.labels import Answer, Label
from learner.losses import (
    bradley_terry_loss,
    ordered_thresholds,
    ordinal_loss,
    plackett_luce_loss,
    thumbs_loss,
)
from learner.reward.features import Key, key_of
from learner.votes.objectives import Deed

MAX_LEVELS = 11
"""Ratings on a finer scale than this are put into so many bins."""

ANSWERS = {
    "thumbs": (1, 1),
    "rating": (1, 1),
    "comparison": (2, 2),
    "correction": (2, 2),
    "ranking": (2, 64),
    "signal": (1, 2),
}
"""How many answers a vote of each kind has, at least and at most."""


def check(labels: Sequence[Label]) -> None:
    """Raises `ValueError` for a label of an unknown kind, or with too few or too many answers for it."""
    for label in labels:
        least, most = ANSWERS.get(label.kind, (1, 0))
        if not least <= len(label.answers) <= most:
            raise ValueError(
                f"label {label.event_id} is {label.kind} of {len(label.answers)} answers; "
                "thumbs or rating of 1, comparison or correction of 2, signal of 1 or 2, "
                "or ranking of 2 to 64 are needed"
            )


def levels_of(label: Label) -> int:
    """How many levels a rating's scale has: one of 1 to 5 has 5, one of 0 to 100 or of 0 to 1 the most."""
    low, high = label.scale or (0.0, 1.0)
    steps = high - low
    return int(steps) + 1 if steps == int(steps) and 2 <= steps < MAX_LEVELS else MAX_LEVELS


def default_thresholds(levels: int) -> Tensor:
    """Thresholds (levels - 1,) under which an average answer gets every rating equally often."""
    share = torch.arange(1, levels) / levels
    return torch.logit(share)


def consistent_orders(groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """Orders of all answers that agree with a ranking, so chosen that in any group each answer comes before
    each other one equally often (and, where all sizes of groups divide the largest, at each place).

    These are all of them when no group has more than 3 answers and one at most has more than 1.
    """
    largest = max(map(len, groups))
    if largest == 1:
        return [[group[0] for group in groups]]
    turns = [[_turned(group, t % len(group)) for group in groups] for t in range(largest)]
    if largest == 2:
        return [[i for group in turn for i in group] for turn in turns]
    return [
        [i for group in turn for i in (group if forward else group[::-1])]
        for turn in turns
        for forward in (True, False)
    ]


def _turned(group: Sequence[int], by: int) -> list[int]:
    return [*group[by:], *group[:by]]


class Votes:
    """N votes as tensors over A different answers, whose scores (A, K) K heads give.

    `answers`: the A answers; `good`: (A,) True at those that some vote prefers or likes.
    """

    def __init__(self, labels: Sequence[Label], *, noise: float = 0.0, margin: float = 0.0) -> None:
        check(labels)
        # Losses come by group; the labels are kept in that order.
        self.labels = sorted(labels, key=_group)
        self.answers: list[Answer] = []
        self._places: dict[Key, int] = {}
        self._raters: dict[str, int] = {}
        self._noise = noise
        self._parts: list[Callable[[Tensor, Parameters], Tensor]] = []
        self.levels: list[int] = []
        self.deeds: list[str] = []  # the names of what people did
        self.good = torch.zeros(0, dtype=torch.bool)
        good: set[int] = set()
        for group in _runs(self.labels):
            kind = group[0].kind
            at = torch.tensor([self._place(a) for label in group for a in label.answers])
            if kind in _PAIRS:
                self._add_pairs(group, at.view(-1, 2), margin)
            elif kind == "ranking":
                self._add_rankings(group)
            elif kind == "signal":
                self._add_deeds(cast(list[Deed], group), at.view(len(group), -1))
            else:
                self._add_single(group, at)
            good.update(p for label in group for p in self._good_places(label))
        self.good = torch.tensor([place in good for place in range(len(self.answers))])

    @property
    def raters(self) -> int:
        """How many raters gave thumbs or ratings."""
        return len(self._raters)

    def losses(self, scores: Tensor, parameters: "Parameters") -> Tensor:
        """Negative log likelihoods (N, K) of the votes in the order of `labels`, in nats."""
        return torch.cat([part(scores, parameters) for part in self._parts])

    def _place(self, answer: Answer) -> int:
        place = self._places.setdefault(key_of(answer), len(self.answers))
        if place == len(self.answers):
            self.answers.append(answer)
        return place

    def _good_places(self, label: Label) -> list[int]:
        if label.kind == "signal":
            return []  # nobody said so
        places = [self._place(answer) for answer in label.answers]
        if label.kind == "ranking":
            return [places[i] for i in label.groups[0]]
        if len(places) == 1:
            return places if label.value > 0.5 else []
        if label.label == "both_bad":
            return []
        return [places[i] for i, share in enumerate((label.value, 1 - label.value)) if share >= 0.5]

    def _smooth(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values)[:, None] * (1 - 2 * self._noise) + self._noise

    def _add_pairs(self, labels: Sequence[Label], at: Tensor, margin: float) -> None:
        wanted = self._smooth([label.value for label in labels])
        ahead = torch.tensor([margin if label.kind == "correction" else 0.0 for label in labels])[:, None]

        def losses(scores: Tensor, _: Parameters) -> Tensor:
            first, second = scores[at[:, 0]], scores[at[:, 1]]
            return bradley_terry_loss(first - ahead, second, wanted.expand_as(first))

        self._parts.append(losses)

    def _add_rankings(self, labels: Sequence[Label]) -> None:
        rows: list[list[int]] = []
        votes: list[int] = []
        shares: list[float] = []
        for number, label in enumerate(labels):
            places = [self._place(answer) for answer in label.answers]
            orders = consistent_orders(label.groups)
            share = 1 / len(orders) / (len(places) - 1)  # a mean over orders and over the choices of an order
            for order in orders:
                row = [places[i] for i in order]
                rows += [row, row[::-1]] if self._noise else [row]
                shares += [share * (1 - self._noise), share * self._noise] if self._noise else [share]
            votes += [number] * (len(rows) - len(votes))
        longest = max(map(len, rows))
        at = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[k < len(row) for k in range(longest)] for row in rows])
        share_of, vote_of = torch.tensor(shares)[:, None], torch.tensor(votes)

        def losses(scores: Tensor, _: Parameters) -> Tensor:
            heads = scores.shape[1]
            picked = scores[at].transpose(1, 2).reshape(-1, longest)  # (rows * K, longest)
            each = plackett_luce_loss(picked, mask.repeat_interleave(heads, 0)).view(-1, heads)
            return scores.new_zeros(len(labels), heads).index_add(0, vote_of, each * share_of)

        self._parts.append(losses)

    def _add_deeds(self, deeds: Sequence[Deed], at: Tensor) -> None:
        """Deeds of one name, with answers at: (N, 1 or 2)."""
        name = deeds[0].name or ""
        self.deeds.append(name)
        happened = torch.tensor([deed.value for deed in deeds])[:, None]
        slope = torch.tensor([deed.slope for deed in deeds])[:, None]

        def losses(scores: Tensor, parameters: Parameters) -> Tensor:
            told = scores[at[:, 0]]
            if at.shape[1] == 2:
                told = told - scores[at[:, 1]]
            return thumbs_loss(slope * told, parameters.habits[name], happened.expand_as(told))

        self._parts.append(losses)

    def _add_single(self, labels: Sequence[Label], at: Tensor) -> None:
        who = torch.tensor([self._raters.setdefault(label.rater, len(self._raters)) for label in labels])
        if labels[0].kind == "thumbs":
            wanted = self._smooth([label.value for label in labels])

            def thumbs(scores: Tensor, parameters: Parameters) -> Tensor:
                rated = scores[at]
                return thumbs_loss(rated, parameters.bias + parameters.leniency[who], wanted.expand_as(rated))

            self._parts.append(thumbs)
            return
        levels = levels_of(labels[0])
        self.levels.append(levels)
        given = torch.tensor([round(label.value * (levels - 1)) for label in labels])
        noise = self._noise

        def ratings(scores: Tensor, parameters: Parameters) -> Tensor:
            rated = scores[at] + parameters.leniency[who]
            heads = rated.shape[1]
            flat = rated.flatten()
            rising = parameters.thresholds(levels).T.expand(len(given), -1, -1).reshape(len(flat), -1)
            losses = ordinal_loss(flat, rising, given.repeat_interleave(heads))
            if noise:
                mirrored = (levels - 1 - given).repeat_interleave(heads)
                losses = (1 - noise) * losses + noise * ordinal_loss(flat, rising, mirrored)
            return losses.view(-1, heads)

        self._parts.append(ratings)


class Parameters:
    """What K heads have beside their scores: bias (K,), leniency (raters, K), free thresholds (L - 1, K), and
    for each name of deeds how often these happen anyhow, (K,) in logits."""

    def __init__(self, heads: int, raters: int, levels: Sequence[int], deeds: Sequence[str] = ()) -> None:
        self.bias = torch.zeros(heads)
        self.leniency = torch.zeros(raters, heads)
        self.free = {count: _free(default_thresholds(count))[:, None].repeat(1, heads) for count in levels}
        self.habits = {name: torch.zeros(heads) for name in deeds}

    def thresholds(self, levels: int) -> Tensor:
        """The rising thresholds (L - 1, K) of ratings with so many levels."""
        return ordered_thresholds(self.free[levels])

    def tensors(self) -> list[Tensor]:
        """All that can be fitted."""
        return [self.bias, self.leniency, *self.free.values(), *self.habits.values()]

    def penalty(self, prior_std: float, leniency_std: float) -> Tensor:
        """Minus the log prior, without its constant. Thresholds are expected near `default_thresholds`."""
        total = (self.bias**2).sum() / (2 * prior_std**2) + (self.leniency**2).sum() / (2 * leniency_std**2)
        for levels in self.free:
            moved = self.thresholds(levels) - default_thresholds(levels)[:, None]
            total = total + (moved**2).sum() / (2 * THRESHOLD_STD**2)
        for habit in self.habits.values():
            total = total + (habit**2).sum() / (2 * HABIT_STD**2)
        return total


HABIT_STD = 3.0
"""How far the log-odds of a deed may be from even a priori."""

THRESHOLD_STD = 2.0
"""How far a scale's thresholds may be from `default_thresholds` a priori, in logits."""


def _free(thresholds: Tensor) -> Tensor:
    """The numbers of which `ordered_thresholds` makes `thresholds`."""
    steps = thresholds.diff()
    return torch.cat([thresholds[:1], torch.log(torch.expm1(steps))])


_PAIRS = ("comparison", "correction")
_ORDER = {"comparison": 0, "correction": 0, "ranking": 1, "thumbs": 2, "rating": 3, "signal": 4}


def _group(label: Label) -> tuple[int, int, str]:
    """What labels have in common whose losses are computed together."""
    if label.kind == "signal":
        return _ORDER[label.kind], len(label.answers), label.name or ""
    return _ORDER[label.kind], levels_of(label) if label.kind == "rating" else 0, ""


def _runs(labels: Sequence[Label]) -> Iterator[list[Label]]:
    """Labels in their groups, of sorted ones."""
    starts = [i for i, label in enumerate(labels) if i == 0 or _group(label) != _group(labels[i - 1])]
    for start, end in pairwise([*starts, len(labels)]):
        yield list(labels[start:end])
