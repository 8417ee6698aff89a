"""Reward models of several sizes on the same votes, of which the one that foresees people best serves.

A small one learns from few votes and a large one from many; where the one overtakes the other depends on
the base, on the raters and on what they ask for, so it is not foreseen but measured. Before an update every
rung predicts the votes of the judging raters that came since the last one, from whom none of them ever
learns: its log-loss on them is its prequential loss (Dawid 1984, "The prequential approach"). Another rung
takes over when it was the better one by more than chance, so two that are alike do not take turns.
"""

import logging
import math
from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from feedback.joining.labels import Label
from learner.batching import Item
from learner.reward.calibration import Report
from learner.reward.features import READ, STATES, WORDS, AnswerFeatures
from learner.reward.reader import Reader, tokens_of
from learner.reward.reward import RewardMetrics, RewardModel
from learner.settings import RewardSettings
from learner.votes.objectives import Objective

logger = logging.getLogger("hearken.learner")

WINDOW = 600
"""So many of the newest predicted votes count: what a rung was like with a tenth of the votes is past."""


class RewardLadder:
    """Rewards by the serving one of several `RewardModel`s, the smallest first; at the start that serves.

    It is used as a `RewardModel` is. `losses`: for each of the newest judged votes every rung's, in nats; NaN
    of one that had nothing to say yet. reader: what the scores in the features are by, for the largest rung.
    """

    def __init__(
        self,
        features: AnswerFeatures,
        settings: RewardSettings | None = None,
        *,
        seed: int = 0,
        reader: Reader | None = None,
    ) -> None:
        self.features, self.reader = features, reader
        self.settings = settings or RewardSettings()
        kinds = (WORDS, STATES, READ) if reader else (WORDS, STATES)
        self.rungs = [RewardModel(features, self.settings, seed=seed, kind=kind) for kind in kinds]
        self.serving = 0
        self.losses: deque[tuple[float, ...]] = deque(maxlen=WINDOW)

    @property
    def model(self) -> RewardModel:
        """The reward model that serves."""
        return self.rungs[self.serving]

    # ---- learning

    def foresee(self, labels: Sequence[Label]) -> bool:
        """Let all rungs predict new votes of raters whom they do not learn from, and choose who serves.

        Gives whether that is another one than before.
        """
        votes = [label for label in labels if label.kind != "ranking"]  # whose value says nothing by itself
        if not votes or not self.model.is_fitted:
            return False
        silent = [math.nan] * len(votes)
        foreseen = [rung.predictions(votes) if rung.is_fitted else silent for rung in self.rungs]
        for label, *chances in zip(votes, *foreseen, strict=True):
            self.losses.append(tuple(log_loss(label.value, chance) for chance in chances))
        chosen = choose(self.losses, self.serving, self.settings.rung_votes, self.settings.rung_confidence)
        changed, self.serving = chosen != self.serving, chosen
        return changed

    def update(
        self, labels: Sequence[Label], steps: int = 60, *, tastes: Sequence[Label] | None = None
    ) -> RewardMetrics:
        """Fit all rungs, see `RewardModel.update`; the reader learns from what is new before."""
        found: dict[str, RewardMetrics] = {}
        for rung in self.rungs:
            votes, counting = labels, tastes
            if rung.kind is READ:
                votes = self._let_read(labels)
                read = {label.event_id for label in votes}
                counting = None if tastes is None else [each for each in tastes if each.event_id in read]
            if votes:
                found[rung.kind.name] = rung.update(votes, steps, tastes=counting)
        return found.get(self.model.kind.name, found[WORDS.name])

    def _let_read(self, labels: Sequence[Label]) -> Sequence[Label]:
        """The votes that the largest rung is fitted to, once the reader learned from them: the newest of
        `reader_tokens` tokens, as all of these are read again; none while there are few votes. What people
        did is not among them."""
        labels = [label for label in labels if label.kind != "signal"]
        if self.reader is None or len(labels) < self.settings.reader_votes:
            return []
        sizes = accumulate(tokens_of(label) for label in reversed(labels))
        count = sum(size <= self.settings.reader_tokens for size in sizes)
        newest = labels[len(labels) - count :]
        if self.reader.learn(newest):
            self.features.forget_scores()
        return newest

    def calibrate(self, labels: Sequence[Label], *, tastes: Sequence[Label] | None = None) -> Report:
        """Calibrate all rungs, see `RewardModel.calibrate`; the report is about the serving one."""
        found = {
            rung.kind.name: rung.calibrate(labels, tastes=tastes) for rung in self.rungs if rung.is_fitted
        }
        return found[self.model.kind.name] if self.model.is_fitted else self.model.calibrate(labels)

    def mean_losses(self) -> dict[str, float]:
        """The mean prequential loss of a vote in nats of each rung that has any, by its name."""
        if not self.losses:
            return {}
        means = torch.tensor([*self.losses], dtype=torch.float64).nanmean(0).tolist()
        named = zip(self.rungs, means, strict=True)
        return {rung.kind.name: mean for rung, mean in named if not math.isnan(mean)}

    def describe(self) -> str:
        """Which rung serves and what each one's losses are, in a sentence for the log."""
        name = self.model.kind.name
        if not self.losses:
            return f"{name} serves; no judged vote was foreseen yet"
        told = ", ".join(f"{kind} {loss:.3f}" for kind, loss in self.mean_losses().items())
        return f"{name} serves; nats a vote on {len(self.losses)} judged votes: {told}"

    # ---- use

    def score(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """See `RewardModel.score`."""
        return self.model.score(items)

    def rewards(self, items: Sequence[Item], pessimism: float = 0.0) -> tuple[Tensor, Tensor]:
        """See `RewardModel.rewards`."""
        return self.model.rewards(items, pessimism)

    def prefix_rewards(self, items: Sequence[Item], pessimism: float = 0.0) -> tuple[list[Tensor], Tensor]:
        """See `RewardModel.prefix_rewards`."""
        return self.model.prefix_rewards(items, pessimism)

    def by_objective(self, items: Sequence[Item]) -> dict[Objective, float]:
        """See `RewardModel.by_objective`."""
        return self.model.by_objective(items)

    @property
    def is_of_prefixes(self) -> bool:
        """See `RewardModel.is_of_prefixes`."""
        return self.model.is_of_prefixes

    def predictions(self, labels: Sequence[Label]) -> list[float]:
        """See `RewardModel.predictions`."""
        return self.model.predictions(labels)

    def accuracy(self, labels: Sequence[Label]) -> float:
        """See `RewardModel.accuracy`."""
        return self.model.accuracy(labels)

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """All that learning changes."""
        return {
            "rungs": {rung.kind.name: rung.state_dict() for rung in self.rungs},
            "serving": self.model.kind.name,
            "losses": torch.tensor([*self.losses], dtype=torch.float64),
            "reader": None if self.reader is None else self.reader.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described. Raises `ValueError` when it has other rungs than these."""
        names = [rung.kind.name for rung in self.rungs]
        if [*state.get("rungs", ())] != names:
            raise ValueError(f"the state has no rungs {', '.join(names)}")
        for rung in self.rungs:
            rung.load_state_dict(state["rungs"][rung.kind.name])
        self.serving = names.index(state["serving"])
        if self.reader is not None:
            self.reader.load_state_dict(state["reader"])
        self.losses = deque((tuple(row) for row in state["losses"].tolist()), maxlen=WINDOW)


def log_loss(value: float, chance: float) -> float:
    """Nats of a vote of a value in [0, 1] whose expected value was `chance`."""
    chance = min(max(chance, 1e-4), 1 - 1e-4)
    return -(value * math.log(chance) + (1 - value) * math.log1p(-chance))


def choose(losses: Sequence[Sequence[float]], serving: int, votes: int, confidence: float) -> int:
    """The rung that is to serve: of those that beat the serving one the one with the lowest mean loss.

    losses: (N, rungs) nats of the same votes, NaN where a rung was not there. One beats another when both
    foresaw at least `votes` of them and its mean advantage is above `confidence` of its standard errors.
    """
    best, most = serving, 0.0
    for rung in range(len(losses[0]) if losses else 0):
        ahead = [row[serving] - row[rung] for row in losses if not math.isnan(row[serving] - row[rung])]
        if rung == serving or len(ahead) < max(votes, 2):
            continue
        mean, error = fmean(ahead), stdev(ahead) / len(ahead) ** 0.5
        if mean > max(confidence * error, most):
            best, most = rung, mean
    return best
