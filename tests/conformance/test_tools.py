"""Functions and structured answers: what vLLM's constrained decoding makes even a tiny model do."""

import json
from typing import Annotated, Any, Literal

import httpx
import openai
import pydantic
import pytest

from tests.conformance.conftest import QUESTION, SOME_TEXT, Client
from tests.conftest import Engine
from tests.serve.conftest import Gateway

pytestmark = pytest.mark.engine


class Forecast(pydantic.BaseModel):
    """What a tiny model can fill in: it has never seen a quotation mark, and would not end a free string."""

    model_config = pydantic.ConfigDict(extra="forbid")

    city: Literal["Paris", "Rome"]
    days: Annotated[int, pydantic.Field(ge=1, le=9)]
    note: Annotated[str, pydantic.Field(pattern="^[a-z ]{0,12}$")]


PARAMETERS = Forecast.model_json_schema()
FORECAST: dict[str, Any] = {
    "type": "function",
    "function": {"name": "forecast", "description": "The weather to come", "parameters": PARAMETERS},
}
NOW: dict[str, Any] = {"type": "function", "function": {"name": "now", "description": "The time of day"}}
NAMED = {"type": "function", "function": {"name": "forecast"}}
CALL = '<tool_call>\n{"name": "forecast", "arguments": {"city": "Rome", "days": 2, "note": ""}}\n</tool_call>'
ENOUGH = {"max_tokens": 550}


@pytest.fixture(scope="module")
def one_call(engine: Engine) -> dict[str, Any]:
    """Ends a list of calls after the first: the grammar has `]` in no other place. A tiny model that is
    required to call may else add call to call until it is cut off."""
    text = {"model": "base", "prompt": "]", "add_special_tokens": False}
    (token,) = httpx.post(engine.url + "/tokenize", json=text).json()["tokens"]
    return {"logit_bias": {str(token): 100}}


def assert_forecast(call: Any) -> None:
    assert call.type == "function"
    assert call.id
    assert call.function.name == "forecast"
    Forecast.model_validate_json(call.function.arguments)


def gathered(chunks: list[Any]) -> tuple[list[dict[str, str]], str]:
    """Streamed calls put together as OpenAI's guide says, and the finish reason."""
    calls: dict[int, dict[str, str]] = {}
    reason = ""
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        reason = choice.finish_reason or reason
        for delta in choice.delta.tool_calls or []:
            call = calls.setdefault(delta.index, {"id": "", "name": "", "arguments": ""})
            call["id"] += delta.id or ""
            call["name"] += delta.function.name or ""
            call["arguments"] += delta.function.arguments or ""
    return [calls[index] for index in sorted(calls)], reason


def test_a_required_call(client: Client, one_call: dict[str, Any]) -> None:
    answer = client.create(tools=[FORECAST], tool_choice="required", **one_call, **ENOUGH)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert_forecast(call)


def test_a_named_call(client: Client) -> None:
    answer = client.create(tools=[FORECAST, NOW], tool_choice=NAMED, **ENOUGH)
    (call,) = answer.choices[0].message.tool_calls
    assert_forecast(call)
    assert answer.choices[0].message.content is None
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("choice", ["auto", "none", None])
def test_a_model_that_may_call_can_also_talk(client: Client, choice: str | None) -> None:
    chosen = {} if choice is None else {"tool_choice": choice}
    answer = client.create(tools=[FORECAST], temperature=0, extra_body=SOME_TEXT, **chosen)
    assert answer.choices[0].message.content
    assert answer.choices[0].message.tool_calls is None


def test_calls_of_its_own_accord(client: Client, service: Gateway) -> None:
    # The tiny model never calls by itself: the constraint makes it write what a larger one would.
    wanted = {"structured_outputs": {"choice": [f"{CALL}\n{CALL}"]}}
    answer = client.create(tools=[FORECAST], tool_choice="auto", extra_body=wanted, **ENOUGH)
    one, two = answer.choices[0].message.tool_calls
    assert_forecast(one)
    assert_forecast(two)
    assert one.id != two.id
    assert answer.choices[0].finish_reason == "tool_calls"

    chunks = client.stream(tools=[FORECAST], tool_choice="auto", extra_body=wanted, **ENOUGH)
    calls, reason = gathered(chunks)
    assert reason == "tool_calls"
    assert [json.loads(call["arguments"]) for call in calls] == [{"city": "Rome", "days": 2, "note": ""}] * 2
    event = service.completion(chunks[0].id)
    assert len(event.choices[0].logprobs) == len(event.choices[0].token_ids) > 20


@pytest.mark.parametrize("how", ["required", "named"])
def test_a_streamed_call_comes_in_pieces(client: Client, how: str, one_call: dict[str, Any]) -> None:
    choice = {"tool_choice": "required", **one_call} if how == "required" else {"tool_choice": NAMED}
    chunks = client.stream(tools=[FORECAST], **choice, **ENOUGH)
    (call,), reason = gathered(chunks)
    assert call["id"]
    assert call["name"] == "forecast"
    Forecast.model_validate_json(call["arguments"])
    assert reason == ("tool_calls" if how == "required" else "stop")
    assert len([c for c in chunks if c.choices and c.choices[0].delta.tool_calls]) > 2


def test_the_turn_after_a_call(client: Client) -> None:
    first = client.create(tools=[FORECAST], tool_choice=NAMED, **ENOUGH).choices[0].message
    (call,) = first.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"degrees": 21}'}
    history = [*QUESTION, first.model_dump(exclude_none=True), result]
    with_it = client.create(tools=[FORECAST], messages=history, temperature=0, extra_body=SOME_TEXT)
    assert with_it.choices[0].message.content
    without = client.create(tools=[FORECAST], messages=QUESTION)
    assert with_it.usage.prompt_tokens > without.usage.prompt_tokens + 10


def test_answers_are_parsed_into_a_model(client: Client) -> None:
    answer = client.parse(Forecast, **ENOUGH)
    assert isinstance(answer.choices[0].message.parsed, Forecast)


def test_arguments_are_parsed_into_a_model(client: Client) -> None:
    tool = openai.pydantic_function_tool(Forecast, name="forecast")
    body: dict[str, Any] = {
        "model": "hearken",
        "messages": QUESTION,
        "tools": [tool],
        "tool_choice": NAMED,
        **ENOUGH,
    }
    answer = client.use(
        lambda c: c.chat.completions.parse(**body), lambda c: c.chat.completions.parse(**body)
    )
    assert isinstance(answer.choices[0].message.tool_calls[0].function.parsed_arguments, Forecast)


def test_a_json_object(client: Client) -> None:
    answers = [
        client.create(response_format={"type": "json_object"}, seed=seed, **ENOUGH).choices[0]
        for seed in range(6)
    ]
    assert all(answer.message.content.startswith("{") for answer in answers)
    ended = [answer.message.content for answer in answers if answer.finish_reason == "stop"]
    assert all(isinstance(json.loads(content), dict) for content in ended)


def test_a_json_schema(client: Client) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema, "strict": True}}
    closed = schema | {"additionalProperties": False}
    answer = client.create(response_format=wanted | {"json_schema": {"name": "v", "schema": closed}})
    assert json.loads(answer.choices[0].message.content)["ok"] in (True, False)
    with pytest.raises(openai.BadRequestError) as caught:
        client.create(response_format={"type": "json_schema"})
    assert str(caught.value.param).startswith("response_format")


def test_text_is_the_plain_format(client: Client) -> None:
    answer = client.create(response_format={"type": "text"}, extra_body=SOME_TEXT)
    assert answer.choices[0].message.content
