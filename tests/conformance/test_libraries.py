"""The basic cases through libraries that many applications stand on: LangChain and LiteLLM."""

import asyncio
from typing import Any

import pytest

from tests.conformance.conftest import SOME_TEXT
from tests.conformance.test_tools import FORECAST, NAMED, Forecast
from tests.serve.conftest import Gateway

pytestmark = pytest.mark.engine
QUESTION = "Where is my order?"


@pytest.fixture
def chat(service: Gateway) -> Any:
    langchain = pytest.importorskip("langchain_openai")
    return langchain.ChatOpenAI(
        base_url=service.url + "/v1",
        api_key="unused",
        model="hearken",
        max_tokens=550,
        max_retries=0,
        extra_body=SOME_TEXT,
    )


def test_langchain_invokes(chat: Any, service: Gateway) -> None:
    answer = chat.invoke([("developer", "Be brief."), ("human", QUESTION)])
    assert answer.content
    assert answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["model_name"] == "hearken"
    assert service.signer.is_ours(answer.response_metadata["id"])


def test_langchain_streams(chat: Any) -> None:
    whole = None
    for chunk in chat.stream(QUESTION, stream_usage=True):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    assert whole.content
    assert whole.usage_metadata["output_tokens"] > 0


def test_langchain_in_an_event_loop(chat: Any) -> None:
    async def both() -> tuple[str, str]:
        streamed = "".join([chunk.content async for chunk in chat.astream(QUESTION)])
        return (await chat.ainvoke(QUESTION)).content, streamed

    assert all(asyncio.run(both()))


def test_langchain_calls_tools_and_structures_answers(chat: Any) -> None:
    answer = chat.bind_tools([FORECAST], tool_choice="forecast").invoke(QUESTION)
    assert answer.tool_calls[0]["name"] == "forecast"
    Forecast.model_validate(answer.tool_calls[0]["args"])
    for method in ("json_schema", "function_calling"):
        made = chat.with_structured_output(Forecast, method=method).invoke(QUESTION)
        assert isinstance(made, Forecast)


def test_langchain_batches(chat: Any) -> None:
    assert all(answer.content for answer in chat.batch([QUESTION] * 3))


@pytest.fixture
def lite(service: Gateway) -> Any:
    litellm = pytest.importorskip("litellm")
    return litellm, {
        "model": "openai/hearken",
        "api_base": service.url + "/v1",
        "api_key": "unused",
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 550,
        "num_retries": 0,
        "extra_body": SOME_TEXT,
    }


def test_litellm_completes(lite: Any) -> None:
    litellm, body = lite
    answer = litellm.completion(**body)
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens > 0
    assert asyncio.run(litellm.acompletion(**body)).choices[0].message.content


def test_litellm_streams(lite: Any) -> None:
    litellm, body = lite
    chunks = list(litellm.completion(**body, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert any(getattr(chunk, "usage", None) for chunk in chunks)


def test_litellm_calls_tools_and_reports_errors(lite: Any) -> None:
    litellm, body = lite
    answer = litellm.completion(**body, tools=[FORECAST], tool_choice=NAMED)
    Forecast.model_validate_json(answer.choices[0].message.tool_calls[0].function.arguments)
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(**body | {"temperature": 5})
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**body | {"model": "openai/gpt-9"})
