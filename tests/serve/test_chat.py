"""Chats through the official client: what users see, and what the log keeps."""

import json
import threading
from itertools import islice
from pathlib import Path
from typing import Any

import openai
import pytest

from deploy.history.table import RoutingTable
from serve.settings import GatewaySettings
from tests.serve.conftest import Gateway, Start, ask_and_leave, eventually
from tests.serve.fake_vllm import EMOJI_TEXT, EOS, PROMPT, FakeVllm, Trouble

MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
TEXT = "I am base, seed None."
IDS = [100, 101, 102, 103, 104, EOS]
LOGPROBS = [-0.1, -0.2, -0.3, -0.4, -0.5, -0.6]


def test_a_whole_answer_has_openais_shape_and_is_logged_exactly(steady: Gateway) -> None:
    answer = steady.openai.chat.completions.create(
        model="hearken", messages=MESSAGES, user="ada", temperature=0.5, max_tokens=20
    )
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs is None
    assert answer.model == "hearken"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6
    assert steady.signer.is_ours(answer.id)

    event = steady.completion(answer.id)
    assert event.event_id == event.completion_id
    assert event.messages == MESSAGES
    assert event.prompt_token_ids == PROMPT
    (choice,) = event.choices
    assert (choice.text, choice.token_ids, choice.logprobs) == (TEXT, IDS, LOGPROBS)
    assert choice.finish_reason == "stop"
    assert event.user == steady.signer.pseudonym("default", "ada")
    assert event.conversation == event.user
    assert (event.arm, event.policy_version, event.role, event.table_epoch) == ("live", "base", "answer", 0)
    assert (event.sampling.temperature, event.sampling.top_p, event.sampling.max_tokens) == (0.5, 1.0, 20)
    assert not event.sampling.is_plain
    assert event.latency_seconds > 0


def test_a_streamed_answer_is_the_whole_answer_in_pieces(steady: Gateway) -> None:
    stream = steady.openai.chat.completions.create(model="hearken", messages=MESSAGES, stream=True)
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.model for chunk in chunks} == {"hearken"}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None and chunk.choices[0].logprobs is None for chunk in chunks)

    event = steady.completion(chunks[0].id)  # durable before [DONE]: no waiting here
    assert event.prompt_token_ids == PROMPT
    (choice,) = event.choices
    assert (choice.text, choice.token_ids, choice.logprobs) == (TEXT, IDS, LOGPROBS)
    assert event.sampling.is_plain
    assert event.ttft_seconds is not None
    assert 0 < event.ttft_seconds <= event.latency_seconds


def test_nothing_of_the_engine_leaks_into_any_answer(steady: Gateway) -> None:
    streamed = steady.chat(stream=True).text
    whole = steady.chat().text
    for text in (streamed, whole):
        assert "token_ids" not in text
        assert "chatcmpl-engine" not in text
        assert '"base"' not in text
    assert streamed.endswith("data: [DONE]\n\n")
    assert '"usage"' not in streamed


def test_what_the_client_asks_for_it_gets(steady: Gateway) -> None:
    whole = steady.chat(logprobs=True, top_logprobs=1, return_token_ids=True).json()
    assert [token["logprob"] for token in whole["choices"][0]["logprobs"]["content"]] == LOGPROBS
    assert whole["choices"][0]["token_ids"] == IDS
    assert whole["prompt_token_ids"] == PROMPT

    stream = steady.openai.chat.completions.create(
        model="hearken", messages=MESSAGES, stream=True, logprobs=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    assert last.usage is not None
    assert last.usage.total_tokens == len(PROMPT) + 6
    assert last.choices == []
    seen = [t.logprob for c in chunks if (p := c.choices[0].logprobs) is not None for t in p.content or []]
    assert seen == LOGPROBS


def test_several_choices_are_one_event(steady: Gateway) -> None:
    answer = steady.openai.chat.completions.create(model="hearken", messages=MESSAGES, n=3)
    assert len(answer.choices) == 3
    assert [c.token_ids for c in steady.completion(answer.id).choices] == [IDS] * 3

    stream = list(steady.openai.chat.completions.create(model="hearken", messages=MESSAGES, n=2, stream=True))
    event = steady.completion(stream[0].id)
    assert [(c.index, c.text, c.logprobs) for c in event.choices] == [
        (0, TEXT, LOGPROBS),
        (1, TEXT, LOGPROBS),
    ]


def test_greedy_choices_are_equal_and_made_once(gateway: Gateway, fake: FakeVllm) -> None:
    ask: dict[str, Any] = {"model": "hearken", "messages": MESSAGES, "n": 3, "temperature": 0}
    answer = gateway.openai.chat.completions.create(**ask)
    assert [(c.index, c.message.content) for c in answer.choices] == [(i, TEXT) for i in range(3)]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 18
    assert answer.usage.total_tokens == len(PROMPT) + 18

    options = {"include_usage": True}
    *chunks, last = list(gateway.openai.chat.completions.create(**ask, stream=True, stream_options=options))
    for index in range(3):
        mine = [c for chunk in chunks for c in chunk.choices if c.index == index]
        assert "".join(c.delta.content or "" for c in mine) == TEXT
        assert [c.finish_reason for c in mine if c.finish_reason] == ["stop"]
    assert last.usage is not None
    assert last.usage.completion_tokens == 18
    for completion_id in (answer.id, last.id):
        choices = gateway.completion(completion_id).choices
        assert [(c.index, c.token_ids, c.logprobs) for c in choices] == [(i, IDS, LOGPROBS) for i in range(3)]
    assert [request["n"] for request in fake.requests] == [1, 1]


def test_the_engine_gets_the_clients_request(gateway: Gateway, fake: FakeVllm) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    sent = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hé 🎉"}]}],
        "top_k": 7,
        "tools": tools,
        "some_future_field": {"a": [1, None]},
    }
    dropped = {"user": "ada", "metadata": {"a": "b"}, "store": True, "priority": -5, "hearken": {}}
    answer = gateway.http.post(
        "/v1/chat/completions", json={"model": "hearken", **sent, **dropped}, headers={"x-secret": "1"}
    )
    assert answer.status_code == 200
    assert fake.requests == [
        sent
        | {"model": "base", "logprobs": True, "return_token_ids": True}
        | {"cache_salt": fake.requests[0]["cache_salt"]},  # see test_salts.py
    ]
    assert "X-Secret" not in fake.headers[0]


