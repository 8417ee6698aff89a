"""Feedback in TensorZero's shape becomes the vote that it means."""

import pytest

from tests.serve.conftest import Gateway


def post(gateway: Gateway, **body: object) -> tuple[int, dict[str, object]]:
    answer = gateway.http.post("/feedback", json=body)
    return answer.status_code, answer.json()


def test_every_type_of_feedback(gateway: Gateway) -> None:
    ours = gateway.signer.new_completion_id()
    sent: list[dict[str, object]] = [
        {"metric_name": "resolved", "inference_id": ours, "value": True, "tags": {"page": "help"}},
        {"metric_name": "seconds", "episode_id": "talk-1", "value": 12.5, "direction": "lower"},
        {"metric_name": "clicks", "inference_id": ours, "value": 3, "tags": {"direction": "higher"}},
        {"metric_name": "comment", "inference_id": ours, "value": "Nice."},
        {"metric_name": "demonstration", "inference_id": "their-own-id", "value": "Better."},
    ]
    answers = [post(gateway, **body) for body in sent]
    assert [status for status, _ in answers] == [200] * 5
    votes = gateway.votes()
    assert [answer["feedback_id"] for _, answer in answers] == [vote.event_id for vote in votes]
    assert [(v.kind, v.name, v.amount, v.text) for v in votes] == [
        ("metric", "resolved", 1.0, None),
        ("metric", "seconds", 12.5, None),
        ("metric", "clicks", 3.0, None),
        ("comment", None, None, "Nice."),
        ("correction", None, None, "Better."),
    ]
    assert [vote.direction for vote in votes] == ["higher", "lower", "higher", None, None]
    assert votes[0].metadata == {"page": "help"}
    assert (votes[1].targets[0].episode_id, votes[4].targets[0].external_id) == ("talk-1", "their-own-id")


def test_a_dry_run_stores_nothing(gateway: Gateway) -> None:
    status, answer = post(gateway, metric_name="solved", episode_id="e", value=1, dryrun=True)
    assert (status, bool(answer["feedback_id"])) == (200, True)
    assert gateway.votes() == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"inference_id": "x", "value": 1}, "metric_name"),
        ({"metric_name": "m", "value": 1}, "inference_id"),
        ({"metric_name": "m", "value": 1, "inference_id": "a", "episode_id": "b"}, "inference_id"),
        ({"metric_name": "m", "value": "high", "inference_id": "a"}, "value"),
        ({"metric_name": "comment", "value": 1, "inference_id": "a"}, "value"),
        ({"metric_name": "m", "value": 1, "inference_id": "a"}, "direction"),
        ({"metric_name": "comment", "value": "x", "inference_id": "a", "direction": "lower"}, "direction"),
        ({"metric_name": "m", "value": 1, "inference_id": "a", "colour": "red"}, "colour"),
    ],
)
def test_what_is_wrong_is_named(gateway: Gateway, body: dict[str, object], param: str) -> None:
    status, answer = post(gateway, **body)
    error = answer["error"]
    assert isinstance(error, dict)
    assert (status, error["param"]) == (400, param)
