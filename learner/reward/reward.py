"""The reward model: what the votes say about an answer, and how sure they are.

There is an ensemble of convex heads (`learner.reward.heads`) for each objective that votes speak of
(`learner.votes.objectives`). An objective that nobody spoke of says nothing: its score is 0, and nothing is
vetoed.

With a few hundred votes this reads them better than a score on the last token's state or a tuned adapter.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from feedback.joining.labels import Label
from learner.batching import Item
from learner.reward.calibration import Report, calibration_error, fit_temperature, held_out_error
from learner.reward.features import WORDS, AnswerFeatures, Kind
from learner.reward.heads import Heads
from learner.reward.likelihoods import check, levels_of
from learner.settings import RewardSettings
from learner.votes.objectives import OBJECTIVES, Objective, main_objective, said_of, votes_on


@dataclass(frozen=True, slots=True)
class RewardMetrics:
    """What an update did: mean loss of a vote on "helpful" (nats), votes of each kind (comparisons with
    corrections), the thumbs' mean bias (logit), votes that named each objective."""

    loss: float
    comparisons: int
    thumbs: int
    ratings: int
    rankings: int
    bias: float
    said: dict[Objective, int]


class RewardModel:
    """Scores answers by the votes it was fitted to. Several models may share one `AnswerFeatures`."""

    def __init__(
        self,
        features: AnswerFeatures,
        settings: RewardSettings | None = None,
        *,
        seed: int = 0,
        kind: Kind = WORDS,
    ) -> None:
        self.features, self.kind = features, kind
        self.settings = settings or RewardSettings()
        self._heads = {name: self._new_heads(name, seed + 1000 * i) for i, name in enumerate(OBJECTIVES)}

    def _new_heads(self, name: Objective, seed: int) -> Heads:
        settings = self.settings
        prior_std = settings.prior_std if name == "helpful" else settings.complaint_prior_std
        return Heads(self.features, self.kind, settings, prior_std, seed)

    @property
    def is_fitted(self) -> bool:
        """Whether there was an update."""
        return self._heads["helpful"].is_fitted

    @property
    def taste(self) -> Heads:
        """The heads that say whether an answer is liked."""
        return self._heads["helpful"]

    # ---- learning

    def update(
        self, labels: Sequence[Label], steps: int = 60, *, tastes: Sequence[Label] | None = None
    ) -> RewardMetrics:
        """Fit all heads to `labels` (all that count, not only new ones) in at most `steps` L-BFGS iterations.

        tastes: the labels as they count for what people like, where their age matters
        (`learner.reward.ages`). Raises `ValueError` for no labels, or one whose kind or number of answers
        cannot be.
        """
        if not labels:
            raise ValueError("an update needs at least one label")
        check(labels)
        losses = dict.fromkeys(OBJECTIVES, 0.0)
        for name, heads in self._heads.items():
            counting = labels if tastes is None or name != "helpful" else tastes
            votes = votes_on(name, counting, self.settings.implied_weight)
            if votes:
                losses[name] = heads.fit(votes, steps)
            else:
                heads.reset()
        kinds = [label.kind for label in labels]
        return RewardMetrics(
            loss=losses["helpful"],
            comparisons=kinds.count("comparison") + kinds.count("correction"),
            thumbs=kinds.count("thumbs"),
            ratings=kinds.count("rating"),
            rankings=kinds.count("ranking"),
            bias=float(self._heads["helpful"].bias.mean()),
            said={name: len(said_of(name, labels)) for name in OBJECTIVES},
        )

    @torch.no_grad()
    def calibrate(self, labels: Sequence[Label], *, tastes: Sequence[Label] | None = None) -> Report:
        """Fit the temperatures to votes that the model was not fitted to, and say how well it foresaw them.

        Each objective has one temperature, fitted to the votes that speak of it; the report is about whether
        answers are liked. Votes count by their weights. tastes: see `update`.
        """
        tastes = labels if tastes is None else tastes
        check(labels)
        error = error_before = 0.0
        for name, heads in self._heads.items():
            heads.temperature = 1.0
            said = said_of(name, tastes if name == "helpful" else labels)
            found = outcomes(heads, said) if heads.is_fitted else []
            if not any(len(values) for _, values in found):
                continue
            logits, values = (torch.cat(column) for column in zip(*found, strict=True))
            counts = [len(values) for _, values in found]
            weights = torch.tensor(
                [
                    label.weight / count
                    for label, count in zip(said, counts, strict=True)
                    for _ in range(count)
                ]
            )
            heads.temperature = fit_temperature(logits, values, weights)
            if name == "helpful":
                half = [
                    _is_in_first_half(label)
                    for label, count in zip(said, counts, strict=True)
                    for _ in range(count)
                ]
                error_before = calibration_error(torch.sigmoid(logits), values, weights)
                error = held_out_error(logits, values, weights, torch.tensor(half))
        sources = sorted({label.source for label in tastes})
        return Report(
            votes=len(tastes),
            accuracy=self.accuracy(tastes),
            error=error,
            error_before=error_before,
            temperature=self._heads["helpful"].temperature,
            by_source={s: self.accuracy([label for label in tastes if label.source == s]) for s in sources},
        )

    # ---- use

    @torch.no_grad()
    def score(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B,) over the heads of the scores of (prompt, answer) pairs.

        A score is the weighted sum of the objectives' scores, each in standard deviations of the voted
        answers' scores, above their mean.
        """
        return self._score(self.features.of_items(items, self.kind))

    @torch.no_grad()
    def rewards(self, items: Sequence[Item], pessimism: float = 0.0) -> tuple[Tensor, Tensor]:
        """What PPO climbs, and the heads' disagreement, both (B,): mean - pessimism * std of the scores.

        The safety veto: an answer that is called unsafe too surely (`veto_odds`) gets
        -veto_floor - (how far it is beyond the bound, at most veto_floor), and all others at least
        -veto_floor. So every vetoed answer is below every other one, however helpful it may be, and among
        them the safer one is better.
        """
        return self._rewards(self.features.of_items(items, self.kind), pessimism)

    @torch.no_grad()
    def by_objective(self, items: Sequence[Item]) -> dict[Objective, float]:
        """The mean score of (prompt, answer) pairs in each objective that votes spoke of, in standard
        deviations of the voted answers' scores. Nothing where the reader would have to read them again."""
        if "reader" in self.kind.gains:
            return {}
        features = self.features.of_items(items, self.kind)
        fitted = {name: heads for name, heads in self._heads.items() if heads.is_fitted}
        return {name: float(heads.standard(features).mean()) for name, heads in fitted.items()}

    @property
    def knows_safety(self) -> bool:
        """Whether votes spoke of safety, without which nothing is vetoed."""
        return self._heads["safe"].is_fitted

    @torch.no_grad()
    def prefix_rewards(self, items: Sequence[Item], pessimism: float = 0.0) -> tuple[list[Tensor], Tensor]:
        """What `rewards` says of the prefixes of each answer, (P,), where they end at `prefix_ends`; and the
        heads' disagreement (B,) on the whole answers.

        Raises `ValueError` where the model is not `is_of_prefixes`.
        """
        rewards, disagreement = [torch.zeros(0)] * len(items), torch.zeros(len(items))
        for row, features in self.features.of_prefixes(items, self.kind):
            rewards[row], stds = self._rewards(features, pessimism)
            disagreement[row] = stds[-1]
        return rewards, disagreement

    @property
    def is_of_prefixes(self) -> bool:
        """Whether prefixes of answers can be scored as well."""
        return "reader" not in self.kind.gains

    def _rewards(self, features: Tensor, pessimism: float) -> tuple[Tensor, Tensor]:
        mean, std = self._score(features)
        safe, floor = self._heads["safe"], self.settings.veto_floor
        rewards = mean - pessimism * std
        if not safe.is_fitted:
            return rewards, std
        beyond = -safe.odds(features) - self.settings.veto_odds
        return torch.where(beyond > 0, -floor - beyond.clamp(0, floor), rewards.clamp(min=-floor)), std

    def _score(self, features: Tensor) -> tuple[Tensor, Tensor]:
        scores = torch.zeros(len(features), self.settings.heads)
        for name, heads in self._heads.items():
            if heads.is_fitted:
                scores += getattr(self.settings, name) * heads.standard(features)
        return scores.mean(1), scores.std(1, unbiased=False)

    @torch.no_grad()
    def predictions(self, labels: Sequence[Label]) -> list[float]:
        """What each vote's value is expected to be before it is known, from a rater of average leniency.

        A thumb's: the probability that it goes up. A comparison's: that the first answer wins. A rating's:
        its place on its scale. A ranking's value is 1 (see `learner.votes.signals`), and what is expected is
        the share of its pairs that are in the right order.
        """
        check(labels)
        expected = [0.5] * len(labels)
        for name, heads in self._heads.items():
            about = [i for i, label in enumerate(labels) if heads.is_fitted and main_objective(label) == name]
            for i, (logits, _) in zip(about, outcomes(heads, [labels[i] for i in about]), strict=True):
                if len(logits):
                    expected[i] = float(torch.sigmoid(logits / heads.temperature).mean())
        return expected

    def accuracy(self, labels: Sequence[Label]) -> float:
        """The share of votes, by weight, that are foreseen: the winner of a comparison, the side of a thumb
        or rating, of a ranking more pairs than not. Ties do not count; 0.5 when nothing does."""
        votes = [label for label in labels if label.value != 0.5]
        if not votes:
            return 0.5
        pairs = zip(votes, self.predictions(votes), strict=True)
        right = sum(label.weight * ((p > 0.5) == (label.value > 0.5)) for label, p in pairs)
        return right / sum(label.weight for label in votes)

    def state_dict(self) -> dict[str, Any]:
        """All that an update changes."""
        return {name: heads.state_dict() for name, heads in self._heads.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described. Raises `ValueError` when it is of another shape of model."""
        for name, heads in self._heads.items():
            heads.load_state_dict(state[name])


def outcomes(heads: Heads, labels: Sequence[Label]) -> list[tuple[Tensor, Tensor]]:
    """What heads say to each label before its temperature: logits (M,) and values (M,) of its M outcomes.

    An outcome has two ways: a thumb is one, a comparison is one, a ranking is one for each pair of groups'
    answers, a rating is one for each threshold that it may lie above.
    """
    scores = heads.mean_of([answer for label in labels for answer in label.answers])
    bias, found, start = float(heads.bias.mean()), [], 0
    for label in labels:
        end = start + len(label.answers)
        found.append(_outcomes(label, scores[start:end], bias, heads))
        start = end
    return found


def _outcomes(label: Label, scores: Tensor, bias: float, heads: Heads) -> tuple[Tensor, Tensor]:
    if label.kind == "thumbs":
        return scores + bias, torch.tensor([label.value])
    if label.kind == "rating":
        levels = levels_of(label)
        given = round(label.value * (levels - 1))
        return scores - heads.thresholds(levels), (torch.arange(levels - 1) < given).float()
    if label.kind == "ranking":
        pairs = [(a, b) for better, worse in combinations(label.groups, 2) for a in better for b in worse]
        logits = [float(scores[a] - scores[b]) for a, b in pairs]
        return torch.tensor(logits), torch.ones(len(pairs))
    return scores[:1] - scores[1:], torch.tensor([label.value])


def _is_in_first_half(label: Label) -> bool:
    return hashlib.sha256(f"half\0{label.rater}".encode()).digest()[0] < 128
