"""Votes: checked by signature, durable before the 202, harmless to repeat."""

import httpx
import pytest

from feedback.core.ids import Signer, vote_id
from feedback.shared import SharedUnavailable
from tests.serve.conftest import SECRET, Gateway, Start

IDS = [Signer(SECRET).new_completion_id() for _ in range(3)]
THUMBS = {"kind": "thumbs", "completion_id": IDS[0], "value": "up", "user": "ada"}
PAIR = {"kind": "comparison", "a": IDS[0], "b": IDS[1], "preferred": "a", "user": "ada"}


def vote(gateway: Gateway, body: object, key: str | None = None) -> httpx.Response:
    headers = {} if key is None else {"idempotency-key": key}
    return gateway.http.post("/v1/feedback", json=body, headers=headers)


def test_a_thumb_is_in_the_log_when_it_is_acknowledged(gateway: Gateway) -> None:
    completion_id = gateway.chat(user="ada").json()["id"]
    answer = vote(
        gateway,
        {
            "kind": "thumbs",
            "completion_id": completion_id,
            "value": "down",
            "user": "ada",
            "metadata": {"page": "help"},
        },
    )
    assert answer.status_code == 202
    (event,) = gateway.votes()
    assert answer.json() == {"id": event.event_id, "status": "accepted"}
    rater = gateway.signer.pseudonym("default", "ada")
    assert event.event_id == vote_id("default", rater, "thumbs", [(completion_id, 0)])
    assert (event.rater, event.value, event.label) == (rater, 0.0, "down")
    assert (event.kind, event.source, event.metadata) == ("thumbs", "end_user", {"page": "help"})
    assert [(t.completion_id, t.choice) for t in event.targets] == [(completion_id, 0)]
    # Who votes on their own chat finds both events under one key.
    keys = {record.key for topic in ("completions", "feedback") for record in gateway.records(topic)}
    assert keys == {rater}


def test_the_values_of_thumbs(gateway: Gateway) -> None:
    for value in ("up", True, 1, "down", False, 0):
        assert vote(gateway, THUMBS | {"value": value}).status_code == 202
    judged = [(event.value, event.label) for event in gateway.votes()]
    assert judged == [(1.0, "up")] * 3 + [(0.0, "down")] * 3


def test_comparisons_keep_the_order_of_the_vote(gateway: Gateway) -> None:
    for preferred in ("a", "b", "tie"):
        assert vote(gateway, PAIR | {"preferred": preferred}).status_code == 202
    votes = gateway.votes()
    assert [(event.value, event.label) for event in votes] == [(1.0, "a"), (0.0, "b"), (0.5, "tie")]
    assert [t.completion_id for t in votes[0].targets] == IDS[:2]


def test_a_changed_vote_revises_the_first(gateway: Gateway) -> None:
    for value in ("up", "down"):
        assert vote(gateway, THUMBS | {"value": value}).status_code == 202
    swapped = PAIR | {"a": PAIR["b"], "b": PAIR["a"], "preferred": "b"}
    for body in (PAIR, swapped):
        assert vote(gateway, body).status_code == 202
    first, second, pair, revised = gateway.votes()
    assert first.event_id == second.event_id
    assert pair.event_id == revised.event_id
    assert first.revision < second.revision < pair.revision < revised.revision


def test_targets_name_choices(gateway: Gateway) -> None:
    targets = [{"completion_id": IDS[0], "choice": 0}, {"completion_id": IDS[0], "choice": 1}]
    body = {"kind": "comparison", "targets": targets, "preferred": "b"}
    assert vote(gateway, body).status_code == 202
    assert vote(gateway, {"kind": "thumbs", "targets": targets[1:], "value": "up"}).status_code == 202
    assert vote(gateway, THUMBS | {"choice": 2}).status_code == 202
    assert [[t.choice for t in event.targets] for event in gateway.votes()] == [[0, 1], [1], [2]]


