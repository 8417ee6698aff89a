"""An ensemble of linear heads on the answers' features, fitted to votes about one objective.

Each head has a normal prior and is fitted to the votes' likelihoods: a convex problem, solved anew at every
update. So a head follows from the labels and their weights alone, whatever the order they came in; it cannot
drift, and forgets no more than their weights say.

A taste hangs on few of the thousands of tokens, so those have Student's t as a prior: most of them do little,
some do much. It is a normal prior whose variance is not known, so the problem is solved `ROUNDS` times more,
each time with the variances that the last solution makes likely (expectation and maximisation, Tipping 2001,
"Sparse Bayesian learning"); each is convex, and all start from the same variances.

The heads differ in their bootstrap of the votes and in where their priors are centred (anchored ensembling,
Pearce et al. 2020), so they disagree where votes contradict each other and where there are none: that is what
keeps a policy from wandering off to what nobody has ever judged.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from feedback.joining.labels import Answer, Label
from learner.losses import ordered_thresholds
from learner.reward.features import AnswerFeatures, Block, Kind
from learner.reward.likelihoods import Parameters, Votes, default_thresholds
from learner.reward.weighing import bootstrap, vote_weights
from learner.settings import RewardSettings

LENGTH_FLOOR = 0.1
"""Log lengths that vary less are taken to vary by so much: where all voted answers are equally long, one of
another length is new, but not a thousand times as strange as anything else."""

FREEDOM = 2.0
"""Degrees of freedom of the tokens' prior; infinite is normal. On votes of two simulated tastes, of words and
of length, 1 to 3 were alike."""

ROUNDS = 2
"""So often the variances are found, with half the steps each: a third foresaw votes .002 nats better."""

ROWS = 2048
"""Answers whose features are in memory at once where that is enough."""


class Heads:
    """K heads. Before the first fit they give 0 to everything. `temperature` divides their mean's logits."""

    def __init__(
        self, features: AnswerFeatures, kind: Kind, settings: RewardSettings, prior_std: float, seed: int
    ) -> None:
        self.features, self.kind, self.settings = features, kind, settings
        self.prior_std, self.seed = prior_std, seed
        self._columns = features.columns(kind)
        self._width = max(columns.stop for columns in self._columns.values())
        width, heads = self._width, settings.heads
        generator = torch.Generator().manual_seed(seed)
        anchors = torch.randn(width, heads, generator=generator)  # in standard deviations of the prior
        self._anchors = anchors - anchors.mean(1, keepdim=True)  # the mean head's prior is centred on 0
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        width = self._width
        self._weights = torch.zeros(width, self.settings.heads)
        self.bias = torch.zeros(self.settings.heads)
        self._free: dict[int, Tensor] = {}
        self._mean, self._divisor = torch.zeros(width), torch.ones(width)
        self._centre, self._scale, self._ordinary = 0.0, 1.0, 0.0
        self.temperature = 1.0
        self.is_fitted = False

    def raw(self, features: Tensor) -> Tensor:
        """Every head's score (B, K) of features (B, F), in logits."""
        return (features - self._mean) / self._divisor @ self._weights

    def standard(self, features: Tensor) -> Tensor:
        """The scores (B, K) in standard deviations of the voted answers' scores, above their mean."""
        return (self.raw(features) - self._centre) / self._scale

    def odds(self, features: Tensor) -> Tensor:
        """The mean score (B,) in logits, above that of the answers that votes preferred or liked."""
        return self.raw(features).mean(1) - self._ordinary

    def mean_of(self, answers: Sequence[Answer]) -> Tensor:
        """The mean score (B,) of voted answers, in logits."""
        if not answers:
            return torch.zeros(0)
        parts = (answers[i : i + ROWS] for i in range(0, len(answers), ROWS))
        return torch.cat([self.raw(self.features.of_answers(part, self.kind)).mean(1) for part in parts])

    def worth(self, block: Block) -> tuple[Tensor, Tensor]:
        """What a unit of each feature of a block adds to the mean score, and the standard deviation of that
        a priori: (W,) each, in logits. For a kind that looks at tokens."""
        columns = self._columns[block]
        spread = self._likeliest(torch.full((self._width, 1), self.prior_std))[columns, 0]
        return self._weights[columns].mean(1) / self._divisor[columns], spread / self._divisor[columns]

    def thresholds(self, levels: int) -> Tensor:
        """The mean thresholds (levels - 1,) of ratings with so many levels."""
        known = self._free.get(levels)
        return default_thresholds(levels) if known is None else ordered_thresholds(known).mean(1)

    # ---- learning

    def fit(self, labels: Sequence[Label], steps: int) -> float:
        """Fit all heads to `labels` in at most `steps` L-BFGS iterations; the mean loss of a vote in nats."""
        votes = Votes(labels, noise=self.settings.noise, margin=self.settings.correction_margin)
        features = self.features.of_answers(votes.answers, self.kind)
        self._normalise(features)
        inputs = (features - self._mean) / self._divisor
        rows = vote_weights(votes.labels, self.settings.rater_cap)
        draws = torch.tensor(
            [bootstrap(self.seed, label.event_id, self.settings.heads) for label in votes.labels]
        )
        weights = torch.tensor(rows)[:, None] * draws
        weights /= weights.sum(0)
        spread = prior = torch.full((self._width, 1), self.prior_std)
        for _ in range(ROUNDS if "tokens" in self.kind.gains else 0):
            self._maximise(votes, inputs, weights, sum(rows), max(steps // 2, 1), spread)
            spread = self._likeliest(prior)
        loss = self._maximise(votes, inputs, weights, sum(rows), steps, spread)
        self._doubt_length(inputs)
        raw = self.raw(features).mean(1)
        self._centre = float(raw.mean())
        self._scale = max(float(raw.std(unbiased=False)), self.settings.min_scale)
        self._ordinary = float(raw[votes.good].mean()) if bool(votes.good.any()) else self._centre
        self.is_fitted = True
        return loss

    def _normalise(self, features: Tensor) -> None:
        """Centre and scale what is no occurrence as the voted answers' features (A, F) have it."""
        self._mean, self._divisor = torch.zeros(self._width), torch.ones(self._width)
        for name, columns in self._columns.items():
            gain = self.kind.gains[name]
            if name == "tokens":
                self._divisor[columns] = 1 / gain
                continue
            part = features[:, columns]
            floor = LENGTH_FLOOR if name == "length" else 1e-3
            self._mean[columns] = part.mean(0)
            spread = part.std(0, unbiased=False).clamp(min=floor)
            self._divisor[columns] = spread * math.sqrt(part.shape[1]) / gain

    def _likeliest(self, prior: Tensor) -> Tensor:
        """The standard deviations (F, 1) of the weights' priors, those of tokens as the mean head has them
        likeliest. prior: (F, 1), before anything was fitted."""
        spread, columns = prior.clone(), self._columns["tokens"]
        found = self._weights[columns].mean(1, keepdim=True) ** 2
        spread[columns] = ((FREEDOM * prior[columns] ** 2 + found) / (FREEDOM + 1)).sqrt()
        return spread

    def _maximise(
        self, votes: Votes, inputs: Tensor, weights: Tensor, whole: float, steps: int, spread: Tensor
    ) -> float:
        """Maximise all heads' posteriors. inputs: (A, F); weights: (N, K) of votes, columns sum to 1; whole:
        how many votes they stand for; spread: (F, 1), of the prior. Only the heads start from where they
        were."""
        settings = self.settings
        heads = self._weights.clone().requires_grad_()
        parameters = Parameters(settings.heads, votes.raters, votes.levels, votes.deeds)
        free = [heads, *(tensor.requires_grad_() for tensor in parameters.tensors())]
        optimizer = torch.optim.LBFGS(free, max_iter=steps, line_search_fn="strong_wolfe")

        def likelihood() -> Tensor:
            return (votes.losses(inputs @ heads, parameters) * weights).sum()

        def closure() -> Tensor:
            optimizer.zero_grad()
            prior = ((heads / spread - self._anchors) ** 2).sum() / 2
            prior = prior + parameters.penalty(self.prior_std, settings.leniency_std)
            total = likelihood() + prior / whole  # the likelihood is a mean over votes
            total.backward()  # type: ignore[no-untyped-call]
            return total

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        self._weights, self.bias = heads.detach(), parameters.bias.detach()
        self._free = {levels: tensor.detach() for levels, tensor in parameters.free.items()}
        with torch.no_grad():
            return float(likelihood()) / settings.heads

    def _doubt_length(self, inputs: Tensor) -> None:
        """Take that part of the slope of the answers' scores over log length out that the heads do not share.

        Raters may like long answers, or long answers may happen to be the good ones; reward models take the
        one for the other (Singhal et al. 2023, arXiv:2310.03716). How far a slope differs between bootstraps
        of the votes tells how well votes support it, so it is shrunk by the positive-part James-Stein factor
        1 - doubt * variance / mean^2: what people surely care for is kept.
        """
        column, gain = self._columns["length"].start, self.kind.gains["length"]
        length = inputs[:, column]  # centred
        spread = (length**2).sum()
        if not self.settings.length_doubt or spread < (0.1 * gain) ** 2 * len(length):
            return  # where lengths hardly differ, a slope over them means nothing
        slopes = length @ (inputs @ self._weights) / spread
        doubt = self.settings.length_doubt * float(slopes.var(unbiased=False))
        surely = float(slopes.mean() ** 2)
        kept = 0.0 if math.isinf(self.settings.length_doubt) else max(0.0, 1 - doubt / (surely + 1e-12))
        self._weights[column] -= (1 - kept) * slopes

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """All that an update changes."""
        return {
            "weights": self._weights.clone(),
            "bias": self.bias.clone(),
            "thresholds": {levels: tensor.clone() for levels, tensor in self._free.items()},
            "mean": self._mean.clone(),
            "divisor": self._divisor.clone(),
            "centre": self._centre,
            "scale": self._scale,
            "ordinary": self._ordinary,
            "temperature": self.temperature,
            "fitted": self.is_fitted,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described. Raises `ValueError` when it is of another shape of model."""
        if state["weights"].shape != self._weights.shape:
            raise ValueError(
                f"the state has heads of shape {tuple(state['weights'].shape)}; "
                f"{tuple(self._weights.shape)} is needed"
            )
        self._weights, self.bias = state["weights"].clone(), state["bias"].clone()
        self._free = {levels: tensor.clone() for levels, tensor in state["thresholds"].items()}
        self._mean, self._divisor = state["mean"].clone(), state["divisor"].clone()
        self._centre, self._scale, self._ordinary = state["centre"], state["scale"], state["ordinary"]
        self.temperature, self.is_fitted = state["temperature"], state["fitted"]
