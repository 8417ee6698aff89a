"""Guards against forgetting: what refuses, what only says that it cannot judge, and the lines of both."""

import math

import pytest

from deploy.decide.gate import GateLimits, verdict
from deploy.guards import Guard, GuardLimits
from deploy.registry.manifest import GateNumbers
from tests.deploy.builders import GOOD_GATE


def guard(best: float | None, side: str = "at most", limit: float = 1.02) -> Guard:
    return Guard.model_validate(
        {
            "name": "second domain", "what": "the perplexity", "figure": best, "best": best, "limit": limit,
            "side": side, "count": 64, "lacks": "there are 3, 16 are needed",
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("best", "side", "refuses"),
    [
        (1.02, "at most", False),
        (1.021, "at most", True),
        (1.02, "at least", False),
        (1.019, "at least", True),
        (math.nan, "at most", True),
        (math.nan, "at least", True),
        (math.inf, "at most", True),
        (None, "at most", False),
    ],
)
def test_a_guard_refuses_past_its_limit(best: float | None, side: str, refuses: bool) -> None:
    assert guard(best, side).refuses is refuses
    numbers = GOOD_GATE.model_copy(update={"guards": [guard(0.9), guard(best, side)]})
    assert verdict(numbers, GateLimits()).passed is not refuses


def test_the_report_says_which_guard_refused_with_figure_and_limit() -> None:
    refusing = guard(1.0834)
    numbers = GOOD_GATE.model_copy(update={"guards": [guard(1.0), refusing]})
    judged = verdict(numbers, GateLimits())
    assert not judged.passed
    line = "second domain: the perplexity is 1.083, or 1.083 at best, on 64; at most 1.02 is allowed"
    assert judged.report[1] == line
    assert line in judged.sentence
    assert judged.report[0] not in judged.sentence


def test_a_guard_without_enough_data_says_so() -> None:
    judged = verdict(GOOD_GATE.model_copy(update={"guards": [guard(None)]}), GateLimits())
    assert judged.passed
    assert judged.report == ("second domain: not judged, there are 3, 16 are needed",)
    assert "not guarded, for want of data: second domain" in judged.sentence
    assert "not guarded" not in verdict(GOOD_GATE, GateLimits()).sentence


def test_guards_survive_a_manifest() -> None:
    numbers = GateNumbers(guards=[guard(math.inf), guard(None), guard(1.0)])
    again = GateNumbers.model_validate_json(numbers.model_dump_json())
    assert again == numbers
    assert GateNumbers.model_validate_json("{}").guards == []  # of a manifest of before


def test_the_error_is_shared_out_among_guards() -> None:
    limits = GuardLimits()
    assert limits.z(1) == pytest.approx(1.645, abs=1e-3)
    assert limits.z(5) == pytest.approx(2.326, abs=1e-3)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"demonstration_perplexity": 1.0}, "demonstration_perplexity is 1.0"),
        ({"second_domain_perplexity": math.nan}, "second_domain_perplexity"),
        ({"refusals_rise": 0.0}, "refusals_rise"),
        ({"cluster_win_rate": 0.5}, "cluster_win_rate"),
        ({"error": 0.5}, "error"),
        ({"least": 7}, "least"),
        ({"refusal_pattern": "("}, "no regular expression"),
    ],
)
def test_limits_that_make_no_sense_are_refused(bad: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GuardLimits(**bad)  # type: ignore[arg-type]
