"""Each kind of vote: what is logged of it, and what is refused by field."""

import asyncio
import time
from typing import Any

import httpx
import orjson
import pytest

from feedback.core.events import Feedback
from feedback.core.ids import Signer
from feedback.shared import SqliteStore
from serve.http.errors import IdempotencyConflict, StillRunning
from serve.http.idempotency import Idempotency, Reply
from tests.serve.conftest import SECRET, Gateway, Start

IDS = [Signer(SECRET).new_completion_id() for _ in range(4)]
ONE = {"completion_id": IDS[0], "user": "ada"}
RATING = {"kind": "rating", "value": 4, **ONE}
RANKING = {"kind": "ranking", "groups": [[IDS[2]], [IDS[0], IDS[1]]], "user": "ada"}
CORRECTION = {"kind": "correction", "text": "It is on its way.", **ONE}
COMMENT = {"kind": "comment", "text": "Too cold.", **ONE}
METRIC = {"kind": "metric", "name": "resolved", "value": 3, **ONE}
SIGNAL = {"kind": "signal", "name": "copied", **ONE}
AGAIN = {"kind": "signal", "name": "regenerated", "regeneration_of": IDS[1], **ONE}
PAIR = {"kind": "comparison", "a": IDS[0], "b": IDS[1], "preferred": "a", "user": "ada"}
THUMBS = {"kind": "thumbs", "value": "up", **ONE}


def send(gateway: Gateway, body: object) -> httpx.Response:
    return gateway.http.post("/v1/feedback", json=body)


def logged(gateway: Gateway, body: object) -> Feedback:
    answer = send(gateway, body)
    assert answer.status_code == 202, answer.text
    event = gateway.votes()[-1]
    assert event.event_id == answer.json()["id"]
    return event


def test_ratings(gateway: Gateway) -> None:
    for scale, value, share in (
        (None, 4, 0.75),
        ([0, 10], 2.5, 0.25),
        ([-1, 1], 1, 1.0),
        ([1, 5], 1, 0.0),
    ):
        event = logged(gateway, RATING | {"value": value} | ({"scale": scale} if scale else {}))
        assert (event.value, event.amount, event.scale) == (share, value, tuple(scale or [1, 5]))
        assert event.label == "rated"


def test_comparisons_with_both_bad_and_their_order_on_the_screen(gateway: Gateway) -> None:
    event = logged(gateway, PAIR | {"preferred": "both_bad", "presented": ["b", "a"]})
    assert (event.value, event.label, event.presented) == (0.5, "both_bad", [1, 0])
    sides = [{"completion_id": IDS[0], "choice": 1}, {"external_id": "msg-2"}]
    event = logged(gateway, {"kind": "comparison", "targets": sides, "preferred": "b"})
    assert [target.place for target in event.targets] == [(IDS[0], 1), ("external:msg-2", 0)]


def test_rankings_with_ties(gateway: Gateway) -> None:
    event = logged(gateway, RANKING)
    assert [target.completion_id for target in event.targets] == [IDS[2], IDS[0], IDS[1]]
    assert event.groups == [[0], [1, 2]]
    other = [[{"completion_id": IDS[0], "choice": 1}], [{"completion_id": IDS[0], "choice": 0}]]
    event = logged(gateway, {"kind": "ranking", "groups": other})
    assert [target.choice for target in event.targets] == [1, 0]
    turned = logged(gateway, RANKING | {"groups": [[IDS[1]], [IDS[2]], [IDS[0]]]})
    assert turned.event_id == logged(gateway, RANKING).event_id  # a changed mind about the same answers


