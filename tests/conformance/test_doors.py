"""/v1/responses and /v1/messages on a real vLLM: what official clients make of a tiny model."""

import json
from typing import Any

import anthropic
import openai
import pytest

from tests.conformance.conftest import SOME_TEXT, Client
from tests.conformance.test_tools import (
    CALL,
    ENOUGH,
    FORECAST,
    PARAMETERS,
    Forecast,
    gathered,
    one_call,
)
from tests.serve.conftest import Gateway

__all__ = ["one_call"]

pytestmark = pytest.mark.engine
QUESTION = "Where is my order?"
ASK: list[Any] = [{"role": "user", "content": QUESTION}]
FUNCTION: dict[str, Any] = {"type": "function", **FORECAST["function"]}
TOOL: dict[str, Any] = {"name": "forecast", "input_schema": PARAMETERS}
NAMED: dict[str, Any] = {"type": "function", "name": "forecast"}


@pytest.fixture
def responses(service: Gateway) -> Any:
    return openai.OpenAI(base_url=service.url + "/v1", api_key="unused", max_retries=0).responses


@pytest.fixture
def messages(service: Gateway) -> Any:
    return anthropic.Anthropic(base_url=service.url, api_key="unused", max_retries=0).messages


def assert_exact(service: Gateway, completion_id: str, tokens: int) -> None:
    (choice,) = service.completion(completion_id).choices
    assert len(choice.token_ids) == len(choice.logprobs) == tokens > 0


def test_a_response_whole_and_streamed(responses: Any, service: Gateway) -> None:
    body: dict[str, Any] = {
        "model": "hearken",
        "input": QUESTION,
        "instructions": "Be brief.",
        "max_output_tokens": 40,
        "temperature": 0,
        "extra_body": {"structured_outputs": {"choice": ["It is on its way."]}},
    }
    whole = responses.create(**body)
    assert whole.output_text == "It is on its way."
    assert_exact(service, whole.id, whole.usage.output_tokens)
    with responses.stream(**body) as stream:
        streamed = stream.get_final_response()
    assert streamed.output_text == whole.output_text
    assert streamed.usage == whole.usage
    assert_exact(service, streamed.id, streamed.usage.output_tokens)


def test_a_response_goes_on_from_another(responses: Any, service: Gateway) -> None:
    body: dict[str, Any] = {"model": "hearken", "max_output_tokens": 8, "extra_body": SOME_TEXT}
    first = responses.create(input=QUESTION, **body)
    second = responses.create(input="And now?", previous_response_id=first.id, **body)
    said = [message["content"] for message in service.completion(second.id).messages]
    assert said == [QUESTION, first.output_text, "And now?"]
    assert second.usage.input_tokens > first.usage.input_tokens


def test_a_response_calls_a_function_and_keeps_to_a_schema(responses: Any) -> None:
    body: dict[str, Any] = {"model": "hearken", "input": QUESTION, "max_output_tokens": 550}
    called = responses.create(tools=[FUNCTION], tool_choice=NAMED, **body)
    (call,) = called.output
    Forecast.model_validate_json(call.arguments)
    with responses.stream(tools=[FUNCTION], tool_choice=NAMED, **body) as stream:
        Forecast.model_validate_json(stream.get_final_response().output[0].arguments)
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sun"}
    given = [*ASK, call.model_dump(exclude_none=True), output]
    assert responses.create(**body | {"input": given}, tools=[FUNCTION]).status in ("completed", "incomplete")
    assert isinstance(responses.parse(text_format=Forecast, **body).output_parsed, Forecast)


def test_a_response_that_is_cut(responses: Any) -> None:
    cut = responses.create(
        model="hearken", input=QUESTION, max_output_tokens=3, extra_body={"ignore_eos": True}
    )
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert cut.usage.output_tokens == 3


