"""POST /v1/responses through the official client: what users see, and what the log keeps."""

import json
from datetime import UTC, datetime
from typing import Any, Literal

import openai
import pydantic
import pytest

from feedback.core.ids import RESPONSE_PREFIX
from serve.apis.responses_door import ResponseDoor
from serve.apis.responses_request import echo_of
from serve.auth.keyfile import edit_keys
from serve.auth.keys import make_key
from serve.http.errors import engine_unavailable
from tests.serve.conftest import Gateway, Start, eventually
from tests.serve.fake_vllm import EOS, PROMPT, THOUGHT, FakeVllm, Trouble

TEXT = "I am base, seed None."
FORECAST: dict[str, Any] = {
    "type": "function",
    "name": "forecast",
    "description": "The weather to come",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
CALL = Trouble.CALL + 'forecast {"city": "Rome"}'


class City(pydantic.BaseModel):
    city: Literal["Rome", "Paris"]


def create(gateway: Gateway, given: Any = "hi", **fields: Any) -> Any:
    return gateway.openai.responses.create(model="hearken", input=given, **fields)


def refused(gateway: Gateway, **fields: Any) -> dict[str, Any]:
    """The error of a request that is a 400."""
    answer = gateway.http.post("/v1/responses", json={"model": "hearken", "input": "hi", **fields})
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def test_a_response_has_openais_shape_and_is_logged_exactly(steady: Gateway) -> None:
    answer = create(
        steady,
        instructions="Be brief.",
        user="ada",
        temperature=0.5,
        max_output_tokens=20,
        metadata={"a": "b"},
    )
    assert (answer.output_text, answer.status, answer.object) == (TEXT, "completed", "response")
    assert (answer.model, answer.instructions, answer.metadata) == ("hearken", "Be brief.", {"a": "b"})
    assert (answer.temperature, answer.max_output_tokens, answer.store) == (0.5, 20, True)
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (len(PROMPT), 6)
    assert answer.incomplete_details is None
    event = steady.completion(answer.id)
    assert event.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    ]
    (choice,) = event.choices
    assert (choice.text, choice.token_ids) == (TEXT, [100, 101, 102, 103, 104, EOS])
    assert choice.logprobs == [-0.1, -0.2, -0.3, -0.4, -0.5, -0.6]
    assert event.user == steady.signer.pseudonym("default", "ada")
    assert (event.sampling.temperature, event.sampling.max_tokens) == (0.5, 20)


def test_the_id_can_be_voted_on(gateway: Gateway) -> None:
    answer = create(gateway)
    assert answer.id.startswith(RESPONSE_PREFIX)
    vote = {"kind": "thumbs", "completion_id": answer.id, "value": "up"}
    assert gateway.http.post("/v1/feedback", json=vote).status_code == 202
    assert [t.completion_id for t in gateway.votes()[0].targets] == [answer.id]
    by_token = vote | {"token": answer.hearken["feedback_token"]}
    assert gateway.http.post("/v1/feedback", json=by_token).status_code == 202
    swapped = vote | {"completion_id": answer.id.replace(RESPONSE_PREFIX, "chatcmpl-")}
    assert gateway.http.post("/v1/feedback", json=swapped).status_code == 404


def test_every_kind_of_item_becomes_a_chat(gateway: Gateway, fake: FakeVllm) -> None:
    create(
        gateway,
        [
            {"role": "developer", "content": "Be brief."},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Rome?"}]},
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": "Hm."}],
            },
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Let me look.", "annotations": []}],
            },
            {
                "type": "function_call",
                "id": "fc_1",
                "call_id": "call_1",
                "name": "forecast",
                "arguments": "{}",
            },
            {"type": "function_call", "call_id": "call_2", "name": "forecast", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "sun"},
            {
                "type": "function_call_output",
                "call_id": "call_2",
                "output": [{"type": "input_text", "text": "rain"}],
            },
            {"role": "assistant", "content": "Sun."},
            {"role": "assistant", "content": "Or rain."},
            {"role": "user", "content": "hi"},
        ],
        tools=[FORECAST],
        tool_choice={"type": "function", "name": "forecast"},
        reasoning={"effort": "low"},
        text={
            "format": {"type": "json_schema", "name": "city", "schema": {"type": "object"}, "strict": True}
        },
    )
    sent = fake.requests[-1]
    call = {"type": "function", "function": {"name": "forecast", "arguments": "{}"}}
    assert sent["messages"] == [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Rome?"},
        {
            "role": "assistant",
            "content": "Let me look.",
            "reasoning": "Hm.",
            "tool_calls": [{"id": "call_1", **call}, {"id": "call_2", **call}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sun"},
        {"role": "tool", "tool_call_id": "call_2", "content": "rain"},
        {"role": "assistant", "content": "Sun."},
        {"role": "assistant", "content": "Or rain."},
        {"role": "user", "content": "hi"},
    ]
    assert sent["tools"] == [
        {"type": "function", "function": {k: v for k, v in FORECAST.items() if k != "type"}}
    ]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "forecast"}}
    assert sent["reasoning_effort"] == "low"
    assert sent["response_format"]["json_schema"] == {
        "name": "city",
        "schema": {"type": "object"},
        "strict": True,
    }
    assert not {"input", "text", "reasoning", "include", "store"} & sent.keys()


