"""Settings: defaults that fit production, and combinations that cannot work are refused."""

from pathlib import Path
from typing import Any

import pytest

from deploy.settings import ControllerSettings


def settings(**options: Any) -> ControllerSettings:
    return ControllerSettings(data=Path("data"), engines=("http://127.0.0.1:8001",), **options)


def test_the_defaults_and_the_demos_values_are_valid() -> None:
    assert settings().release_rules.ladder[0] == (0.01, 600)
    assert (settings().evidence_rules.windows_per_user, settings().evidence_rules.margin) == (1, 0.0)
    fast = settings(ladder=((0.05, 6), (0.25, 10), (0.5, 0)), window_seconds=5)
    assert [rung.weight for rung in fast.release_rules.ladder] == [0.05, 0.25, 0.5]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engines": ()}, "at least one vLLM server"),
        ({"ladder": ()}, "at least one"),
        ({"ladder": ((0.25, 1), (0.05, 1))}, "above the one before"),
        ({"ladder": ((0.05, 1),)}, "promoted from 0.25"),
        ({"ladder": ((0.25, 1), (0.6, 1))}, r"in \(0, 0.5\]"),
        ({"ladder": ((0.25, -1),)}, "0 seconds or more"),
        ({"windows_per_user": 0}, "at least 1"),
        ({"margin": 1.0}, "margin"),
        ({"tolerance": 0.4}, r"tolerance is 0.4; it has to be in \(0, 0.4\)"),
        ({"voters_tolerance": 0.0}, r"voters_tolerance is 0.0"),
        ({"match_seconds": 0.0}, "match_seconds"),
        ({"exposure_budget": 49}, "at least rung_users, 50, are needed"),
        ({"promote_bound": 1.0}, "above 1"),
        ({"holdback_weight": 0.0}, "holdback_weight"),
        ({"holdback_min_seconds": 10, "holdback_max_seconds": 5}, "at most"),
        ({"window_seconds": 0}, "window_seconds"),
        ({"parity_tolerance_nats": float("nan")}, "parity_tolerance_nats"),
        ({"parity_noise_nats": 0.0}, "parity_noise_nats"),
        ({"drain_seconds": -1}, "drain_seconds"),
        ({"longest_answer_seconds": float("nan")}, "longest_answer_seconds"),
        ({"webhook_patience_seconds": 0}, "webhook_patience_seconds"),
        ({"webhooks": ("ops.example.com",)}, "'ops.example.com' is not a URL"),
        ({"webhooks": ("http://",)}, "is not a URL"),
        ({"webhooks": ("http://ops:port",)}, "is not a URL"),
        ({"webhooks": ("http://ops/a b",)}, "is not a URL"),
        ({"webhooks": ("http://10.0.0.1/x", "http://10.0.0.1/x")}, "named twice"),
    ],
)
def test_what_cannot_work_is_refused_with_what_would(options: dict[str, Any], words: str) -> None:
    base: dict[str, Any] = {"data": Path("data"), "engines": ("http://127.0.0.1:8001",)}
    with pytest.raises(ValueError, match=words):
        ControllerSettings(**{**base, **options})
