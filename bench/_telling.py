"""How well something can be told from what was seen: the area under a curve, and a guess by all features."""

from collections.abc import Sequence

import numpy as np

from deploy.evidence.betting import Array

_STEPS, _RATE, _RIDGE = 400, 0.5, 1e-3


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """How often a positive's score is above a negative's, ties half: .5 when it says nothing."""
    ours, theirs = np.asarray(positive), np.asarray(negative)
    above = (ours[:, None] > theirs[None, :]).mean() + 0.5 * (ours[:, None] == theirs[None, :]).mean()
    return float(above)


def guessed(features: Array, truth: Array) -> float:
    """The share guessed rightly of one half by a logistic regression that was fitted to the other half.

    features: (N, F), in an order that says nothing; truth: (N,) of 0 and 1.
    """
    half = len(truth) // 2
    spread = features[:half].std(0)
    scaled = (features - features[:half].mean(0)) / np.where(spread > 0, spread, 1)
    weights, bias = np.zeros(features.shape[1]), 0.0
    for _ in range(_STEPS):
        wrong = 1 / (1 + np.exp(-np.clip(scaled[:half] @ weights + bias, -30, 30))) - truth[:half]
        weights -= _RATE * (scaled[:half].T @ wrong / half + _RIDGE * weights)
        bias -= _RATE * float(wrong.mean())
    right = (scaled[half:] @ weights + bias > 0) == (truth[half:] > 0.5)
    return float(right.mean())
