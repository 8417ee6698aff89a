"""The gate: every limit refuses on its own, with the number and the limit in the sentence."""

import math
from typing import Any

import pytest

from deploy.decide.gate import GateLimits, verdict
from tests.deploy.builders import GOOD_GATE


def test_a_good_candidate_passes() -> None:
    judged = verdict(GOOD_GATE, GateLimits())
    assert judged.passed
    assert "0.60" in judged.sentence


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"kl_nats_base": 10.5}, ["KL to base is 10.500 nats", "budget of 10.000"]),
        ({"kl_nats_live": 2.1}, ["KL to live is 2.100 nats", "budget of 2.000"]),
        ({"kl_budget_nats_live": math.nan}, ["KL to live"]),
        ({"kl_nats_live": 1.9, "kl_nats_live_high": 2.1}, ["1.900 nats", "as high as 2.100", "of 2.000"]),
        ({"kl_nats_base_high": math.nan}, ["KL to base", "as high as nan"]),
        ({"win_rate_low": 0.5}, ["0.600", "above 0.500"]),
        ({"prompts": 31}, ["31 prompts", "at least 32"]),
        ({"response_tokens": 160}, ["8.89 times", "0.125 to 8 times"]),
        ({"response_tokens": 2}, ["0.11 times"]),
        ({"response_tokens_live": 0}, ["no measured length"]),
        ({"win_rate": math.nan}, ["win_rate is nan"]),
        ({"kl_nats_base": math.inf, "kl_budget_nats_base": math.inf}, ["kl_nats_base is inf"]),
    ],
)
def test_each_limit_refuses(numbers: dict[str, Any], words: list[str]) -> None:
    judged = verdict(GOOD_GATE.model_copy(update=numbers), GateLimits())
    assert not judged.passed
    for word in words:
        assert word in judged.sentence


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="win_rate_low"):
        GateLimits(win_rate_low=1.0)
    with pytest.raises(ValueError, match="enclose 1"):
        GateLimits(length_ratio_low=1.5)
