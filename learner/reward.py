"""The reward model: what the votes say about an answer, and how sure they are.

A head is a linear score on the features with a normal prior,
fitted to votes: comparisons by Bradley-Terry, thumbs by a Bernoulli likelihood with a bias. That is a convex
problem, solved anew at every update: the model follows from the labels alone, whatever the order they came
in, and nothing can drift.

The heads of the ensemble differ in their bootstrap of the votes and in where their priors are centred
(anchored ensembling, Pearce et al. 2020), so they disagree where votes contradict each other and where there
are none: that is what keeps a policy from wandering off to what nobody has ever judged.

With a few hundred votes this reads them better than a score on the last token's state or a tuned adapter.
Length is not taken out: people who care for it are understood with few votes.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from feedback.join import Label
from learner.batching import Item
from learner.features import AnswerFeatures
from learner.losses import bradley_terry_loss, thumbs_loss

TOKEN_GAIN, LENGTH_GAIN, STATE_GAIN = 0.2, 0.2, 0.5
"""What each kind of feature can do a priori: a token's occurrence is 0 or its gain, length and all states
together vary by theirs."""


@dataclass(frozen=True, slots=True)
class RewardSettings:
    """Measured on 400 to 900 noisy votes about a small model's answers.

    prior_std: of a head's weights, around its own centre. rater_cap: no rater has more than this share of all
    votes' weight. model_vote_weight: of a vote that a model gave. min_scale: the raw scores'
    standard deviation is not taken for less, so that noise is not blown up.
    """

    heads: int = 8
    prior_std: float = 1.0
    rater_cap: float = 0.2
    model_vote_weight: float = 0.5
    min_scale: float = 0.3


@dataclass(frozen=True, slots=True)
class RewardMetrics:
    """What an update did: mean loss of a vote (nats), votes of each kind, the thumbs' mean bias (logit)."""

    loss: float
    comparisons: int
    thumbs: int
    bias: float


