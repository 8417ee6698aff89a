"""The interval of a mean: it holds the truth at every look, and becomes narrow."""

from itertools import pairwise

import numpy as np
import pytest

from deploy.evidence.interval import interval


def test_nothing_seen_is_nothing_known() -> None:
    assert interval(np.empty(0)) == (-1.0, 1.0)


@pytest.mark.parametrize("mean", [-0.6, 0.0, 0.26])
def test_the_truth_is_inside_at_every_look_in_nearly_all_services(mean: float) -> None:
    rng = np.random.default_rng(4)
    services, looks = 300, 400
    draws = np.where(rng.random((services, looks)) < (1 + mean) / 2, 1.0, -1.0)
    inside = [
        low <= mean <= high for low, high in map(interval, draws)
    ]  # which only narrows: the last is all
    assert np.mean(inside) >= 0.95
    # The simulation can tell: a normal interval of 95%, looked at as often, misses the truth far more often.
    counts = np.arange(30, looks + 1)
    means = draws.cumsum(axis=1)[:, 29:] / counts
    missed = (np.abs(means - mean) > 1.96 * np.sqrt((1 - mean**2) / counts)).any(axis=1)
    assert missed.mean() > 0.15


def test_it_only_narrows_and_ends_near_the_truth() -> None:
    draws = np.where(np.random.default_rng(5).random(4_000) < 0.63, 1.0, -1.0)
    found = [interval(draws[:n]) for n in (20, 100, 400, 4_000)]
    for before, after in pairwise(found):
        assert before.low <= after.low < after.high <= before.high
    assert found[-1].high - found[-1].low < 0.15
