"""POST /v1/messages through Anthropic's client: what users see, and what the log keeps."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

import anthropic
import pydantic
import pytest

from feedback.core.ids import MESSAGE_PREFIX
from serve.apis.messages_door import MessageDoor
from serve.auth.keyfile import edit_keys
from serve.auth.keys import make_key
from tests.serve.conftest import Gateway, Start, eventually
from tests.serve.fake_vllm import EOS, PROMPT, THOUGHT, FakeVllm, Trouble

TEXT = "I am base, seed None."
ASK: list[Any] = [{"role": "user", "content": "hi"}]
FORECAST: Any = {
    "name": "forecast",
    "description": "The weather to come",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = Trouble.CALL + 'forecast {"city": "Rome"}'


class City(pydantic.BaseModel):
    city: Literal["Rome", "Paris"]


def client_of(gateway: Gateway, key: str = "unused") -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=gateway.url, api_key=key, max_retries=0)


def create(gateway: Gateway, messages: Any = ASK, **fields: Any) -> Any:
    body = {"model": "hearken", "max_tokens": 50, "messages": messages}
    return client_of(gateway).messages.create(**body, extra_body=fields, stream="stream" in fields)


def said(content: Any) -> list[Any]:
    return [{"role": "user", "content": content}]


def test_a_message_has_anthropics_shape_and_is_logged_exactly(steady: Gateway) -> None:
    answer = create(
        steady,
        system="Be brief.",
        metadata={"user_id": "ada"},
        temperature=0.5,
        top_k=5,
        stop_sequences=["."],
    )
    assert [block.text for block in answer.content] == [TEXT]
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", "hearken")
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (len(PROMPT), 6)
    event = steady.completion(answer.id)
    assert event.messages == [{"role": "system", "content": "Be brief."}, *ASK]
    (choice,) = event.choices
    assert (choice.text, choice.token_ids) == (TEXT, [100, 101, 102, 103, 104, EOS])
    assert choice.logprobs == [-0.1, -0.2, -0.3, -0.4, -0.5, -0.6]
    assert event.user == steady.signer.pseudonym("default", "ada")
    assert (event.sampling.temperature, event.sampling.max_tokens, event.sampling.top_k) == (0.5, 50, 5)


def test_the_id_can_be_voted_on(gateway: Gateway) -> None:
    answer = create(gateway)
    assert answer.id.startswith(MESSAGE_PREFIX)
    vote = {"kind": "thumbs", "completion_id": answer.id, "value": "up"}
    assert gateway.http.post("/v1/feedback", json=vote).status_code == 202
    by_token = vote | {"token": answer.hearken["feedback_token"]}
    assert gateway.http.post("/v1/feedback", json=by_token).status_code == 202
    assert {t.completion_id for vote in gateway.votes() for t in vote.targets} == {answer.id}


def test_every_kind_of_block_becomes_a_chat(gateway: Gateway, fake: FakeVllm) -> None:
    create(
        gateway,
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": "Rome?"}, {"type": "text", "text": "Or Paris?"}],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": ""},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "Let me look."},
                    {"type": "tool_use", "id": "call_1", "name": "forecast", "input": {"city": "Rome"}},
                    {"type": "tool_use", "id": "call_2", "name": "forecast", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "call_1",
                        "content": [{"type": "text", "text": "sun"}],
                    },
                    {"type": "tool_result", "tool_use_id": "call_2", "is_error": True},
                    {"type": "text", "text": "hi"},
                ],
            },
        ],
        system=[
            {"type": "text", "text": "Be"},
            {"type": "text", "text": "brief.", "cache_control": {"type": "ephemeral"}},
        ],
        tools=[FORECAST],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        thinking={"type": "disabled"},
        stop_sequences=["x"],
    )
    sent = fake.requests[-1]
    arguments = ['{"city":"Rome"}', "{}"]
    assert sent["messages"] == [
        {"role": "system", "content": "Be\nbrief."},
        {"role": "user", "content": "Rome?\nOr Paris?"},
        {
            "role": "assistant",
            "content": "Let me look.",
            "reasoning": "Hm.",
            "tool_calls": [
                {
                    "id": f"call_{i + 1}",
                    "type": "function",
                    "function": {"name": "forecast", "arguments": each},
                }
                for i, each in enumerate(arguments)
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sun"},
        {"role": "tool", "tool_call_id": "call_2", "content": ""},
        {"role": "user", "content": "hi"},
    ]
    function = {
        "name": "forecast",
        "description": "The weather to come",
        "parameters": FORECAST["input_schema"],
    }
    assert sent["tools"] == [{"type": "function", "function": function}]
    assert (sent["tool_choice"], sent["parallel_tool_calls"]) == ("required", False)
    assert (sent["reasoning_effort"], sent["stop"]) == ("none", ["x"])
    assert not {"system", "stop_sequences", "thinking", "metadata"} & sent.keys()


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "forecast"}, {"type": "function", "function": {"name": "forecast"}}),
    ],
)
def test_choices_of_tools(gateway: Gateway, fake: FakeVllm, choice: Any, sent: Any) -> None:
    create(gateway, tools=[FORECAST], tool_choice=choice)
    assert fake.requests[-1]["tool_choice"] == sent


def test_an_answer_that_was_begun_is_gone_on_with(gateway: Gateway, fake: FakeVllm) -> None:
    create(gateway, [*ASK, {"role": "assistant", "content": "I"}])
    sent = fake.requests[-1]
    assert (sent["continue_final_message"], sent["add_generation_prompt"]) == (True, False)
    assert sent["messages"][-1] == {"role": "assistant", "content": "I"}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_loop_of_tools(gateway: Gateway, streamed: bool) -> None:
    def ask(messages: list[Any]) -> Any:
        if not streamed:
            return create(gateway, messages, tools=[FORECAST])
        body: Any = {"model": "hearken", "max_tokens": 50, "messages": messages, "tools": [FORECAST]}
        with client_of(gateway).messages.stream(**body) as stream:
            return stream.get_final_message()

    messages = said(CALL)
    called = ask(messages)
    (call,) = called.content
    assert (call.type, call.name, call.input) == ("tool_use", "forecast", {"city": "Rome"})
    assert called.stop_reason == "tool_use"
    messages.append(
        {"role": "assistant", "content": [call.model_dump(include={"type", "id", "name", "input"})]}
    )
    messages += said([{"type": "tool_result", "tool_use_id": call.id, "content": "sun"}])
    assert ask(messages).content[0].text == TEXT


def test_structured_answers(gateway: Gateway) -> None:
    asked: Any = said(Trouble.SAY + '{"city": "Rome"}')
    answer = client_of(gateway).messages.parse(
        model="hearken", max_tokens=50, messages=asked, output_format=City
    )
    assert answer.parsed_output == City(city="Rome")


TEXT_EVENTS = ["content_block_start", "content_block_delta", "content_block_stop"]


@pytest.mark.parametrize(
    ("asked", "blocks", "reason"),
    [
        ("hi", ["text"], "end_turn"),
        (CALL, ["tool_use"], "tool_use"),
        (Trouble.THINK, ["thinking", "text"], "end_turn"),
        (Trouble.CUT + "I am", ["text"], "max_tokens"),
    ],
)
def test_a_stream_has_the_documented_events(
    gateway: Gateway, asked: str, blocks: list[str], reason: str
) -> None:
    whole = create(gateway, said(asked))
    kinds = []
    with client_of(gateway).messages.stream(model="hearken", max_tokens=50, messages=said(asked)) as stream:
        for event in stream._raw_stream:
            kinds.append(event.type)
    found = [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] != kind]
    assert found == ["message_start", *TEXT_EVENTS * len(blocks), "message_delta", "message_stop"]
    with client_of(gateway).messages.stream(model="hearken", max_tokens=50, messages=said(asked)) as stream:
        last = stream.get_final_message()
    assert [block.type for block in last.content] == blocks
    assert last.stop_reason == whole.stop_reason == reason
    known = {"type", "text", "thinking", "name", "input"}
    assert [b.model_dump(include=known) for b in last.content] == [
        b.model_dump(include=known) for b in whole.content
    ]
    assert last.usage == whole.usage
    logged = gateway.completion(last.id)
    assert len(logged.choices[0].logprobs) == len(logged.choices[0].token_ids) > 1


def test_a_stream_begins_with_the_prompts_tokens(gateway: Gateway) -> None:
    first = next(iter(create(gateway, stream=True)))
    assert first.message.usage.input_tokens == len(PROMPT)
    assert first.message.hearken["feedback_token"].startswith("fbt_")


def test_thoughts_are_blocks(gateway: Gateway) -> None:
    thought, text = create(gateway, said(Trouble.THINK)).content
    assert (thought.thinking, text.text) == (THOUGHT, TEXT)


def test_a_cut_call_has_the_arguments_that_came(gateway: Gateway) -> None:
    asked = Trouble.CALL + 'forecast {"city": "Ro'
    (call,) = create(gateway, said(asked)).content
    assert call.input == {"city": "Ro"}
    deltas = [
        event.delta for event in create(gateway, said(asked), stream=True) if event.type == TEXT_EVENTS[1]
    ]
    assert "".join(delta.partial_json for delta in deltas) == '{"city": "Ro'


def test_a_stream_that_breaks_off_ends_with_an_error(gateway: Gateway) -> None:
    with pytest.raises(anthropic.APIStatusError) as caught:
        list(create(gateway, said(Trouble.DIE), stream=True))
    assert caught.value.body["error"]["type"] == "api_error"  # type: ignore[index]


def test_a_silent_stream_pings(start: Start, fake: FakeVllm) -> None:
    gateway = start(keep_alive_seconds=0.05)
    body = {"model": "hearken", "max_tokens": 50, "messages": said(Trouble.HOLD), "stream": True}

    def lines() -> Iterator[str]:
        with gateway.http.stream("POST", "/v1/messages", json=body) as answer:
            yield from answer.iter_lines()

    for line in lines():
        if line == "event: ping":
            fake.release.set()
    assert fake.release.is_set()
    assert line == ""


def test_tokens_are_counted_as_the_engine_writes_the_prompt(gateway: Gateway, fake: FakeVllm) -> None:
    counted = client_of(gateway).messages.count_tokens(
        model="hearken", system="Be brief.", messages=said("one two"), tools=[FORECAST]
    )
    assert counted.input_tokens == 4
    assert fake.requests[-1]["tools"][0]["function"]["name"] == "forecast"
    assert fake.requests[-1]["model"] == "base"
    assert gateway.completions() == []


def test_the_engines_tokens(gateway: Gateway) -> None:
    def tokenize(**body: Any) -> Any:
        return gateway.http.post("/tokenize", json=body)

    assert tokenize(model="hearken", prompt="one three").json() == {
        "count": 2,
        "max_model_len": 1024,
        "tokens": [3, 5],
        "token_strs": None,
    }
    assert tokenize(messages=said("one"), return_token_strs=True, tools=[]).json()["token_strs"] == ["one"]
    assert tokenize(messages=said("one"), prompt="one").status_code == 400
    assert tokenize().json()["error"]["param"] == "messages"
    assert tokenize(model="other", prompt="one").status_code == 404


def test_either_header_has_the_key(start: Start) -> None:
    gateway = start()
    key, secret = make_key("one", ["chat"], datetime.now(UTC))
    votes, voting = make_key("two", ["feedback"], datetime.now(UTC))
    edit_keys(gateway.data / "keys.json", lambda _: [key, votes])
    eventually(lambda: gateway.http.get("/v1/models").status_code == 401, "the keys are in force")
    with pytest.raises(anthropic.AuthenticationError) as caught:
        client_of(gateway, "hk-wrong").messages.create(model="hearken", max_tokens=5, messages=ASK)
    assert caught.value.body == {
        "type": "error",
        "error": {"type": "authentication_error", "message": "The API key is not one of this service."},
    }
    client = anthropic.Anthropic(base_url=gateway.url, api_key=secret, max_retries=0)
    answer = client.messages.create(model="hearken", max_tokens=5, messages=ASK)
    bearer = anthropic.Anthropic(base_url=gateway.url, auth_token=secret, max_retries=0)
    assert bearer.messages.create(model="hearken", max_tokens=5, messages=ASK).role == "assistant"
    vote = {"kind": "thumbs", "completion_id": answer.id, "value": "up"}
    headers = {"x-api-key": voting}
    assert gateway.http.post("/v1/feedback", json=vote, headers=headers).status_code == 202
    assert gateway.http.post("/v1/feedback", json=vote).status_code == 401


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"messages": said([{"type": "image", "source": {}}])}, "image_url"),
        ({"messages": said([{"type": "document", "source": {}}])}, "text block"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "input_schema"),
        ({"mcp_servers": [{"name": "x"}]}, "yourself"),
        ({"messages": []}, "messages is empty"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"temperature": 3}, "temperature must be from 0 to 2"),
        ({"stop": ["x"]}, "stop_sequences"),
        ({"tool_choice": {"type": "any"}}, "tool_choice needs tools"),
        ({"messages": said(Trouble.TOO_LONG)}, "context length"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"$ref": "#"}}}},
            "output_config.format",
        ),
    ],
)
def test_what_is_not_supported_is_said_in_anthropics_shape(
    steady: Gateway, fields: dict[str, Any], word: str
) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        create(steady, **fields)
    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert word in body["error"]["message"]


def test_other_errors_have_anthropics_types(steady: Gateway) -> None:
    with pytest.raises(anthropic.NotFoundError):
        create(steady, model="claude")
    wrong = steady.http.get("/v1/messages")
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (405, "invalid_request_error")
    assert steady.http.get("/v1/messages/x").json()["error"]["type"] == "not_found_error"
    assert steady.http.get("/v1/messagesx").json()["error"]["code"] == "unknown_url"


def test_what_stopped_an_answer_is_named() -> None:
    message = {"role": "assistant", "content": "I am"}
    for stopped, reason, sequence in (
        (".", "stop_sequence", "."),
        (None, "end_turn", None),
        (2, "end_turn", None),
    ):
        choice = {"message": message, "finish_reason": "stop", "stop_reason": stopped}
        shown = MessageDoor("msg_1", {}).whole({"model": "hearken", "choices": [choice]})
        assert (shown["stop_reason"], shown["stop_sequence"]) == (reason, sequence)
