"""Weights of votes by their age, and the choice of how fast they fade.

A vote's age is how many came after it, so a service with few votes does not forget by the clock. Those count
that train or judge, each with what it weighs: nobody ages others' votes faster than a rater's cap allows, and
who is not trusted does not age them at all. At an age of a half-life a vote weighs half as much (an
exponential discount as in NS-DPO, arXiv:2407.18676). Only what people like fades; what they called unsafe or
untrue does not.

The half-life is chosen as the kind of reward model is (`learner.reward.ladder`): before an update, the reward
model and its rivals, which were fitted with the next shorter and the next longer half-life, foresee the new
votes. Another one takes over when its log-loss on the newest of them was lower by more than chance. When
taste turns (`learner.votes.turns`), it is the shortest, and all votes before the turn are `LEAP` of these
older at once: until votes say otherwise they hardly count.
"""

import math
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from feedback.joining.labels import Label
from learner.reward.features import AnswerFeatures, Kind
from learner.reward.heads import Heads
from learner.reward.ladder import WINDOW, choose, log_loss
from learner.reward.reward import RewardModel, outcomes
from learner.reward.weighing import vote_weights
from learner.settings import RewardSettings
from learner.votes.objectives import main_objective, votes_on
from learner.votes.reliability import MODEL

STEPS = (1, 4, 16, math.inf)
"""The half-lives to choose from, in units of the shortest."""

FORGOTTEN = 8
"""Half-lives after which a vote, which then weighs 1/256, is left out."""

CONFIDENCE = 2.0
"""Standard errors of its advantage by which another half-life has to be the better one."""


LEAP = 4
"""Shortest half-lives by which votes are older at once when taste turns after them."""


def ages_of(labels: Sequence[Label], cap: float) -> list[float]:
    """The age of each label, of which the oldest is first, in votes of people; what they did ages nothing.
    cap: most of all votes' weight that one rater may have."""
    ages, age = [], 0.0
    for label, weight in zip(reversed(labels), reversed(vote_weights(labels, cap)), strict=True):
        ages.append(age)
        age += 0.0 if label.source == MODEL or label.kind == "signal" else weight
    return ages[::-1]


def faded(labels: Sequence[Label], ages: Sequence[float], half_life: float) -> list[Label]:
    """The labels with the weight that their age, above that of the newest of them, has left; without those of
    which next to nothing is left."""
    if math.isinf(half_life) or not labels:
        return list(labels)
    newest = min(ages)
    halved = [(age - newest) / half_life for age in ages]
    pairs = zip(labels, halved, strict=True)
    return [replace(label, weight=label.weight * 0.5**by) for label, by in pairs if by < FORGOTTEN]