@pytest.mark.parametrize("streamed", [False, True])
def test_a_loop_of_tools(gateway: Gateway, streamed: bool) -> None:
    def ask(given: Any) -> Any:
        if not streamed:
            return create(gateway, given, tools=[FORECAST])
        with gateway.openai.responses.stream(model="hearken", input=given, tools=[FORECAST]) as stream:
            return stream.get_final_response()

    given: list[Any] = [{"role": "user", "content": CALL}]
    called = ask(given)
    (call,) = called.output
    assert (call.type, call.name, call.call_id) == ("function_call", "forecast", "chatcmpl-tool-1")
    assert json.loads(call.arguments) == {"city": "Rome"}
    given += [item.model_dump(exclude={"parsed_arguments"}) for item in called.output]
    given.append({"type": "function_call_output", "call_id": call.call_id, "output": "sun"})
    assert ask(given).output_text == TEXT


@pytest.mark.parametrize("streamed", [False, True])
def test_structured_answers(gateway: Gateway, streamed: bool) -> None:
    given = Trouble.SAY + '{"city": "Rome"}'
    if streamed:
        with gateway.openai.responses.stream(model="hearken", input=given, text_format=City) as stream:
            answer: Any = stream.get_final_response()
    else:
        answer = gateway.openai.responses.parse(model="hearken", input=given, text_format=City)
    assert answer.output_parsed == City(city="Rome")


def kinds(events: list[Any]) -> list[str]:
    """The kinds of events without `response.`, repeated ones once."""
    found = [event.type.removeprefix("response.") for event in events]
    return [kind for i, kind in enumerate(found) if i == 0 or found[i - 1] != kind]


TEXT_EVENTS = [
    *("output_item.added", "content_part.added", "output_text.delta", "output_text.done"),
    *("content_part.done", "output_item.done"),
]
CALL_EVENTS = [
    *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done"),
    "output_item.done",
]
THOUGHT_EVENTS = [
    *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done"),
    *("content_part.done", "output_item.done"),
]


@pytest.mark.parametrize(
    ("asked", "between", "end"),
    [
        ("hi", TEXT_EVENTS, "completed"),
        (CALL, CALL_EVENTS, "completed"),
        (Trouble.THINK, [*THOUGHT_EVENTS, *TEXT_EVENTS], "completed"),
        (Trouble.CUT + "I am", TEXT_EVENTS, "incomplete"),
    ],
)
def test_a_stream_has_the_documented_events(
    gateway: Gateway, asked: str, between: list[str], end: str
) -> None:
    events = list(create(gateway, asked, stream=True))
    assert kinds(events) == ["created", "in_progress", *between, end]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    whole, last = create(gateway, asked), events[-1].response
    named = {"id", "created_at", "hearken"}
    assert last.model_dump(exclude=named | {"output"}) == whole.model_dump(exclude=named | {"output"})
    assert [i.model_dump(exclude={"id"}) for i in last.output] == [
        i.model_dump(exclude={"id"}) for i in whole.output
    ]
    items = [event.item.id for event in events if event.type == "response.output_item.done"]
    assert [item.id for item in last.output] == items
    assert events[0].response.id == last.id
    event = gateway.completion(last.id)
    assert len(event.choices[0].logprobs) == len(event.choices[0].token_ids) > 1


