"""The reward model: what the votes say about an answer, and how sure they are.

An answer's features are the sums of its tokens' states in the embeddings and in the middle layer, the maxima
of its embeddings, and its length. Sums make a score that tokens add up to; maxima one that asks whether
something occurs at all. Every head of the ensemble is a linear score on the features, fitted to its own
bootstrap of the votes: comparisons by Bradley-Terry, thumbs by a Bernoulli likelihood with a bias, and an L2
penalty. That is a convex problem, solved anew at every update: the model follows from the labels alone,
whatever the order they came in, and nothing can drift. Where the heads disagree, the votes do not say.

With a few hundred votes this reads them better than a score on the last token's state or a tuned adapter does
(bench/learning.py). Length is not taken out: people who care for it are understood with few votes.
"""

import hashlib
import math
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from feedback.join import Answer, Label
from learner.batching import Batch, Item, in_buckets
from learner.losses import bradley_terry_loss, thumbs_loss
from learner.model import SharedModel

CACHE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class RewardSettings:
    """Measured on 200 to 700 noisy votes about a small model's answers (bench/learning.py).

    l2: weight of the squared weights beside the mean loss of a vote. rater_cap: no rater has more than this
    share of all votes' weight. model_vote_weight: of a vote that a model gave. min_scale: the raw scores'
    standard deviation is not taken for less, so that noise is not blown up.
    """

    heads: int = 8
    l2: float = 6e-4
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
    """Scores answers by the votes it was fitted to.

    adapter: the adapter under the features, "reward" or "judge"; a fresh one leaves the base as it is, and
    nothing here trains it.
    """

    def __init__(
        self,
        model: SharedModel,
        adapter: str,
        settings: RewardSettings | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self.model, self.adapter, self.seed = model, adapter, seed
        self.settings = settings or RewardSettings()
        self._layers = (0, model.layers // 2)
        self._cache: OrderedDict[tuple[str, int], Tensor] = OrderedDict()
        width, heads = 3 * model.hidden_size + 1, self.settings.heads
        self._cache_size = CACHE_BYTES // (4 * width)
        self._weights = torch.zeros(width, heads)
        self._bias = torch.zeros(heads)
        self._mean = torch.zeros(width)
        self._std = torch.ones(width)
        self._centre = 0.0
        self._scale = 1.0

    # ---- features

    @torch.no_grad()
    def features(self, items: Sequence[Item]) -> Tensor:
        """The features (B, F) of (prompt, answer) pairs, on the CPU."""
        out = torch.zeros(len(items), len(self._mean))
        adapter = None if self.model.is_base(self.adapter) else self.adapter
        for rows, batch in in_buckets(items, self.model.max_tokens, self.model.device):
            first, middle = self.model.layer_states(batch, adapter, self._layers)
            out[rows] = _pool(batch, first.float(), middle.float()).cpu()
        return out

    def _answer_features(self, answers: Sequence[Answer]) -> Tensor:
        """The features (B, F) of voted answers, which are computed once and then remembered for a while."""
        keys = [(answer.completion_id, answer.choice) for answer in answers]
        missing = {k: a for k, a in zip(keys, answers, strict=True) if k not in self._cache}
        if missing:
            found = self.features([(a.prompt_token_ids, a.token_ids) for a in missing.values()])
            self._cache.update(zip(missing, found, strict=True))
        out = torch.stack([self._cache[key] for key in keys])
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return out

    def _raw(self, features: Tensor) -> Tensor:
        """Every head's score (B, K) of features (B, F), before centring."""
        # The factor keeps a score's prior variance the same for every width of the features.
        return (features - self._mean) / self._std @ self._weights / math.sqrt(len(self._mean))

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
        features = self._answer_features(
            [label.answers[0] for label in pairs]
            + [label.answers[1] for label in pairs]
            + [label.answers[0] for label in thumbs]
        )
        self._mean, self._std = features.mean(0), features.std(0, unbiased=False) + 1e-3
        targets = torch.tensor([label.value for label in ordered])
        weights = self._vote_weights(ordered)
        loss = self._fit((features - self._mean) / self._std, targets, weights, len(pairs), steps)
        raw = self._raw(features).mean(1)
        self._centre, self._scale = (
            float(raw.mean()),
            max(float(raw.std(unbiased=False)), self.settings.min_scale),
        )
        return RewardMetrics(loss, len(pairs), len(thumbs), float(self._bias.mean()))

    def _vote_weights(self, labels: Sequence[Label]) -> Tensor:
        """Weights (N, K) of votes: rater cap and source, times each head's bootstrap; columns sum to 1."""
        counts = Counter(label.rater for label in labels)
        limit = vote_limit(list(counts.values()), self.settings.rater_cap)
        rows = [
            min(1.0, limit / counts[label.rater])
            * (self.settings.model_vote_weight if label.source == "model" else 1.0)
            for label in labels
        ]
        draws = torch.tensor([_bootstrap(self.seed, label.event_id, self.settings.heads) for label in labels])
        weights = torch.tensor(rows)[:, None] * draws
        return weights / weights.sum(0)

    def _fit(self, features: Tensor, targets: Tensor, weights: Tensor, pairs: int, steps: int) -> float:
        """Minimise the penalised likelihood of all heads; the mean loss of a vote. features: standardised."""
        heads = self._weights.clone().requires_grad_()
        bias = self._bias.clone().requires_grad_()
        features = features / math.sqrt(features.shape[1])
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
            total = likelihood() + self.settings.l2 * ((heads**2).sum() + (bias**2).sum())
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
        scores = (self._raw(self.features(items)) - self._centre) / self._scale
        return scores.mean(1), scores.std(1, unbiased=False)

    @torch.no_grad()
    def accuracy(self, labels: Sequence[Label]) -> float:
        """The share of votes that the mean score predicts: of comparisons the winner, of thumbs the side of a
        coin toss under score and bias. Ties do not count; 0.5 when nothing does."""
        votes = [label for label in labels if label.value != 0.5]
        if not votes:
            return 0.5
        right = 0
        first = self._raw(self._answer_features([label.answers[0] for label in votes])).mean(1)
        last = self._raw(self._answer_features([label.answers[-1] for label in votes])).mean(1)
        bias = float(self._bias.mean())
        for label, a, b in zip(votes, first.tolist(), last.tolist(), strict=True):
            logit = a - b if label.kind == "comparison" else a + bias
            right += (logit > 0) == (label.value > 0.5)
        return right / len(votes)

    def state_dict(self) -> dict[str, Any]:
        """All that an update changes, but for the adapter's weights, which are the model's."""
        return {
            "weights": self._weights.clone(),
            "bias": self._bias.clone(),
            "mean": self._mean.clone(),
            "std": self._std.clone(),
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
        self._cache.clear()
        self._weights, self._bias = state["weights"].clone(), state["bias"].clone()
        self._mean, self._std = state["mean"].clone(), state["std"].clone()
        self._centre, self._scale = state["centre"], state["scale"]


def vote_limit(counts: Sequence[int], cap: float) -> float:
    """How many votes' weight one rater may have, so that nobody has more than the share `cap` of all weight.

    counts: votes by rater. With fewer than 1 / cap raters, all get the same weight.
    """
    share = max(cap, 1 / len(counts))
    ordered = sorted(counts, reverse=True)
    rest = sum(ordered)  # votes of those who stay below the limit
    for limited, count in enumerate(ordered):
        limit = share * rest / (1 - limited * share)
        if count <= limit:
            return limit
        rest -= count
    return float(ordered[-1])


def _pool(batch: Batch, first: Tensor, middle: Tensor) -> Tensor:
    """Features (B, F) from the states (B, S, H) of two layers."""
    inside = _answer_places(batch)[..., None]
    length = inside.sum(1)
    highest = first.masked_fill(~inside, -math.inf).amax(1).masked_fill(length == 0, 0.0)
    return torch.cat([(first * inside).sum(1), (middle * inside).sum(1), highest, torch.log1p(length)], -1)


def _answer_places(batch: Batch) -> Tensor:
    """(B, S) True at the answers' tokens."""
    width = batch.tokens.shape[1]
    places = torch.arange(width, device=batch.tokens.device)[None]
    end = (batch.final % width)[:, None]
    return (places <= end) & (places > end - batch.mask.sum(1, keepdim=True))


def _bootstrap(seed: int, event_id: str, heads: int) -> list[float]:
    """A vote's weight in each head: exponential draws (Bayesian bootstrap, Rubin 1981), fixed by its id."""
    draws = []
    for head in range(heads):
        digest = hashlib.sha256(f"{seed}\0{head}\0{event_id}".encode()).digest()
        draws.append(-math.log((int.from_bytes(digest[:8]) + 1) / 2**64))
    return draws
