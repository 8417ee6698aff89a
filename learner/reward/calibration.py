"""Calibration of probabilities: how far they are from what happens, and the temperature that mends it."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

TEMPERATURE_STD = 0.5
"""How far the logarithm of a temperature is from 0 a priori: a few votes do not change it much."""


@dataclass(frozen=True, slots=True)
class Report:
    """A reward model on votes that it was not fitted to.

    accuracy: of all votes (see `RewardModel.accuracy`), and by source. votes: how many there were, ties
    included. error, error_before: expected calibration error with and without the temperature. Each vote's
    error is measured with a temperature that was fitted to the other half of the votes.
    """

    votes: int
    accuracy: float
    error: float
    error_before: float
    temperature: float
    by_source: dict[str, float] = field(default_factory=dict)


def calibration_error(
    probabilities: Tensor, values: Tensor, weights: Tensor | None = None, bins: int = 10
) -> float:
    """Expected calibration error of two-way predictions (Guo et al. 2017, arXiv:1706.04599, equation 3).

    probabilities: (N,) that the first outcome happens; values: (N,) 1 where it did, 0 where the other did,
    0.5 for half of each; weights: (N,) of the predictions, equal without them. Predictions lie in `bins` bins
    of equal width by their confidence in the likelier outcome, from 0.5 to 1; the gaps between confidence and
    accuracy are averaged over predictions.
    """
    if not len(probabilities):
        return 0.0
    probabilities, values = probabilities.double(), values.double()
    weights = torch.ones_like(values) if weights is None else weights.double()
    confidence = torch.maximum(probabilities, 1 - probabilities)
    right = torch.where(probabilities >= 0.5, values, 1 - values)
    place = ((confidence - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add(0, place, weights * (confidence - right))
    return float(gaps.abs().sum() / weights.sum())


def fit_temperature(logits: Tensor, values: Tensor, weights: Tensor | None = None) -> float:
    """The temperature T that makes sigmoid(logits / T) likeliest (Guo et al. 2017, section 4.2).

    logits, values, weights: (N,) as in `calibration_error`. The likelihood is concave in 1 / T; log T has a
    normal prior around 0 of the standard deviation `TEMPERATURE_STD`. Found by golden section between 1/20
    and 20.
    """
    logits, values = logits.double(), values.double()
    weight = None if weights is None else weights.double()

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        nats = binary_cross_entropy_with_logits(scaled, values, weight, reduction="sum")
        return float(nats) + log_temperature**2 / (2 * TEMPERATURE_STD**2)

    low, high = -math.log(20), math.log(20)
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > 1e-4:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(right)
    return math.exp((low + high) / 2)


def held_out_error(logits: Tensor, values: Tensor, weights: Tensor, half: Tensor) -> float:
    """Calibration error where the temperature of each half (N,), True or False, was fitted to the other."""
    scaled = logits.clone()
    for part in (half, ~half):
        if bool(part.any()) and bool((~part).any()):
            scaled[part] = logits[part] / fit_temperature(logits[~part], values[~part], weights[~part])
    return calibration_error(torch.sigmoid(scaled), values, weights)