def test_thoughts_are_items_of_their_own(gateway: Gateway) -> None:
    answer = create(gateway, Trouble.THINK)
    with gateway.openai.responses.stream(model="hearken", input=Trouble.THINK) as stream:
        streamed = stream.get_final_response()
    for thought, said in (answer.output, streamed.output):
        assert (thought.type, thought.content[0].text) == ("reasoning", THOUGHT)
        assert said.content[0].text == TEXT
    assert answer.usage.output_tokens_details.reasoning_tokens > 0


def test_an_answer_that_was_cut_says_why(gateway: Gateway) -> None:
    answer = create(gateway, Trouble.CUT + "I am")
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert answer.output[-1].status == "incomplete"


def test_a_stream_that_breaks_off_fails(gateway: Gateway) -> None:
    events = list(create(gateway, Trouble.FAIL, stream=True))
    last = events[-1]
    assert (last.type, last.response.status) == ("response.failed", "failed")
    assert last.response.error.code == "unprocessable_request"  # the engine answers others
    assert gateway.completion(last.response.id).choices[0].finish_reason == "error"


def test_a_stream_that_never_began_fails_in_order() -> None:
    door = ResponseDoor(echo_of({"model": "hearken"}, True), "resp_1", {})
    lines = door.broken(engine_unavailable()).decode().splitlines()
    told = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert [event["type"] for event in told] == [
        f"response.{k}" for k in ("created", "in_progress", "failed")
    ]
    assert [event["sequence_number"] for event in told] == [0, 1, 2]
    assert told[-1]["response"]["error"]["code"] == "server_error"
    assert told[-1]["response"]["model"] == "hearken"


def test_a_conversation_goes_on_from_a_stored_response(gateway: Gateway, fake: FakeVllm) -> None:
    first = create(gateway, instructions="Be brief.", user="ada")
    second = create(gateway, "And now?", previous_response_id=first.id, user="ada", stream=True)
    last = list(second)[-1].response
    assert last.previous_response_id == first.id
    before = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": TEXT}]
    assert fake.requests[-1]["messages"] == [*before, {"role": "user", "content": "And now?"}]
    create(gateway, "Third", previous_response_id=last.id, user="ada", instructions="Be long.")
    assert [m["content"] for m in fake.requests[-1]["messages"]] == [
        *("Be long.", "hi", TEXT, "And now?", TEXT, "Third"),
    ]


def test_a_conversation_may_be_as_long_as_a_body(start: Start) -> None:
    gateway = start(max_body_bytes=3000)
    first = create(gateway, "a" * 2000)
    with pytest.raises(openai.APIStatusError) as caught:
        create(gateway, "b" * 2000, previous_response_id=first.id)
    assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")
    assert create(gateway, "b", previous_response_id=first.id).output_text == TEXT


@pytest.mark.parametrize(
    "fields", [{"store": False}, {"user": "bob"}, {"extra_body": {"hearken": {"consent": False}}}]
)
def test_what_was_not_stored_or_is_of_another_is_not_found(gateway: Gateway, fields: dict[str, Any]) -> None:
    first = create(gateway, **{"user": "ada", **fields})
    assert first.store is ("user" in fields)
    with pytest.raises(openai.NotFoundError) as caught:
        create(gateway, previous_response_id=first.id, user="ada")
    assert (caught.value.code, caught.value.param) == ("response_not_found", "previous_response_id")


def test_a_tenant_goes_on_without_names_from_any_address(start: Start) -> None:
    gateway = start(wait=False, trusted_proxies=("127.0.0.0/8",))
    now = datetime.now(UTC)
    keys = [make_key("one", ["chat"], now), make_key("other", ["chat"], now, tenant="other")]
    edit_keys(gateway.data / "keys.json", lambda _: [key for key, _ in keys])
    one, other = ({"authorization": f"Bearer {secret}"} for _, secret in keys)

    def ask(headers: dict[str, str], address: str, **fields: Any) -> Any:
        body = {"model": "hearken", "input": "hi", **fields}
        return gateway.http.post("/v1/responses", json=body, headers={**headers, "x-forwarded-for": address})

    eventually(lambda: ask({}, "10.0.0.1").status_code == 401, "the keys are in force")
    first = ask(one, "10.0.0.1").json()["id"]
    assert ask(one, "10.0.0.2", previous_response_id=first).status_code == 200
    assert ask(one, "10.0.0.1", previous_response_id=first, user="ada").status_code == 404
    assert ask(other, "10.0.0.1", previous_response_id=first).status_code == 404