def test_corrections_comments_and_metrics(gateway: Gateway) -> None:
    assert logged(gateway, CORRECTION).text == "It is on its way."
    assert logged(gateway, COMMENT).text == "Too cold."
    event = logged(gateway, METRIC | {"range": [0, 4], "direction": "lower"})
    assert (event.name, event.amount, event.scale, event.direction) == ("resolved", 3.0, (0.0, 4.0), "lower")
    assert event.value == 0.25
    assert logged(gateway, METRIC).value == 0.5  # nobody knows what is much
    assert logged(gateway, METRIC | {"value": True}).value == 1.0
    clicks = logged(gateway, METRIC | {"name": "clicks", "direction": "higher"})
    assert clicks.event_id != event.event_id  # another outcome of the same answer


def test_signals(gateway: Gateway) -> None:
    event = logged(gateway, SIGNAL)
    assert (event.name, event.label, event.amount, event.shown) == ("copied", "yes", 1.0, True)
    for value, label, amount in ((True, "yes", 1.0), (False, "no", 0.0), (12.5, "amount", 12.5)):
        again = logged(gateway, SIGNAL | {"value": value})
        assert (again.event_id, again.label, again.amount) == (event.event_id, label, amount)
        assert again.value == 0.5  # what is good the learner finds out
    unseen = logged(gateway, SIGNAL | {"shown": False})
    assert (unseen.label, unseen.shown, unseen.amount) == ("not_shown", False, None)
    assert logged(gateway, SIGNAL | {"name": "edited"}).event_id != event.event_id
    episode = logged(gateway, {"kind": "signal", "name": "resolved", "episode_id": "chat-1"})
    assert episode.targets[0].place == ("episode:chat-1", 0)


def test_a_regenerated_answer_is_linked_to_the_one_before(gateway: Gateway) -> None:
    event = logged(gateway, AGAIN)
    assert [target.completion_id for target in event.targets] == [IDS[0], IDS[1]]  # the new one first
    assert (event.label, event.value) == ("regenerated", 0.5)
    for kept, value in (("new", 1.0), ("old", 0.0)):
        known = logged(gateway, AGAIN | {"kept": kept})  # the same signal, once it is known
        assert (known.event_id, known.label, known.value) == (event.event_id, f"kept_{kept}", value)
    foreign = send(gateway, AGAIN | {"regeneration_of": "chatcmpl-nobodys"})
    assert (foreign.status_code, foreign.json()["error"]["param"]) == (404, "regeneration_of")


def test_targets_of_the_teams_own(gateway: Gateway) -> None:
    own = {"kind": "thumbs", "value": "up", "user": "ada"}
    event = logged(gateway, own | {"external_id": "msg-1", "choice": 1})
    assert [target.place for target in event.targets] == [("external:msg-1", 1)]
    event = logged(gateway, own | {"episode_id": "chat-1"})
    assert [target.place for target in event.targets] == [("episode:chat-1", 0)]
    assert logged(gateway, own | {"targets": [{"episode_id": "chat-1"}]}).event_id == event.event_id


def test_everything_else_that_a_vote_may_say(gateway: Gateway) -> None:
    said = {
        "reasons": ["too_long", "style", "style"],
        "tags": ["beta"],
        "comment": "See ticket 7.",
        "source": "annotator",
        "weight": 0.5,
        "occurred_at": "2020-01-01T00:00:00Z",
        "metadata": {"page": "help"},
    }
    answer = send(gateway, THUMBS | said)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "occurred_at")
    now = round(time.time())
    event = logged(gateway, THUMBS | said | {"occurred_at": now - 3600})
    assert (event.reasons, event.tags, event.comment) == (["too_long", "style"], ["beta"], "See ticket 7.")
    assert (event.source, event.weight, event.occurred_at) == ("annotator", 0.5, now - 3600)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(now))
    assert logged(gateway, THUMBS | {"occurred_at": stamp}).occurred_at == now


def test_a_thumb_is_logged_as_it_always_was(gateway: Gateway) -> None:
    logged(gateway, THUMBS)
    stored = orjson.loads(gateway.records("feedback")[0].value)
    assert stored.keys() == {
        "schema_version", "event_id", "at", "tenant", "revision", "kind", "rater", "targets", "value",
        "label", "source", "metadata", "key_id",
    }  # fmt: skip
    assert stored["key_id"] == ""  # of an open service
    assert stored["targets"] == [{"completion_id": IDS[0], "choice": 0}]


