"""Calibration against plain sums in float64, and temperatures that are known."""

import math
import random

import pytest
import torch

from learner.reward.calibration import calibration_error, fit_temperature, held_out_error


def reference_error(
    probabilities: list[float], values: list[float], weights: list[float], bins: int
) -> float:
    """Expected calibration error as Guo et al. 2017 write it: bin by bin."""
    total = 0.0
    for b in range(bins):
        inside = []
        for p, value, weight in zip(probabilities, values, weights, strict=True):
            confidence, right = (p, value) if p >= 0.5 else (1 - p, 1 - value)
            if 0.5 + b / (2 * bins) <= confidence < 0.5 + (b + 1) / (2 * bins) + (b == bins - 1):
                inside.append((weight, confidence, right))
        size = sum(weight for weight, _, _ in inside)
        if size:
            accuracy = sum(w * right for w, _, right in inside) / size
            confidence = sum(w * c for w, c, _ in inside) / size
            total += size / sum(weights) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_calibration_error_is_that_of_the_definition(bins: int) -> None:
    draw = random.Random(bins)
    probabilities = [draw.random() for _ in range(500)] + [0.0, 1.0, 0.5]
    values = [draw.choice((0.0, 0.5, 1.0)) for _ in probabilities]
    weights = [draw.random() for _ in probabilities]
    p, v, w = (torch.tensor(each, dtype=torch.float64) for each in (probabilities, values, weights))
    expected = reference_error(probabilities, values, weights, bins)
    assert calibration_error(p, v, w, bins) == pytest.approx(expected, abs=1e-12)
    assert calibration_error(p, v, bins=bins) == pytest.approx(
        reference_error(probabilities, values, [1.0] * len(values), bins), abs=1e-12
    )
    assert calibration_error(torch.zeros(0), torch.zeros(0)) == 0.0


def outcomes(count: int, seed: int, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are too large by a factor, and what happens."""
    draw = random.Random(seed)
    true = [draw.gauss(0, 1.5) for _ in range(count)]
    values = [float(draw.random() < 1 / (1 + math.exp(-logit))) for logit in true]
    return torch.tensor(true) * temperature, torch.tensor(values)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_is_found_and_makes_the_error_small_on_other_votes(temperature: float) -> None:
    logits, values = outcomes(4000, 1, temperature)
    found = fit_temperature(logits, values)
    assert found == pytest.approx(temperature, rel=0.1)
    others, happened = outcomes(4000, 2, temperature)
    before = calibration_error(torch.sigmoid(others), happened)
    after = calibration_error(torch.sigmoid(others / found), happened)
    assert after < 0.03
    if temperature != 1.0:
        assert after < 0.5 * before


def test_it_is_the_likeliest_one_and_weights_count_like_votes() -> None:
    logits, values = outcomes(300, 3, 2.0)

    def loss(temperature: float) -> float:
        nats = torch.nn.functional.binary_cross_entropy_with_logits(
            logits.double() / temperature, values.double(), reduction="sum"
        )
        return float(nats) + math.log(temperature) ** 2 / (2 * 0.5**2)

    found = fit_temperature(logits, values)
    assert loss(found) <= min(loss(found * 1.02), loss(found / 1.02))
    doubled = fit_temperature(torch.cat([logits, logits[:100]]), torch.cat([values, values[:100]]))
    weights = torch.tensor([2.0] * 100 + [1.0] * 200)
    assert fit_temperature(logits, values, weights) == pytest.approx(doubled, rel=1e-3)


def test_a_few_votes_change_the_temperature_little() -> None:
    assert fit_temperature(torch.tensor([4.0]), torch.tensor([0.0])) < 3.5
    assert fit_temperature(torch.zeros(0), torch.zeros(0)) == pytest.approx(1.0, abs=1e-3)


def test_each_half_is_measured_with_the_others_temperature() -> None:
    logits, values = outcomes(400, 4, 3.0)
    half = torch.arange(400) < 150
    scaled = logits.clone()
    scaled[half] /= fit_temperature(logits[~half], values[~half])
    scaled[~half] /= fit_temperature(logits[half], values[half])
    weights = torch.ones(400)
    expected = calibration_error(torch.sigmoid(scaled), values)
    assert held_out_error(logits, values, weights, half) == pytest.approx(expected, abs=1e-9)
    one_sided = held_out_error(logits, values, weights, torch.ones(400, dtype=torch.bool))
    assert one_sided == pytest.approx(calibration_error(torch.sigmoid(logits), values))
