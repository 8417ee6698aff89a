"""Batches of votes: an answer for each, in order, and one durable append for all."""

from collections.abc import Sequence

import httpx
import orjson
import pytest

from feedback.core.ids import Signer
from tests.serve.conftest import SECRET, Gateway, Start

IDS = [Signer(SECRET).new_completion_id() for _ in range(4)]


def thumb(target: str, value: str = "up", **more: object) -> dict[str, object]:
    return {"kind": "thumbs", "completion_id": target, "value": value, "user": "ada", **more}


def lines(gateway: Gateway, votes: Sequence[object], **headers: str) -> httpx.Response:
    body = b"\n".join(vote if isinstance(vote, bytes) else orjson.dumps(vote) for vote in votes)
    return gateway.http.post(
        "/v1/feedback", content=body, headers={"content-type": "application/x-ndjson", **headers}
    )


def array(gateway: Gateway, votes: Sequence[object]) -> httpx.Response:
    return gateway.http.post("/v1/feedback", json=list(votes))


def test_lines_and_arrays_mean_the_same(gateway: Gateway) -> None:
    votes = [thumb(target) for target in IDS]
    one, other = lines(gateway, votes), array(gateway, votes)
    assert one.status_code == other.status_code == 207
    assert one.json() == other.json()
    answer = one.json()
    assert (answer["accepted"], answer["rejected"]) == (4, 0)
    events = gateway.votes()
    assert [result["id"] for result in answer["results"]] == [event.event_id for event in events[:4]]
    assert [result["index"] for result in answer["results"]] == [0, 1, 2, 3]
    assert len(events) == 8
    revisions = [event.revision for event in events]
    assert revisions == sorted(set(revisions))


def test_each_vote_is_answered_for_itself(gateway: Gateway) -> None:
    foreign = Signer(b"another secret, long enough").new_completion_id()
    votes = [thumb(IDS[0]), {"kind": "stars"}, b"{", thumb(foreign), 7, thumb(IDS[1], "down")]
    answer = lines(gateway, [*votes, b"", b"  "])
    assert answer.status_code == 207
    results = answer.json()["results"]
    assert [result["status"] for result in results] == [202, 400, 400, 404, 400, 202]
    assert results[1]["error"]["param"] == "kind"
    assert results[2]["error"]["code"] == "invalid_json"
    assert results[3]["error"]["code"] == "completion_not_found"
    assert [event.label for event in gateway.votes()] == ["up", "down"]


def test_a_batch_of_nothing_good_stores_nothing(gateway: Gateway) -> None:
    answer = array(gateway, [{"kind": "stars"}, None])
    assert (answer.status_code, answer.json()["accepted"]) == (207, 0)
    assert gateway.votes() == []


def test_a_thousand_votes_and_not_one_more(gateway: Gateway) -> None:
    votes = [thumb(IDS[0], choice=i) for i in range(1000)]
    assert lines(gateway, votes).json()["accepted"] == 1000
    for send in (lines, array):
        answer = send(gateway, [*votes, votes[0]])
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "batch_too_large")
    assert array(gateway, []).status_code == lines(gateway, [b"\n"]).status_code == 400
    assert len(gateway.records("feedback")) == 1000


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json; charset=utf-8", 202),
        ("application/vnd.api+json", 202),
        ("application/x-www-form-urlencoded", 415),
        ("text/html", 415),
        ("application/jsonl", 207),
        ("Application/X-NDJSON", 207),
    ],
)
def test_content_types(gateway: Gateway, content_type: str, status: int) -> None:
    answer = gateway.http.post(
        "/v1/feedback", content=orjson.dumps(thumb(IDS[0])), headers={"content-type": content_type}
    )
    assert answer.status_code == status


def test_a_dry_run_stores_nothing_and_shows_the_event(gateway: Gateway) -> None:
    one = gateway.http.post("/v1/feedback", json=thumb(IDS[0], dry_run=True))
    assert one.status_code == 200
    assert (one.json()["status"], one.json()["event"]["label"]) == ("valid", "up")
    many = array(gateway, [thumb(IDS[0], dry_run=True), thumb(IDS[1])])
    assert [result["status"] for result in many.json()["results"]] == [200, 202]
    assert many.json()["results"][0]["id"] == one.json()["id"]
    assert len(gateway.votes()) == 1


def test_a_batch_with_a_key_is_done_once(gateway: Gateway) -> None:
    votes = [thumb(IDS[0]), {"kind": "stars"}]
    first = lines(gateway, votes, **{"idempotency-key": "b1"})
    again = lines(gateway, votes, **{"idempotency-key": "b1"})
    assert (first.status_code, again.status_code, first.text == again.text) == (207, 207, True)
    assert lines(gateway, votes[:1], **{"idempotency-key": "b1"}).status_code == 422
    assert len(gateway.votes()) == 1


def test_keys_of_single_votes_in_a_batch(gateway: Gateway) -> None:
    votes = [thumb(IDS[0], idempotency_key="k1"), thumb(IDS[1], idempotency_key="k2"), thumb(IDS[2])]
    assert gateway.http.post("/v1/feedback", json=votes[0]).status_code == 202
    changed = {**votes[1], "value": "down"}
    assert array(gateway, votes).json()["accepted"] == 3
    results = array(gateway, [votes[0], changed]).json()["results"]
    assert [result["status"] for result in results] == [202, 422]
    assert [event.targets[0].completion_id for event in gateway.votes()] == IDS[:3]


def test_the_same_key_twice_in_one_batch(gateway: Gateway) -> None:
    vote = thumb(IDS[0], idempotency_key="k1")
    results = array(gateway, [vote, vote]).json()["results"]
    assert [result["status"] for result in results] == [202, 409]
    assert len(gateway.votes()) == 1


def test_a_log_that_cannot_be_written_refuses_the_whole_batch(start: Start) -> None:
    from concurrent.futures import Future

    from feedback.core.log import LogUnavailable
    from feedback.sqlite.log import SqliteLog

    class Full(SqliteLog):
        full = False

        def append(self, entries):  # type: ignore[no-untyped-def]
            if not self.full:
                return super().append(entries)
            refused: Future[None] = Future()
            refused.set_exception(LogUnavailable("disk full"))
            return refused

    gateway = start()
    log = Full(gateway.data / "other.db")
    full = start(events=log)
    log.full = True
    votes = [thumb(IDS[0], idempotency_key="k1"), thumb(IDS[1])]
    answer = array(full, votes)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "log_unavailable")
    assert answer.headers["retry-after"]
    log.full = False
    assert array(full, votes).json()["accepted"] == 2
    log.close()