def test_a_stream_asks_for_usage_and_keeps_the_clients_options(gateway: Gateway, fake: FakeVllm) -> None:
    gateway.chat(stream=True)
    assert fake.requests[-1]["stream_options"] == {"include_usage": True}
    options = {"include_usage": True, "continuous_usage_stats": True}
    gateway.chat(stream=True, stream_options=options)
    assert fake.requests[-1]["stream_options"] == options


def test_characters_survive_however_their_bytes_are_cut(steady: Gateway) -> None:
    stream = steady.openai.chat.completions.create(
        model="hearken", messages=[{"role": "user", "content": Trouble.EMOJI}], stream=True
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == EMOJI_TEXT
    assert steady.completion(chunks[0].id).choices[0].text == EMOJI_TEXT


def test_tokens_without_logprobs_are_counted_and_logged_as_unknown(gateway: Gateway) -> None:
    answer = gateway.chat(Trouble.UNPAIRED, stream=True)
    completion_id = json.loads(answer.text.split("\n")[0][6:])["id"]
    (choice,) = gateway.completion(completion_id).choices
    assert (len(choice.token_ids), choice.logprobs) == (6, [])
    assert gateway.metric("hearken_completions_inexact_total") == 1


def test_stopping_a_stream_stops_the_engine_and_logs_what_was_seen(gateway: Gateway, fake: FakeVllm) -> None:
    body = {"model": "hearken", "messages": [{"role": "user", "content": Trouble.HOLD}], "stream": True}
    with gateway.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = (line for line in answer.iter_lines() if line)
        first, *_ = islice(lines, 3)  # the role and two tokens
    assert fake.aborted.wait(10), "the engine was not told that the client left"
    completion_id = json.loads(first[6:])["id"]
    eventually(lambda: gateway.completions(), "the cut completion is logged")
    (choice,) = gateway.completion(completion_id).choices
    assert (choice.finish_reason, choice.token_ids, choice.logprobs) == ("abort", IDS[:2], LOGPROBS[:2])


def test_leaving_before_a_whole_answer_stops_the_engine(gateway: Gateway, fake: FakeVllm) -> None:
    ask_and_leave(gateway, Trouble.HOLD, fake.holding.is_set, "the engine works on it")
    assert fake.aborted.wait(10), "the engine was not told that the client left"


def test_users_go_where_the_table_sends_them(gateway: Gateway, fake: FakeVllm) -> None:
    table = RoutingTable(
        epoch=3,
        salt="s",
        live="policy-1-aaaaaaaa",
        control="policy-1-aaaaaaaa",
        canary="policy-2-bbbbbbbb",
        weight=0.25,
    )
    fake.adapters = {"policy-1-aaaaaaaa", "policy-2-bbbbbbbb"}
    gateway.decide(table)
    eventually(gateway.is_ready, "the adapters are seen")
    for arm, version in (("live", table.live), ("control", table.control), ("canary", table.canary)):
        user = gateway.user_of_arm(arm, table)
        answer = gateway.chat(user=user)
        assert answer.json()["choices"][0]["message"]["content"] == f"I am {version}, seed None."
        event = gateway.completion(answer.json()["id"])
        assert (event.arm, event.policy_version, event.table_epoch) == (arm, version, 3)
        assert arm not in answer.text.replace(json.dumps(answer.json()["choices"][0]["message"]), "")
    assert gateway.metric('hearken_policy_info{arm="canary",version="policy-2-bbbbbbbb"}') == 1


def test_a_running_stream_keeps_its_policy_when_the_table_changes(gateway: Gateway, fake: FakeVllm) -> None:
    fake.adapters = {"policy-1-aaaaaaaa"}
    body = {"model": "hearken", "messages": [{"role": "user", "content": Trouble.HOLD}], "stream": True}
    with gateway.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert fake.holding.wait(10)
        gateway.decide(RoutingTable(epoch=1, live="policy-1-aaaaaaaa"))
        fake.release.set()
        lines = [json.loads(line[6:]) for line in answer.iter_lines() if line and line != "data: [DONE]"]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in lines)
    assert text == TEXT
    event = gateway.completion(lines[0]["id"])
    assert (event.policy_version, event.table_epoch) == ("base", 0)
    eventually(gateway.is_ready, "the adapter is seen")
    assert "policy-1-aaaaaaaa" in gateway.chat().text