def test_an_open_service_knows_who_goes_on_by_their_address(start: Start) -> None:
    gateway = start(trusted_proxies=("127.0.0.0/8",))

    def ask(address: str, **fields: Any) -> Any:
        body = {"model": "hearken", "input": "hi", **fields}
        return gateway.http.post("/v1/responses", json=body, headers={"x-forwarded-for": address})

    first = ask("10.0.0.1").json()["id"]
    assert ask("10.0.0.1", previous_response_id=first).status_code == 200
    assert ask("10.0.0.2", previous_response_id=first).status_code == 404


def test_what_is_stored_is_redacted(start: Start) -> None:
    gateway = start(redact="patterns")
    answer = create(gateway, Trouble.SAY + "Mail bob@example.com", instructions="You are eve@example.com.")
    assert answer.output_text == "Mail bob@example.com"
    kept = gateway.openai.responses.retrieve(answer.id)
    assert (kept.output_text, kept.instructions) == ("Mail [email]", "You are [email].")


def test_erasing_a_user_erases_their_responses(gateway: Gateway) -> None:
    answer = create(gateway, user="ada")
    erased = gateway.http.delete("/v1/users/ada").json()
    assert (erased["found"], erased["stored_completions"]) == (True, 1)
    assert gateway.http.get(f"/v1/responses/{answer.id}").status_code == 404


def test_stored_responses_are_read_and_deleted_apart_from_chats(gateway: Gateway) -> None:
    client = gateway.openai.responses
    answer = create(gateway, instructions="Be brief.", metadata={"a": "b"})
    again = client.retrieve(answer.id)
    assert again.model_dump(exclude={"hearken"}) == answer.model_dump(exclude={"hearken"})
    assert list(gateway.openai.chat.completions.list()) == []
    assert gateway.http.get(f"/v1/chat/completions/{answer.id}").status_code == 404
    chat = gateway.chat(store=True).json()["id"]
    assert gateway.http.get(f"/v1/responses/{chat}").status_code == 404
    client.delete(answer.id)
    for use in (client.retrieve, client.delete):
        with pytest.raises(openai.NotFoundError):
            use(answer.id)
    assert gateway.completion(answer.id).choices[0].text == TEXT  # the log is not the clients' to change


@pytest.mark.parametrize(
    ("fields", "param", "word"),
    [
        ({"background": True}, "background", "stream"),
        ({"conversation": "conv_1"}, "conversation", "previous_response_id"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "instructions"),
        ({"truncation": "auto"}, "truncation", "leave out"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "messages", "input"),
        ({"max_tokens": 4}, "max_tokens", "max_output_tokens"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "functions"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type", "function"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type", "previous_response_id"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type", "function_call"),
        ({"hearken": {"compare": True}}, "hearken.compare", "comparisons"),
        ({"hearken": {"compare_sparingly": True}}, "hearken.compare_sparingly", "comparisons"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
            "input[0].content[0].type",
            "input_text",
        ),
        ({"temperature": 3}, "temperature", "2"),
        ({"input": []}, "input", "empty"),
        ({"input": [{"content": "hi"}]}, "input[0].role", "missing"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id", "missing"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema", "missing"),
        ({"tool_choice": "required"}, "tool_choice", "tools"),
    ],
)
def test_what_is_not_supported_is_named_with_what_would_be_right(
    steady: Gateway, fields: dict[str, Any], param: str, word: str
) -> None:
    error = refused(steady, **fields)
    assert error["param"] == param
    assert word in error["message"]


def test_errors_name_the_fields_of_this_api(steady: Gateway) -> None:
    assert refused(steady, input=Trouble.TOO_LONG)["param"] == "input"
    circular = {"$ref": "#"}
    shape = {"format": {"type": "json_schema", "name": "n", "schema": circular}}
    error = refused(steady, text=shape)
    assert error["param"] == "text.format"
    assert "text.format" in error["message"]


def test_logprobs_are_given_when_they_are_included(steady: Gateway) -> None:
    answer = create(steady, include=["message.output_text.logprobs"], top_logprobs=1)
    logprobs = answer.output[0].content[0].logprobs
    assert [token.logprob for token in logprobs] == [-0.1, -0.2, -0.3, -0.4, -0.5, -0.6]
    assert create(steady).output[0].content[0].logprobs == []


def test_who_may_vote_is_blind_here_too(gateway: Gateway) -> None:
    error = refused(gateway, include=["message.output_text.logprobs"])
    assert error["code"] == "unsupported_parameter"
