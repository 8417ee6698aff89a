"""The e-process against a brute-force product, and its error and power by simulation."""

import math
import random

import pytest

from deploy.betting import BETS, EProcess


def brute_force(differences: list[float], margin: float) -> float:
    return sum(math.prod(1 + bet * (d + margin) for d in differences) for bet in BETS) / len(BETS)


@pytest.mark.parametrize("margin", [0.0, 0.02])
def test_equals_the_product(margin: float) -> None:
    rng = random.Random(3)
    process, seen = EProcess(margin), []
    for _ in range(200):
        difference = rng.uniform(-1, 1)
        seen.append(difference)
        process.observe(difference)
        exact = brute_force(seen, margin)
        assert process.evidence == pytest.approx(exact, rel=1e-9)
        assert process.reaches(exact * 0.999)
        assert not process.reaches(exact * 1.001)


def test_starts_at_one_and_survives_what_a_product_would_not() -> None:
    process = EProcess()
    assert process.evidence == 1.0
    for _ in range(20_000):
        process.observe(1.0)
    assert process.log_evidence == pytest.approx(20_000 * math.log1p(0.32) - math.log(5))
    assert process.evidence == pytest.approx(1e12)


def test_refuses_what_breaks_its_guarantee() -> None:
    with pytest.raises(ValueError, match=r"outside \[-1, 1\]"):
        EProcess().observe(1.5)
    with pytest.raises(ValueError, match="margin"):
        EProcess(margin=-0.1)


def run(rng: random.Random, canary: float, control: float, margin: float, pairs: int) -> tuple[bool, bool]:
    """Whether the e-process, and whether a z-test, ever rejects with a look after every pair."""
    process, total, squares = EProcess(margin), 0.0, 0.0
    e_rejects = z_rejects = False
    for n in range(1, pairs + 1):
        difference = float((rng.random() < canary) - (rng.random() < control))
        process.observe(difference)
        total, squares = total + difference + margin, squares + (difference + margin) ** 2
        e_rejects = e_rejects or process.evidence >= 20
        z_rejects = z_rejects or (n >= 20 and total >= 1.645 * math.sqrt(squares))
    return e_rejects, z_rejects


@pytest.mark.parametrize(("canary", "margin"), [(0.5, 0.0), (0.48, 0.02)])
def test_looking_after_every_pair_errs_at_most_once_in_twenty(canary: float, margin: float) -> None:
    rng = random.Random(11)
    outcomes = [run(rng, canary, 0.5, margin, pairs=400) for _ in range(300)]
    assert sum(e for e, _ in outcomes) / 300 <= 1 / 20
    # The simulation can tell: a z-test at the same level, looked at as often, errs several times as much.
    assert sum(z for _, z in outcomes) / 300 > 3 / 20


@pytest.mark.parametrize(("difference", "enough"), [(0.1, 600), (0.2, 170), (0.3, 100)])
def test_finds_a_better_policy_with_few_users(difference: float, enough: int) -> None:
    rng = random.Random(5)
    found = [run(rng, 0.5 + difference / 2, 0.5 - difference / 2, 0.02, enough)[0] for _ in range(100)]
    assert sum(found) >= 85
