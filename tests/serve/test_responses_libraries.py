"""Libraries that speak /v1/responses and /v1/messages, as they come: LangChain, LiteLLM, OpenAI's agents."""

from typing import Any

import pydantic
import pytest

from tests.serve.conftest import Gateway
from tests.serve.fake_vllm import FakeVllm, Trouble

TEXT = "I am base, seed None."
CALL = Trouble.CALL + 'forecast {"city": "Rome"}'
STRUCTURED = Trouble.SAY + '{"city": "Rome"}'
TOOL: dict[str, Any] = {
    "type": "function",
    "name": "forecast",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


class City(pydantic.BaseModel):
    city: str


def vote(gateway: Gateway, completion_id: str) -> int:
    body = {"kind": "thumbs", "completion_id": completion_id, "value": "up"}
    return gateway.http.post("/v1/feedback", json=body).status_code


def assert_logged(gateway: Gateway, completion_id: str) -> None:
    """It is in the log with exact ids and logprobs."""
    (choice,) = gateway.completion(completion_id).choices
    assert len(choice.token_ids) == len(choice.logprobs) > 1


@pytest.fixture
def chat(gateway: Gateway) -> Any:
    langchain = pytest.importorskip("langchain_openai")
    return langchain.ChatOpenAI(
        base_url=gateway.url + "/v1", api_key="unused", model="hearken", use_responses_api=True
    )


def test_langchains_loop_of_tools(chat: Any, gateway: Gateway) -> None:
    messages = pytest.importorskip("langchain_core.messages")
    bound = chat.bind_tools(
        [{"type": "function", "function": {k: v for k, v in TOOL.items() if k != "type"}}]
    )
    said = [messages.SystemMessage("Be brief."), messages.HumanMessage(CALL)]
    called = bound.invoke(said)
    (call,) = called.tool_calls
    assert (call["name"], call["args"]) == ("forecast", {"city": "Rome"})
    answer = bound.invoke([*said, called, messages.ToolMessage("sun", tool_call_id=call["id"])])
    assert answer.text == TEXT
    assert vote(gateway, answer.response_metadata["id"]) == 202
    assert_logged(gateway, answer.response_metadata["id"])


def test_langchain_streams_thoughts_and_goes_on(chat: Any, gateway: Gateway) -> None:
    whole = None
    for chunk in chat.stream(Trouble.THINK):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    assert whole.text == TEXT
    assert whole.usage_metadata["output_token_details"]["reasoning"] > 0
    assert_logged(gateway, whole.response_metadata["id"])
    assert chat.invoke([("human", Trouble.THINK), whole, ("human", "hi")]).text == TEXT
    going_on = chat.model_copy(update={"use_previous_response_id": True})
    assert going_on.invoke([("human", Trouble.THINK), whole, ("human", "hi")]).text == TEXT


def test_langchain_structures_answers(chat: Any) -> None:
    assert chat.with_structured_output(City).invoke(STRUCTURED) == City(city="Rome")


@pytest.fixture
def lite(gateway: Gateway) -> Any:
    litellm = pytest.importorskip("litellm")
    return litellm, {"model": "openai/hearken", "api_base": gateway.url + "/v1", "api_key": "unused"}


def test_litellms_loop_of_tools(lite: Any, gateway: Gateway) -> None:
    litellm, body = lite
    called = litellm.responses(input=CALL, tools=[TOOL], **body)
    (call,) = called.output
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sun"}
    answer = litellm.responses(input=[output], previous_response_id=called.id, tools=[TOOL], **body)
    assert answer.output[0].content[0].text == TEXT
    ours = answer.hearken["completion_id"]  # its `id` is LiteLLM's own
    assert vote(gateway, ours) == 202
    assert_logged(gateway, ours)


def test_litellm_streams_and_structures_answers(lite: Any) -> None:
    litellm, body = lite
    events = list(litellm.responses(input="hi", stream=True, **body))
    assert events[-1].type == "response.completed"
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == TEXT
    structured = litellm.responses(input=STRUCTURED, text_format=City, **body)
    assert City.model_validate_json(structured.output[0].content[0].text) == City(city="Rome")


def test_litellm_speaks_to_messages_too(gateway: Gateway) -> None:
    litellm = pytest.importorskip("litellm")
    body: Any = {"model": "anthropic/hearken", "api_base": gateway.url, "api_key": "unused"}
    answer = litellm.completion(messages=[{"role": "user", "content": "hi"}], **body)
    assert answer.choices[0].message.content == TEXT


FUNCTION = TOOL | {
    "parameters": TOOL["parameters"] | {"required": ["city"], "additionalProperties": False},
    "strict": True,
    "description": "The weather",
}


def agents(given: list[Any], **fields: Any) -> dict[str, Any]:
    """What openai-agents 0.24 sends by default."""
    return {"model": "hearken", "include": [], "input": given, "tools": [], **fields}


def test_what_openais_agents_send(gateway: Gateway, fake: FakeVllm) -> None:
    def ask(given: list[Any], **fields: Any) -> Any:
        answer = gateway.http.post("/v1/responses", json=agents(given, **fields))
        assert answer.status_code == 200, answer.text
        return answer.json()

    asked: list[Any] = [{"content": CALL, "role": "user"}]
    (call,) = ask(asked, tools=[FUNCTION], instructions="Be brief.")["output"]
    asked.append({name: call[name] for name in ("arguments", "call_id", "name", "type", "id", "status")})
    asked.append({"call_id": call["call_id"], "output": "sun in Rome", "type": "function_call_output"})
    (said,) = ask(asked, tools=[FUNCTION], instructions="Be brief.")["output"]
    assert said["content"][0]["text"] == TEXT
    assert [m["role"] for m in fake.requests[-1]["messages"]] == ["system", "user", "assistant", "tool"]

    shape = {
        "type": "json_schema",
        "name": "final_output",
        "schema": City.model_json_schema(),
        "strict": True,
    }
    structured = ask([{"content": STRUCTURED, "role": "user"}], text={"format": shape})
    assert City.model_validate_json(structured["output"][0]["content"][0]["text"]) == City(city="Rome")
    assert "tools" not in fake.requests[-1]

    thought = ask([{"content": Trouble.THINK, "role": "user"}])["output"]
    assert [item["type"] for item in thought] == ["reasoning", "message"]
    again = ask([{"content": Trouble.THINK, "role": "user"}, *thought, {"role": "user", "content": "hi"}])
    assert again["output"][0]["content"][0]["text"] == TEXT
    assert fake.requests[-1]["messages"][1]["reasoning"] == thought[0]["content"][0]["text"]