def test_a_stream_that_is_silent_says_so_in_comments(start: Start, fake: FakeVllm) -> None:
    gateway = start(keep_alive_seconds=0.05)
    body = {"model": "hearken", "messages": [{"role": "user", "content": Trouble.HOLD}], "stream": True}
    with gateway.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = answer.iter_lines()
        while not next(lines).startswith(":"):
            pass
        fake.release.set()
        rest = [line for line in lines if line.startswith("data:")]
    assert rest[-1] == "data: [DONE]"

    fake.release.clear()
    stream = gateway.openai.chat.completions.create(**body)
    chunks = [next(stream)]
    threading.Timer(0.3, fake.release.set).start()
    chunks += stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT


def test_what_fails_after_a_comment_is_the_last_event(start: Start, fake: FakeVllm) -> None:
    gateway = start(keep_alive_seconds=0.05, queue_seconds=0.5, max_in_flight=1)
    body = {"model": "hearken", "messages": [{"role": "user", "content": Trouble.HOLD}], "stream": True}
    with gateway.http.stream("POST", "/v1/chat/completions", json=body) as held:
        assert held.status_code == 200
        assert fake.holding.wait(10)
        answer = gateway.chat(stream=True)  # waits for a place until its time in the queue is over
        assert answer.status_code == 200
        assert answer.text.startswith(": ")
        last = json.loads(answer.text.strip().split("\n")[-1].removeprefix("data: "))
        assert last["error"]["code"] == "overloaded"
        with pytest.raises(openai.APIError) as caught:
            list(gateway.openai.chat.completions.create(model="hearken", messages=MESSAGES, stream=True))
        assert caught.value.code == "overloaded"


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, 300),
        ({"max_tokens": None, "max_completion_tokens": None}, 300),
        ({"max_tokens": 20}, 20),
        ({"max_completion_tokens": 2000}, 2000),
        ({"min_tokens": 400}, 400),
    ],
    ids=["none", "null", "shorter", "longer", "at least"],
)
def test_an_answer_without_a_limit_gets_the_service_s_own(
    start: Start, fake: FakeVllm, fields: dict[str, object], limit: int
) -> None:
    gateway = start(default_max_tokens=300)
    answer = gateway.chat("hi", **fields)
    assert answer.status_code == 200
    sent = fake.requests[-1]
    assert (sent.get("max_completion_tokens") or sent["max_tokens"]) == limit
    assert gateway.completion(answer.json()["id"]).sampling.max_tokens == limit


def test_both_sides_of_a_comparison_get_the_service_s_own_limit(start: Start, fake: FakeVllm) -> None:
    gateway = start(default_max_tokens=300)
    pair = gateway.http.post("/v1/comparisons", json={"model": "hearken", "messages": MESSAGES})
    assert pair.status_code == 200
    assert [request["max_tokens"] for request in fake.requests[-2:]] == [300, 300]


def test_nothing_is_asked_of_the_engine_where_nothing_is_set(steady: Gateway) -> None:
    answer = steady.chat("hi")
    assert steady.completion(answer.json()["id"]).sampling.max_tokens is None


def test_a_default_that_no_answer_could_have_is_refused(tmp_path: Path) -> None:
    engines = ("http://127.0.0.1:1",)
    with pytest.raises(ValueError, match="default_max_tokens is 0; it must be at least 1"):
        GatewaySettings(data=tmp_path, engines=engines, default_max_tokens=0)
    with pytest.raises(ValueError, match="default_max_tokens is 8192, more than max_model_len, 4096"):
        GatewaySettings(data=tmp_path, engines=engines, default_max_tokens=8192, max_model_len=4096)