def test_voters_without_a_name_are_told_apart_by_address(gateway: Gateway) -> None:
    assert vote(gateway, {k: v for k, v in THUMBS.items() if k != "user"}).status_code == 202
    (event,) = gateway.votes()
    assert event.rater == gateway.signer.pseudonym("default", "anonymous-127.0.0.1")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "kind"),
        ({"kind": "stars"}, "kind"),
        ({"kind": "thumbs", "value": "up"}, "completion_id"),
        ({"kind": "thumbs", "completion_id": IDS[0]}, "value"),
        (THUMBS | {"value": "great"}, "value"),
        (THUMBS | {"value": 2}, "value"),
        (THUMBS | {"value": None}, "value"),
        (THUMBS | {"choice": -1}, "choice"),
        (THUMBS | {"choice": "0"}, "choice"),
        (THUMBS | {"completion_id": 5}, "completion_id"),
        (THUMBS | {"user": 5}, "user"),
        (THUMBS | {"metadata": {"a": 1}}, "metadata.a"),
        (THUMBS | {"metadata": [1]}, "metadata"),
        (THUMBS | {"rating": 5}, "rating"),
        (THUMBS | {"targets": [{"completion_id": IDS[0]}]}, "targets"),
        ({"kind": "thumbs", "value": "up", "targets": []}, "targets"),
        ({"kind": "comparison", "a": IDS[0], "preferred": "a"}, "b"),
        ({"kind": "comparison", "a": IDS[0], "b": IDS[1]}, "preferred"),
        (PAIR | {"preferred": "c"}, "preferred"),
        (PAIR | {"b": IDS[0]}, "b"),
    ],
)
def test_bad_votes_are_refused_by_field(steady: Gateway, body: object, param: str) -> None:
    answer = vote(steady, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert isinstance(answer.json()["error"]["code"], str)
    assert steady.votes() == []


def test_ids_that_we_never_gave_out(steady: Gateway) -> None:
    foreign = Signer(b"another secret, long enough").new_completion_id()
    forged = IDS[0][:-1] + ("0" if IDS[0][-1] != "0" else "1")
    for body, param in (
        (THUMBS | {"completion_id": forged}, "completion_id"),
        (PAIR | {"b": forged}, "b"),
        (THUMBS | {"completion_id": foreign}, "completion_id"),
        (THUMBS | {"completion_id": "chatcmpl-äöü"}, "completion_id"),
    ):
        answer = vote(steady, body)
        assert answer.status_code == 404
        assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (
            "completion_not_found",
            param,
        )


def test_a_repeated_key_gives_the_first_answer_and_no_second_vote(gateway: Gateway) -> None:
    answers = [vote(gateway, THUMBS, key="k1") for _ in range(3)]
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    assert len(gateway.votes()) == 1

    other = vote(gateway, THUMBS | {"value": "down"}, key="k1")
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert len(gateway.votes()) == 1
    assert vote(gateway, THUMBS | {"value": "down"}, key="k2").status_code == 202


def test_a_refused_vote_does_not_use_up_its_key(gateway: Gateway) -> None:
    assert vote(gateway, THUMBS | {"value": "?"}, key="k").status_code == 400
    assert vote(gateway, THUMBS | {"value": "?"}, key="k").status_code == 400
    assert vote(gateway, THUMBS, key="x" * 300).status_code == 400


@pytest.mark.parametrize("body", [THUMBS, THUMBS | {"dry_run": True}, [THUMBS]])
@pytest.mark.parametrize("key", ["", "two words", "caf\xe9", "x" * 256])
def test_a_key_that_is_none_is_refused_whatever_it_comes_with(
    gateway: Gateway, body: object, key: str
) -> None:
    raw = {"idempotency-key": key.encode("latin-1")}
    answer = gateway.http.post("/v1/feedback", json=body, headers=raw)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "idempotency_key")
    assert gateway.votes() == []


class AwayStore:
    """A shared store that is away."""

    def get(self, *_: object, **__: object) -> object:
        raise SharedUnavailable("away")

    put = put_if_absent = hit = delete = get


def test_votes_do_not_need_the_shared_store(start: Start) -> None:
    gateway = start(store=AwayStore())
    answers = [vote(gateway, THUMBS, key="k1") for _ in range(2)]
    assert {answer.status_code for answer in answers} == {202}
    assert len({event.event_id for event in gateway.votes()}) == 1