def test_a_message_whole_and_streamed(messages: Any, service: Gateway) -> None:
    body: dict[str, Any] = {"model": "hearken", "max_tokens": 40, "messages": ASK, "system": "Be brief."}
    extra = {"temperature": 0, **SOME_TEXT}
    whole = messages.create(**body, extra_body=extra)
    (text,) = whole.content
    assert text.text
    assert_exact(service, whole.id, whole.usage.output_tokens)
    with messages.stream(**body, extra_body=extra) as stream:
        streamed = stream.get_final_message()
    assert [block.text for block in streamed.content] == [text.text]
    assert streamed.usage == whole.usage
    assert_exact(service, streamed.id, streamed.usage.output_tokens)


def test_a_message_calls_a_tool_and_keeps_to_a_schema(messages: Any) -> None:
    body: dict[str, Any] = {"model": "hearken", "max_tokens": 550, "messages": ASK}
    choice = {"type": "tool", "name": "forecast"}
    called = messages.create(tools=[TOOL], tool_choice=choice, **body)
    (call,) = called.content
    Forecast.model_validate(call.input)
    assert called.stop_reason == "tool_use"
    with messages.stream(tools=[TOOL], tool_choice=choice, **body) as stream:
        Forecast.model_validate(stream.get_final_message().content[0].input)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sun"}
    turn = [{"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
    assert messages.create(**body | {"messages": [*ASK, *turn]}, tools=[TOOL]).role == "assistant"
    output = {"format": {"type": "json_schema", "schema": PARAMETERS}}
    (text,) = messages.create(output_config=output, **body).content
    Forecast.model_validate_json(text.text)


def test_tokens_are_counted_as_the_prompt_has_them(messages: Any) -> None:
    body: dict[str, Any] = {"model": "hearken", "messages": ASK, "system": "Be brief.", "tools": [TOOL]}
    counted = messages.count_tokens(**body).input_tokens
    usage = messages.create(max_tokens=4, **body).usage
    assert usage.input_tokens + usage.cache_read_input_tokens == counted > 0


def test_a_message_that_was_begun_is_gone_on_with(messages: Any, service: Gateway) -> None:
    begun = [*ASK, {"role": "assistant", "content": "Your order"}]
    body: dict[str, Any] = {"model": "hearken", "max_tokens": 8, "messages": begun}
    answer = messages.create(**body, extra_body=SOME_TEXT)
    assert not answer.content[0].text.startswith("Your order")
    asked = service.completion(answer.id).prompt_token_ids
    assert messages.count_tokens(model="hearken", messages=begun).input_tokens == len(asked)
    said = service.http.post("/tokenize", json={"prompt": "Your order", "add_special_tokens": False}).json()
    assert asked[-len(said["tokens"]) :] == said["tokens"]


def test_a_message_ends_at_a_stop_sequence(messages: Any) -> None:
    choice = {"structured_outputs": {"choice": ["one two three"]}}
    answer = messages.create(
        model="hearken", max_tokens=40, messages=ASK, stop_sequences=["two"], extra_body=choice
    )
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "two")
    assert answer.content[0].text == "one "


@pytest.mark.parametrize("choice", ["required", "auto"])
def test_a_cut_call_is_in_whole_answers_what_it_is_in_streams(
    client: Client, one_call: dict[str, Any], choice: str
) -> None:
    body: dict[str, Any] = {"tools": [FORECAST], "tool_choice": choice, "seed": 7, "temperature": 0}
    body |= {"extra_body": {"structured_outputs": {"choice": [CALL]}}} if choice == "auto" else one_call
    full = client.create(**body, **ENOUGH)
    limit = full.usage.completion_tokens * 2 // 3
    whole = client.create(**body, max_tokens=limit).choices[0]
    streamed, reason = gathered(client.stream(**body, max_tokens=limit))
    assert whole.finish_reason == reason == "length"
    (call,) = whole.message.tool_calls
    assert (call.function.name, call.function.arguments) == (streamed[0]["name"], streamed[0]["arguments"])
    with pytest.raises(json.JSONDecodeError):
        json.loads(call.function.arguments)
    assert not whole.message.content