class Fading:
    """The half-life of votes, in votes, infinite at first.

    `fitted`: the number of the newest vote that the reward models were fitted to (see `LabelStore.number`);
    `turned_at`: that of the newest before taste turned, 0 when it did not; `losses`: for each of the newest
    votes its loss in nats by each of `half_lives`, NaN where none was fitted with it.
    """

    def __init__(self, features: AnswerFeatures, settings: RewardSettings, *, seed: int = 0) -> None:
        self._features, self._settings, self._seed = features, settings, seed
        self.half_lives = sorted({settings.half_life_min * step for step in STEPS})
        self.half_life = math.inf
        self.fitted = self.turned_at = 0
        self.losses: deque[tuple[float, ...]] = deque(maxlen=WINDOW)
        self._rivals: dict[float, Heads] = {}

    def ages(self, labels: Sequence[Label], numbers: Sequence[int]) -> list[float]:
        """The age in votes of each label, of which the oldest is first. numbers: see `LabelStore.number`."""
        leap = LEAP * self.half_lives[0] if self.turned_at else 0.0
        ages = zip(ages_of(labels, self._settings.rater_cap), numbers, strict=True)
        return [age + leap if number <= self.turned_at else age for age, number in ages]

    def of(self, labels: Sequence[Label], ages: Sequence[float]) -> list[Label]:
        """What labels say of people's taste now, see `faded`."""
        return faded(labels, ages, self.half_life)

    def shorten(self, turned_at: int) -> None:
        """People like something else: what came after vote `turned_at` counts most, and how well half-lives
        did before says nothing any more."""
        self.half_life, self.turned_at = self.half_lives[0], turned_at
        self.losses.clear()

    @torch.no_grad()
    def foresee(self, labels: Sequence[Label], model: RewardModel) -> bool:
        """Let the reward model that serves and its rivals foresee new votes, and choose the half-life.

        Gives whether that is another one than before.
        """
        votes = [each for each in labels if each.kind != "ranking" and main_objective(each) == "helpful"]
        votes = _no_more_of_one(votes, self._settings.rater_cap)
        if not votes or not self._rivals or not model.is_fitted:
            return False
        heads = {self.half_life: model.taste, **self._rivals}
        silent = [math.nan] * len(votes)
        columns = [_losses(heads[each], votes) if each in heads else silent for each in self.half_lives]
        self.losses.extend(zip(*columns, strict=True))
        serving = self.half_lives.index(self.half_life)
        chosen = choose(self.losses, serving, self._settings.rung_votes, CONFIDENCE)
        self.half_life = self.half_lives[chosen]
        return chosen != serving

    def update(self, labels: Sequence[Label], ages: Sequence[float], kind: Kind, steps: int = 60) -> None:
        """Fit the rivals, who read answers as `kind` does, to labels whose ages are given."""
        rivals: dict[float, Heads] = {}
        for half_life in self._neighbours(max(ages, default=0.0)):
            heads = self._rivals.get(half_life)
            if heads is None or heads.kind is not kind:
                heads = self._new_heads(kind)
            heads.fit(votes_on("helpful", faded(labels, ages, half_life), 0.0), steps)
            rivals[half_life] = heads
        self._rivals = rivals

    def _neighbours(self, oldest: float) -> list[float]:
        """The half-lives next to the one in use, of those that make a difference among votes so old."""
        differ = [each for each in self.half_lives if each <= 2 * oldest or math.isinf(each)]
        known = sorted({*differ, self.half_life})
        place = known.index(self.half_life)
        return [each for each in known[max(0, place - 1) : place + 2] if each != self.half_life]

    def _new_heads(self, kind: Kind) -> Heads:
        return Heads(self._features, kind, self._settings, self._settings.prior_std, self._seed)

    def state_dict(self) -> dict[str, Any]:
        """All that learning changes."""
        kinds = {heads.kind.name for heads in self._rivals.values()}
        return {
            "half_life": self.half_life,
            "fitted": self.fitted,
            "turned_at": self.turned_at,
            "losses": torch.tensor([*self.losses], dtype=torch.float64),
            "kind": next(iter(kinds), None),
            "rivals": {half_life: heads.state_dict() for half_life, heads in self._rivals.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], kinds: Sequence[Kind]) -> None:
        """Become what `state_dict` described; what is of other half-lives or kinds is forgotten."""
        self.half_life, self.turned_at, self._rivals = math.inf, 0, {}
        self.fitted = state["fitted"]
        self.losses.clear()
        kind = next((each for each in kinds if each.name == state["kind"]), None)
        if not {state["half_life"], *state["rivals"]} <= set(self.half_lives):
            return
        self.half_life, self.turned_at = state["half_life"], state["turned_at"]
        self.losses.extend(map(tuple, state["losses"].tolist()))
        if kind is None:
            return
        for half_life, saved in state["rivals"].items():
            heads = self._new_heads(kind)
            heads.load_state_dict(saved)
            self._rivals[half_life] = heads


def _losses(heads: Heads, votes: Sequence[Label]) -> list[float]:
    found = outcomes(heads, votes)
    chances = [float(torch.sigmoid(logits).mean()) if len(logits) else 0.5 for logits, _ in found]
    return [log_loss(vote.value, chance) for vote, chance in zip(votes, chances, strict=True)]


def _no_more_of_one(votes: Sequence[Label], cap: float) -> list[Label]:
    """The votes, of each rater the newest only where they are more than the share `cap` of all."""
    most, counts = max(1, round(cap * len(votes))), defaultdict[str, int](int)
    found = []
    for vote in reversed(votes):
        counts[vote.rater] += 1
        if counts[vote.rater] <= most:
            found.append(vote)
    return found[::-1]
