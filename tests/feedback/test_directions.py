"""A metric's name tells which way is better, or it does not and says so."""

import pytest

from feedback.rows.directions import GOODS, HARMS, PLAIN, SCALES, direction_of


@pytest.mark.parametrize(
    "name",
    [
        *(
            "toxicity",
            "Toxicity",
            "toxicity_score",
            "errorRate",
            "error-rate",
            "errors",
            "refusals",
            "LATENCY_MS",
        ),
        *("hallucination rate", "bias", "user.complaints", "cost", "avg_cost_per_chat", "thumbs_down_failed"),
        *("HarmScore", "p95_latency", "is_toxic", "retries", "crashes", "losses"),
    ],
)
def test_harm_is_better_when_there_is_less(name: str) -> None:
    assert direction_of(name) == "lower"


@pytest.mark.parametrize(
    "name",
    [
        *(
            "score",
            "user_rating",
            "helpfulness",
            "answerAccuracy",
            "quality",
            "customer satisfaction",
            "resolved",
        ),
        *(
            "harmlessness",
            "faithfulness",
            "user-feedback",
            "overall_score",
            "conversion_rate",
            "win_rate",
            "CSAT",
        ),
    ],
)
def test_good_is_better_when_there_is_more(name: str) -> None:
    assert direction_of(name) == "higher"


@pytest.mark.parametrize(
    "name",
    [
        *("clicks", "minutes", "x", "", "readability_score", "sentiment", "rate", "café", "length"),
        *("complaint_resolution", "error_recovery_success", "cost_effectiveness"),  # a word of both
        *("resolution_time", "seconds_to_success", "accuracy_drop", "error_reduction", "completion_tokens"),
        *("no_errors", "nonToxic non toxic", "bias_free", "not_helpful", "without refusal"),
    ],
)
def test_what_a_name_does_not_tell_is_not_guessed(name: str) -> None:
    assert direction_of(name) is None


def test_no_word_is_on_two_lists() -> None:
    assert sum(map(len, (HARMS, GOODS, SCALES, PLAIN))) == len(HARMS | GOODS | SCALES | PLAIN)