class RewardModel:
    """Scores answers by the votes it was fitted to. Several models may share one `AnswerFeatures`."""

    def __init__(
        self, features: AnswerFeatures, settings: RewardSettings | None = None, *, seed: int = 0
    ) -> None:
        self.features, self.seed = features, seed
        self.settings = settings or RewardSettings()
        width, heads = features.width, self.settings.heads
        self._weights = torch.zeros(width, heads)
        self._bias = torch.zeros(heads)
        generator = torch.Generator().manual_seed(seed)
        anchors = torch.randn(width, heads, generator=generator) * self.settings.prior_std
        self._anchors = anchors - anchors.mean(1, keepdim=True)  # the mean head's prior is centred on 0
        self._mean = torch.zeros(width)
        self._divisor = torch.ones(width)
        self._centre = 0.0
        self._scale = 1.0

    def _raw(self, features: Tensor) -> Tensor:
        """Every head's score (B, K) of features (B, F), before centring."""
        return (features - self._mean) / self._divisor @ self._weights

    # ---- learning

    def update(self, labels: Sequence[Label], steps: int = 60) -> RewardMetrics:
        """Fit all heads to `labels` (all that count, not only new ones) in at most `steps` L-BFGS iterations.

        Raises `ValueError` for no labels, or one that is neither a thumb nor a comparison.
        """
        if not labels:
            raise ValueError("an update needs at least one label")
        for label in labels:
            if (label.kind, len(label.answers)) not in (("thumbs", 1), ("comparison", 2)):
                raise ValueError(
                    f"label {label.event_id} is {label.kind} of {len(label.answers)} answers; "
                    "thumbs of 1 or comparison of 2 are needed"
                )
        pairs = [label for label in labels if label.kind == "comparison"]
        thumbs = [label for label in labels if label.kind == "thumbs"]
        ordered = pairs + thumbs
        features = self.features.of_answers(
            [label.answers[0] for label in pairs]
            + [label.answers[1] for label in pairs]
            + [label.answers[0] for label in thumbs]
        )
        self._normalise(features)
        targets = torch.tensor([label.value for label in ordered])
        weights, votes = self._vote_weights(ordered)
        loss = self._fit((features - self._mean) / self._divisor, targets, weights, votes, len(pairs), steps)
        raw = self._raw(features).mean(1)
        self._centre, self._scale = (
            float(raw.mean()),
            max(float(raw.std(unbiased=False)), self.settings.min_scale),
        )
        return RewardMetrics(loss, len(pairs), len(thumbs), float(self._bias.mean()))

    def _normalise(self, features: Tensor) -> None:
        """Centre and scale length and states as the voted answers' features (B, F) have them."""
        dense = features[:, self.features.tokens :]
        gain = torch.full((dense.shape[1],), STATE_GAIN / math.sqrt(self.features.states))
        gain[0] = LENGTH_GAIN
        self._mean = torch.cat([torch.zeros(self.features.tokens), dense.mean(0)])
        spread = (dense.std(0, unbiased=False) + 1e-3) / gain
        self._divisor = torch.cat([torch.full((self.features.tokens,), 1 / TOKEN_GAIN), spread])

    def _vote_weights(self, labels: Sequence[Label]) -> tuple[Tensor, float]:
        """Weights (N, K) of votes: rater cap and source, times each head's bootstrap; columns sum to 1.

        And how many whole votes they stand for.
        """
        rows = vote_weights(labels, self.settings.rater_cap, self.settings.model_vote_weight)
        draws = torch.tensor([_bootstrap(self.seed, label.event_id, self.settings.heads) for label in labels])
        weights = torch.tensor(rows)[:, None] * draws
        return weights / weights.sum(0), sum(rows)

    def _fit(
        self, features: Tensor, targets: Tensor, weights: Tensor, votes: float, pairs: int, steps: int
    ) -> float:
        """Maximise all heads' posteriors; the mean loss of a vote. features: (2 * pairs + thumbs, F)."""
        penalty = 1 / (2 * self.settings.prior_std**2 * votes)  # the losses are means over votes
        heads = self._weights.clone().requires_grad_()
        bias = self._bias.clone().requires_grad_()
        inputs = torch.cat([features[:pairs] - features[pairs : 2 * pairs], features[2 * pairs :]])
        wanted = targets[:, None].expand(-1, heads.shape[1])
        zero = torch.zeros(())
        optimizer = torch.optim.LBFGS([heads, bias], max_iter=steps, line_search_fn="strong_wolfe")

        def likelihood() -> Tensor:
            scores = inputs @ heads
            compared = bradley_terry_loss(scores[:pairs], zero, wanted[:pairs])
            rated = thumbs_loss(scores[pairs:], bias, wanted[pairs:])
            return (torch.cat([compared, rated]) * weights).sum()

        def closure() -> Tensor:
            optimizer.zero_grad()
            total = likelihood() + ((heads - self._anchors) ** 2).sum() * penalty + (bias**2).sum() * penalty
            total.backward()  # type: ignore[no-untyped-call]
            return total

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        self._weights, self._bias = heads.detach(), bias.detach()
        with torch.no_grad():
            return float(likelihood()) / heads.shape[1]

    # ---- use

    @torch.no_grad()
    def score(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B,) over the heads of the scores of (prompt, answer) pairs.

        In standard deviations of the voted answers' scores, above their mean.
        """
        scores = (self._raw(self.features.of_items(items)) - self._centre) / self._scale
        return scores.mean(1), scores.std(1, unbiased=False)

    @torch.no_grad()
    def predictions(self, labels: Sequence[Label]) -> list[float]:
        """The probability that each vote's value is 1: its answer is liked, or its first one is better."""
        if not labels:
            return []
        first = self._raw(self.features.of_answers([label.answers[0] for label in labels])).mean(1)
        last = self._raw(self.features.of_answers([label.answers[-1] for label in labels])).mean(1)
        compared = torch.tensor([label.kind == "comparison" for label in labels])
        logits = torch.where(compared, first - last, first + float(self._bias.mean()))
        return [float(p) for p in torch.sigmoid(logits)]

    @torch.no_grad()
    def accuracy(self, labels: Sequence[Label]) -> float:
        """The share of votes that the mean score predicts: of comparisons the winner, of thumbs the side of a
        coin toss under score and bias. Ties do not count; 0.5 when nothing does."""
        votes = [label for label in labels if label.value != 0.5]
        if not votes:
            return 0.5
        right = 0
        first = self._raw(self.features.of_answers([label.answers[0] for label in votes])).mean(1)
        last = self._raw(self.features.of_answers([label.answers[-1] for label in votes])).mean(1)
        bias = float(self._bias.mean())
        for label, a, b in zip(votes, first.tolist(), last.tolist(), strict=True):
            logit = a - b if label.kind == "comparison" else a + bias
            right += (logit > 0) == (label.value > 0.5)
        return right / len(votes)

    def state_dict(self) -> dict[str, Any]:
        """All that an update changes."""
        return {
            "weights": self._weights.clone(),
            "bias": self._bias.clone(),
            "mean": self._mean.clone(),
            "divisor": self._divisor.clone(),
            "centre": self._centre,
            "scale": self._scale,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described. Raises `ValueError` when it is of another shape of model."""
        if state["weights"].shape != self._weights.shape:
            raise ValueError(
                f"the state has heads of shape {tuple(state['weights'].shape)}; "
                f"{tuple(self._weights.shape)} is needed"
            )
        self._weights, self._bias = state["weights"].clone(), state["bias"].clone()
        self._mean, self._divisor = state["mean"].clone(), state["divisor"].clone()
        self._centre, self._scale = state["centre"], state["scale"]


def vote_weights(labels: Sequence[Label], cap: float, model_vote_weight: float = 1.0) -> list[float]:
    """What each vote weighs: its own weight, less for a model's, and no rater more than `cap` of all.

    With fewer than 1 / cap raters, all have the same share.
    """
    rows = [label.weight * (model_vote_weight if label.source == "model" else 1.0) for label in labels]
    totals: dict[str, float] = {}
    for label, weight in zip(labels, rows, strict=True):
        totals[label.rater] = totals.get(label.rater, 0.0) + weight
    limit = vote_limit(list(totals.values()), cap)
    return [
        weight * min(1.0, limit / totals[label.rater]) for label, weight in zip(labels, rows, strict=True)
    ]


def vote_limit(totals: Sequence[float], cap: float) -> float:
    """How much weight one rater may have, so that nobody has more than the share `cap` of all weight.

    totals: weight by rater. With fewer than 1 / cap raters, all get the same weight.
    """
    share = max(cap, 1 / len(totals))
    ordered = sorted(totals, reverse=True)
    rest = sum(ordered)  # votes of those who stay below the limit
    for limited, total in enumerate(ordered):
        limit = share * rest / (1 - limited * share)
        if total <= limit:
            return limit
        rest -= total
    return float(ordered[-1])


def _bootstrap(seed: int, event_id: str, heads: int) -> list[float]:
    """A vote's weight in each head: exponential draws (Bayesian bootstrap, Rubin 1981), fixed by its id."""
    draws = []
    for head in range(heads):
        digest = hashlib.sha256(f"{seed}\0{head}\0{event_id}".encode()).digest()
        draws.append(-math.log((int.from_bytes(digest[:8]) + 1) / 2**64))
    return draws