def test_reasons_can_be_the_services_own(start: Start) -> None:
    gateway = start(feedback_reasons=("rude", "slow"))
    assert logged(gateway, THUMBS | {"reasons": ["rude"]}).reasons == ["rude"]
    refused = send(gateway, THUMBS | {"reasons": ["style"]}).json()["error"]
    assert refused["param"] == "reasons[0]"
    assert "rude, slow" in refused["message"]


TOO_LONG: dict[str, Any] = COMMENT | {"text": "x" * 10_001}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (SIGNAL | {"name": None}, "name"),
        (SIGNAL | {"value": "much"}, "value"),
        (SIGNAL | {"shown": 1}, "shown"),
        (SIGNAL | {"shown": False, "value": True}, "shown"),
        (SIGNAL | {"kept": "new"}, "kept"),
        (SIGNAL | {"regeneration_of": IDS[1]}, "regeneration_of"),
        (AGAIN | {"regeneration_of": IDS[0]}, "regeneration_of"),
        (AGAIN | {"completion_id": None}, "completion_id"),
        (AGAIN | {"kept": "both"}, "kept"),
        (AGAIN | {"choice": 1}, "choice"),
        (AGAIN | {"value": True}, "value"),
        (RATING | {"value": 6}, "value"),
        (RATING | {"value": True}, "value"),
        (RATING | {"value": "4"}, "value"),
        (RATING | {"scale": [5, 1]}, "scale"),
        (RATING | {"scale": [1, 2, 3]}, "scale"),
        (RATING | {"scale": [1, "5"]}, "scale[1]"),
        (RANKING | {"groups": []}, "groups"),
        (RANKING | {"groups": [[IDS[0]]]}, "groups"),
        (RANKING | {"groups": [[IDS[0]], []]}, "groups"),
        (RANKING | {"groups": [[IDS[0]], [IDS[0]]]}, "groups[1]"),
        (RANKING | {"groups": [[IDS[0]], [7]]}, "groups[1]"),
        (RANKING | {"groups": [[IDS[0]], [{"completion_id": IDS[1], "chosen": 1}]]}, "groups[1].chosen"),
        (RANKING | {"groups": [[IDS[0]], [{"episode_id": "chat-1"}]]}, "groups[1].episode_id"),
        (RANKING | {"groups": [[f"{IDS[0]}"] * 17]}, "groups"),
        (RANKING | {"completion_id": IDS[0]}, "completion_id"),
        (PAIR | {"presented": ["a", "a"]}, "presented"),
        (PAIR | {"presented": "ab"}, "presented"),
        (PAIR | {"a": ""}, "a"),
        (PAIR | {"targets": [{"completion_id": IDS[0]}] * 2}, "targets"),
        (CORRECTION | {"text": ""}, "text"),
        (CORRECTION | {"text": None}, "text"),
        ({"kind": "correction", "text": "x", "episode_id": "chat-1"}, "episode_id"),
        (TOO_LONG, "text"),
        (COMMENT | {"comment": "twice"}, "comment"),
        (METRIC | {"name": ""}, "name"),
        (METRIC | {"name": "a\nb"}, "name"),
        (METRIC | {"value": 9, "range": [0, 1]}, "value"),
        (METRIC | {"direction": "up"}, "direction"),
        (METRIC | {"name": "clicks"}, "direction"),
        (THUMBS | {"completion_id": ""}, "completion_id"),
        (THUMBS | {"external_id": "msg-1"}, "completion_id"),
        ({"kind": "thumbs", "value": "up", "episode_id": "chat-1", "choice": 1}, "choice"),
        ({"kind": "thumbs", "value": "up", "external_id": "x" * 129}, "external_id"),
        (THUMBS | {"weight": 0}, "weight"),
        (THUMBS | {"weight": 1.5}, "weight"),
        (THUMBS | {"weight": True}, "weight"),
        (THUMBS | {"source": "robot"}, "source"),
        (THUMBS | {"tags": ["x"] * 17}, "tags"),
        (THUMBS | {"tags": [""]}, "tags[0]"),
        (THUMBS | {"reasons": "style"}, "reasons"),
        (THUMBS | {"reasons": ["because"]}, "reasons[0]"),
        (THUMBS | {"occurred_at": "yesterday"}, "occurred_at"),
        (THUMBS | {"occurred_at": "2026-01-01T00:00:00"}, "occurred_at"),
        (THUMBS | {"occurred_at": 4e9}, "occurred_at"),
        (THUMBS | {"dry_run": "yes"}, "dry_run"),
        (THUMBS | {"idempotency_key": ""}, "idempotency_key"),
        (THUMBS | {"metadata": {"": "x"}}, "metadata"),
        (THUMBS | {"policy_version": "policy-1"}, "policy_version"),
        (THUMBS | {"arm": "canary"}, "arm"),
        (THUMBS | {"prompt_hash": "x"}, "prompt_hash"),
        (THUMBS | {"revision": 9}, "revision"),
        (THUMBS | {"kind": ["thumbs"]}, "kind"),
        (THUMBS | {"kind": "retraction"}, "kind"),
    ],
)
def test_what_is_refused(steady: Gateway, body: dict[str, object], param: str) -> None:
    answer = send(steady, body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert steady.votes() == []


def test_the_key_may_be_in_the_body(gateway: Gateway) -> None:
    first = send(gateway, THUMBS | {"idempotency_key": "k1"})
    again = send(gateway, THUMBS | {"idempotency_key": "k1"})
    assert (first.status_code, first.text) == (again.status_code, again.text)
    changed = send(gateway, THUMBS | {"idempotency_key": "k1", "value": "down"})
    assert (changed.status_code, changed.json()["error"]["param"]) == (422, "idempotency_key")
    two = gateway.http.post(
        "/v1/feedback", json=THUMBS | {"idempotency_key": "k2"}, headers={"idempotency-key": "k3"}
    )
    assert two.status_code == 400
    assert len(gateway.votes()) == 1


def test_two_requests_with_one_key_at_the_same_time(shared: SqliteStore) -> None:
    idempotency = Idempotency(shared)
    done: list[int] = []

    async def both() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def work() -> Reply:
            done.append(1)
            begun.set()
            await go_on.wait()
            return Reply(202, {"id": "fb-1"})

        first = asyncio.create_task(idempotency.once("default", "k", b"body", work))
        await begun.wait()
        with pytest.raises(StillRunning) as refused:
            await idempotency.once("default", "k", b"body", work)
        assert (refused.value.status, refused.value.headers) == (409, {"retry-after": "1"})
        with pytest.raises(IdempotencyConflict):
            await idempotency.once("default", "k", b"other body", work)
        go_on.set()
        assert await first == await idempotency.once("default", "k", b"body", work)
        # Another tenant's key is another key; work that fails, or is given up, leaves its key unused.
        assert (await idempotency.once("shop", "k", b"other body", work)).status == 202

        async def fail() -> Reply:
            raise ValueError("no")

        for key in ("failed", "left"):
            if key == "failed":
                with pytest.raises(ValueError, match="no"):
                    await idempotency.once("default", key, b"body", fail)
            else:
                begun.clear()
                go_on.clear()
                left = asyncio.create_task(idempotency.once("default", key, b"body", work))
                await begun.wait()
                left.cancel()
                await asyncio.wait([left])
                go_on.set()
            assert (await idempotency.once("default", key, b"body", work)).status == 202

    asyncio.run(both())
    assert len(done) == 5
