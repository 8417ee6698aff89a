"""Voting without a key: with the token of an answer, on that answer, as the rater it was made for."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest

from feedback.core.ids import Signer
from serve.auth.caller import OPEN
from serve.auth.feedback_tokens import GOOD_SECONDS, Tokens
from serve.auth.keyfile import edit_keys
from serve.auth.keys import Key
from serve.http.errors import Unauthorized
from tests.serve.conftest import SECRET, Gateway, Start, eventually
from tests.serve.test_access import CHAT, add_key, bearer

HEADER = "x-hearken-feedback-token"


class Guarded:
    """A gateway with a key that may chat, and nothing else, for the tenant "shop"."""

    def __init__(self, start: Start, tmp_path: Path) -> None:
        self.key = add_key(tmp_path / "keys.json", ["chat"], tenant="shop")
        self.gateway = start()

    def chat(self, user: str) -> dict[str, Any]:
        answer = self.gateway.http.post(
            "/v1/chat/completions", json=CHAT | {"user": user}, headers=bearer(self.key)
        )
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body


def thumb(completion_id: str, **more: object) -> dict[str, object]:
    return {"kind": "thumbs", "completion_id": completion_id, "value": "up", **more}


def test_every_answer_brings_its_token(gateway: Gateway) -> None:
    answer = gateway.chat(user="ada")
    told = answer.json()["hearken"]
    assert told["feedback_token"] == answer.headers[HEADER]
    assert told["feedback_token_expires_at"] == pytest.approx(time.time() + GOOD_SECONDS, abs=60)
    body = {"model": "hearken", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with gateway.http.stream("POST", "/v1/chat/completions", json=body) as stream:
        events = [line[6:] for line in stream.iter_lines() if line.startswith("data: {")]
    assert orjson.loads(events[0])["hearken"]["feedback_token"] == stream.headers[HEADER]
    assert all("hearken" not in orjson.loads(event) for event in events[1:])


def test_clients_of_openai_do_not_mind(gateway: Gateway) -> None:
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
    whole = gateway.openai.chat.completions.create(model="hearken", messages=messages)
    assert whole.model_extra is not None
    assert whole.model_extra["hearken"]["feedback_token"]
    chunks = list(gateway.openai.chat.completions.create(model="hearken", messages=messages, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def vote(gateway: Gateway, body: object, token: str | None = None, **headers: str) -> httpx.Response:
    if token is not None:
        headers[HEADER] = token
    return httpx.post(gateway.url + "/v1/feedback", json=body, headers=headers)


def test_a_browser_votes_reads_and_takes_back_with_the_token_alone(start: Start, tmp_path: Path) -> None:
    shop = Guarded(start, tmp_path)
    gateway, answer = shop.gateway, shop.chat("ada")
    token, completion_id = answer["hearken"]["feedback_token"], answer["id"]
    assert vote(gateway, thumb(completion_id)).status_code == 401
    for sent in (
        vote(gateway, thumb(completion_id), token),
        vote(gateway, thumb(completion_id), authorization=f"Bearer {token}"),
        vote(gateway, thumb(completion_id, token=token)),
        vote(gateway, thumb(completion_id, user="ada"), token),
        httpx.post(  # navigator.sendBeacon
            gateway.url + "/v1/feedback",
            content=orjson.dumps(thumb(completion_id, token=token)),
            headers={"content-type": "text/plain;charset=UTF-8"},
        ),
    ):
        assert sent.status_code == 202, sent.text
    rater = gateway.signer.pseudonym("shop", "ada")
    assert {(event.rater, event.tenant, event.source) for event in gateway.votes()} == {
        (rater, "shop", "end_user")
    }
    mine = f"{gateway.url}/v1/feedback/{sent.json()['id']}"
    assert httpx.get(mine).status_code == 401
    assert httpx.get(mine, headers={HEADER: token}).json()["kind"] == "thumbs"
    assert httpx.delete(mine, headers={HEADER: token}).status_code == 200


def test_a_token_is_good_for_its_answer_and_its_rater_only(start: Start, tmp_path: Path) -> None:
    shop = Guarded(start, tmp_path)
    gateway, ada, bob = shop.gateway, shop.chat("ada"), shop.chat("bob")
    token = ada["hearken"]["feedback_token"]
    for body, code in (
        (thumb(bob["id"]), "token_of_another_completion"),
        ({"kind": "thumbs", "external_id": "msg-1", "value": "up"}, "token_of_another_completion"),
        (
            {"kind": "comparison", "a": ada["id"], "b": bob["id"], "preferred": "a"},
            "token_of_another_completion",
        ),
        (thumb(ada["id"], user="bob"), "token_of_another_user"),
    ):
        refused = vote(gateway, body, token)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, code)
    assert vote(gateway, thumb(ada["id"], source="annotator"), token).status_code == 400
    sent = vote(gateway, thumb(bob["id"]), bob["hearken"]["feedback_token"]).json()["id"]
    assert httpx.get(f"{gateway.url}/v1/feedback/{sent}", headers={HEADER: token}).status_code == 404
    forged = token[:-1] + ("0" if token[-1] != "0" else "1")
    for bad in (forged, "fbt_", "fbt_x.y", "fbt_é", token + "0"):
        refused = vote(gateway, thumb(ada["id"], token=bad))
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_feedback_token")


def test_a_comparison_brings_one_token_for_both_answers(gateway: Gateway) -> None:
    body = {"model": "hearken", "messages": [{"role": "user", "content": "hi"}], "user": "ada"}
    pair = gateway.http.post("/v1/comparisons", json=body).json()
    choice = {"kind": "comparison", "a": pair["a"]["id"], "b": pair["b"]["id"], "preferred": "b"}
    assert vote(gateway, choice, pair["hearken"]["feedback_token"]).status_code == 202


def test_a_token_expires() -> None:
    tokens = Tokens(Signer(SECRET), lambda _: True)
    token, expires_at = tokens.issue(OPEN, "u_ada", ["chatcmpl-1"], now=1000.0)
    assert expires_at == 1000 + GOOD_SECONDS
    assert tokens.check(token, expires_at - 1).rater == "u_ada"
    with pytest.raises(Unauthorized, match="expired"):
        tokens.check(token, expires_at)
    with pytest.raises(Unauthorized, match="not one of this"):
        Tokens(Signer(b"another secret, long enough"), lambda _: True).check(token, 1000.0)


def test_a_token_ends_when_the_key_that_asked_is_revoked(start: Start, tmp_path: Path) -> None:
    """And not when it comes to its planned end: who changes keys in time loses no vote."""
    file = tmp_path / "keys.json"
    shop = Guarded(start, tmp_path)
    another = add_key(file, ["chat"], tenant="shop")
    answer, kept = shop.chat("ada"), None

    def from_another() -> bool:
        nonlocal kept
        sent = shop.gateway.http.post("/v1/chat/completions", json=CHAT, headers=bearer(another))
        kept = sent.json() if sent.status_code == 200 else None
        return kept is not None

    eventually(from_another, "the other key is known")
    token, good = answer["hearken"]["feedback_token"], kept["hearken"]["feedback_token"]  # type: ignore[index]
    sent = vote(shop.gateway, thumb(answer["id"]), token)
    assert sent.status_code == 202
    now = datetime.now(UTC) - timedelta(seconds=1)

    def end(keys: list[Key]) -> list[Key]:
        revoked, expired = keys
        return [
            revoked.model_copy(update={"revoked": now}),
            expired.model_copy(update={"expires": now}),
        ]

    edit_keys(file, end)
    eventually(lambda: vote(shop.gateway, thumb(answer["id"]), token).status_code == 401, "it is revoked")
    mine = f"{shop.gateway.url}/v1/feedback/{sent.json()['id']}"
    for refused in (
        vote(shop.gateway, thumb(answer["id"], token=token)),
        httpx.get(mine, headers={HEADER: token}),
        httpx.delete(mine, headers={HEADER: token}),
    ):
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "feedback_token_revoked")
    assert vote(shop.gateway, thumb(kept["id"]), good).status_code == 202  # type: ignore[index]


def test_a_token_of_an_open_service_ends_with_its_first_key(start: Start, tmp_path: Path) -> None:
    gateway = start()
    answer = gateway.chat().json()
    token = answer["hearken"]["feedback_token"]
    assert vote(gateway, thumb(answer["id"]), token).status_code == 202
    add_key(tmp_path / "keys.json", ["chat"])
    eventually(lambda: vote(gateway, thumb(answer["id"]), token).status_code == 401, "the service has a key")
    assert "had no API keys" in vote(gateway, thumb(answer["id"]), token).text


def test_plain_text_needs_a_token_in_the_body(gateway: Gateway) -> None:
    completion_id = gateway.chat().json()["id"]
    answer = gateway.http.post(
        "/v1/feedback", content=orjson.dumps(thumb(completion_id)), headers={"content-type": "text/plain"}
    )
    assert answer.status_code == 415


def test_a_page_that_leaves_sends_several_answers_signals_at_once(start: Start, tmp_path: Path) -> None:
    """`navigator.sendBeacon` sends plain text, each signal with its own answer's token."""
    shop = Guarded(start, tmp_path)
    gateway, answers = shop.gateway, [shop.chat("ada"), shop.chat("bob")]
    signals = [
        {
            "kind": "signal",
            "name": "copied",
            "completion_id": answer["id"],
            "value": i == 0,
            "token": answer["hearken"]["feedback_token"],
        }
        for i, answer in enumerate(answers)
    ]
    bare = {name: value for name, value in signals[0].items() if name != "token"}
    foreign = signals[0] | {"completion_id": answers[1]["id"]}
    sent = httpx.post(
        gateway.url + "/v1/feedback",
        content=orjson.dumps([*signals, bare, foreign]),
        headers={"content-type": "text/plain;charset=UTF-8"},
    )
    assert [each["status"] for each in sent.json()["results"]] == [202, 202, 415, 403]
    told = {event.targets[0].completion_id: (event.rater, event.label) for event in gateway.votes()}
    assert told == {
        answers[0]["id"]: (gateway.signer.pseudonym("shop", "ada"), "yes"),
        answers[1]["id"]: (gateway.signer.pseudonym("shop", "bob"), "no"),
    }
    without = httpx.post(
        gateway.url + "/v1/feedback", content=orjson.dumps([bare]), headers={"content-type": "text/plain"}
    )
    assert without.status_code == 401


def test_votes_with_a_token_are_few_and_small(start: Start, tmp_path: Path) -> None:
    shop = Guarded(start, tmp_path)
    first, second = shop.chat("ada"), shop.chat("ada")

    def post(answer: dict[str, Any], body: object) -> int:
        headers = {HEADER: answer["hearken"]["feedback_token"]}
        return httpx.post(shop.gateway.url + "/v1/feedback", json=body, headers=headers).status_code

    few = [thumb(first["id"])] * 15
    assert [post(first, body) for body in (few * 4, few, few, few[:5], few[0])] == [413, 207, 429, 207, 429]
    assert post(second, thumb(second["id"])) == 202  # another answer's token
    correction = {"kind": "correction", "completion_id": second["id"], "text": "a" * 70_000}
    assert post(second, correction) == 413
    assert post(second, correction | {"text": "a" * 60_000}) == 202
    token = second["hearken"]["feedback_token"]
    body = correction | {"token": token}
    assert httpx.post(shop.gateway.url + "/v1/feedback", json=body).status_code == 413
    assert len(shop.gateway.votes()) == 22
