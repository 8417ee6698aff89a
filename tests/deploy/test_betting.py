"""The e-process against a brute-force product, and its error and power by simulation."""

import math
import random

import numpy as np
import pytest

from deploy.evidence.betting import BETS, WEIGHTS, Array, log_evidence, shown


def brute_force(gains: list[float]) -> float:
    return sum(w * math.prod(1 + bet * g for g in gains) for bet, w in zip(BETS, WEIGHTS, strict=True))


def test_equals_the_product_after_each_gain() -> None:
    rng = random.Random(3)
    gains = [rng.uniform(-1, 1) + 0.02 for _ in range(200)]
    found = np.exp(log_evidence(np.array(gains)))
    assert found == pytest.approx([brute_force(gains[: n + 1]) for n in range(200)], rel=1e-9)


def test_starts_at_one_and_survives_what_a_product_would_not() -> None:
    assert sum(WEIGHTS) == pytest.approx(1.0)
    assert log_evidence(np.empty(0)).shape == (0,)
    last = log_evidence(np.ones(20_000))[-1]
    assert last == pytest.approx(20_000 * math.log1p(BETS[-1]) + math.log(WEIGHTS[-1]))
    assert shown(last) == pytest.approx(1e12)
    assert shown(log_evidence(-np.ones(20_000))[-1]) == 0.0


def test_refuses_what_breaks_its_guarantee() -> None:
    with pytest.raises(ValueError, match=r"-1\.7 is below -1\.6"):
        log_evidence(np.array([0.5, -1.7]))
    with pytest.raises(ValueError, match="nan"):
        log_evidence(np.array([math.nan]))


def differences(seed: int, canary: float, control: float, pairs: int, runs: int) -> Array:
    draw = np.random.default_rng(seed).random((2, runs, pairs))
    return np.asarray((draw[0] < canary).astype(float) - (draw[1] < control))


@pytest.mark.parametrize(("canary", "margin"), [(0.5, 0.0), (0.48, 0.02)])
def test_looking_after_every_pair_errs_at_most_once_in_twenty(canary: float, margin: float) -> None:
    gains = differences(11, canary, 0.5, pairs=400, runs=4_000) + margin
    assert np.mean([log_evidence(each).max() >= math.log(20) for each in gains]) <= 1 / 20
    # The simulation can tell: a z-test at the same level, looked at as often, errs several times as much.
    total, squares = gains.cumsum(axis=1)[:, 20:], (gains**2).cumsum(axis=1)[:, 20:]
    assert np.mean((total >= 1.645 * np.sqrt(squares)).any(axis=1)) > 3 / 20


@pytest.mark.parametrize(("difference", "enough"), [(0.1, 700), (0.2, 200), (0.3, 100), (0.8, 16)])
def test_finds_a_better_policy_with_few_users(difference: float, enough: int) -> None:
    gains = differences(5, 0.5 + difference / 2, 0.5 - difference / 2, enough, runs=100)
    assert np.mean([log_evidence(each).max() >= math.log(20) for each in gains]) >= 0.85
