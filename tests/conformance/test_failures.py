"""What the official client makes of things that go wrong."""

import json
import threading
from typing import Any

import httpx
import openai
import pytest

from deploy.engines.client import EngineClient
from deploy.history.table import RoutingTable
from serve.auth.limits import Limits
from tests.conformance.conftest import QUESTION, Client, StartKeyed, Wire
from tests.conftest import Engine
from tests.serve.conftest import Gateway, eventually

pytestmark = pytest.mark.engine
_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def _format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def _function(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": schema}}


LONG: dict[str, Any] = {"max_tokens": 900, "extra_body": {"ignore_eos": True}}


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model(client: Client, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        (client.stream if stream else client.create)(model="gpt-9")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id is not None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"n": 0}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": 1_000_000}, "max_tokens"),
        ({"presence_penalty": 5}, "presence_penalty"),
        ({"frequency_penalty": "x"}, "frequency_penalty"),
        ({"logit_bias": {"5": 1000}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 99}, "top_logprobs"),
        ({"seed": "one"}, "seed"),
        ({"stop": 5}, "stop"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"tools": "none"}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "pirate", "content": "hi"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "long " * 5000}]}, "messages"),
        ({"stop": [str(i) for i in range(65)]}, "stop"),
        ({"max_completion_tokens": 1_000_000}, "max_completion_tokens"),
        ({"extra_body": {"min_tokens": 900}}, "min_tokens"),
        ({"messages": [{"role": "user", "content": [_IMAGE]}]}, "messages"),
        ({"response_format": _format({"type": "bogus"})}, "response_format"),
        ({"response_format": _format({"enum": list(range(1001))})}, "response_format"),
        ({"tool_choice": "required", "tools": [_function({"type": "bogus"})]}, "tools"),
    ],
)
def test_a_bad_parameter_is_named(client: Client, fields: dict[str, Any], param: str, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        (client.stream if stream else client.create)(**fields)
    error = caught.value
    assert error.param is not None
    assert error.param.startswith(param)
    assert error.type == "invalid_request_error"
    assert isinstance(error.code, str)
    assert isinstance(error.body, dict)
    assert "parameter=" not in error.body["message"]


def test_a_service_that_is_away_for_a_moment_is_asked_again(wired: Gateway, wire: Wire, form: str) -> None:
    wire.refusing = True
    wire.cut()
    eventually(lambda: not wired.is_ready(), "the engine's absence is noticed")
    with pytest.raises(openai.InternalServerError) as caught:
        Client(wired.url, form).create()
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"]

    def mend() -> None:
        eventually(lambda: wired.metric(_COUNT_503) >= 2, "one more request was refused")
        wire.refusing = False

    mending = threading.Thread(target=mend)
    mending.start()
    assert Client(wired.url, form, max_retries=8).create().choices
    mending.join()


_COUNT_503 = 'hearken_requests_total{code="503",route="/v1/chat/completions"}'


def test_an_error_in_mid_stream(wired: Gateway, wire: Wire, form: str) -> None:
    body = {"model": "hearken", "messages": QUESTION, "stream": True, **LONG}
    seen: list[Any] = []

    def sync(client: openai.OpenAI) -> None:
        for chunk in client.chat.completions.create(**body):
            seen.append(chunk)
            if chunk.choices[0].delta.content:
                wire.cut()

    async def asynchronous(client: openai.AsyncOpenAI) -> None:
        async for chunk in await client.chat.completions.create(**body):
            seen.append(chunk)
            if chunk.choices[0].delta.content:
                wire.cut()

    with pytest.raises(openai.APIError) as caught:
        Client(wired.url, form).use(sync, asynchronous)
    assert seen
    assert caught.value.code == "engine_unavailable"
    assert wired.completion(seen[0].id).choices[0].finish_reason == "error"


def test_a_bad_key(start_keyed: StartKeyed, form: str) -> None:
    gateway, key = start_keyed(Limits())
    assert Client(gateway.url, form, api_key=key).create().choices
    for wrong in ("unused", key[:-1] + "?"):
        with pytest.raises(openai.AuthenticationError) as caught:
            Client(gateway.url, form, api_key=wrong).create()
        assert caught.value.code == "invalid_api_key"


def test_a_limit_is_told_and_waited_for(start_keyed: StartKeyed, form: str) -> None:
    gateway, key = start_keyed(Limits(concurrent_requests=1))
    body = {"model": "hearken", "messages": QUESTION, "stream": True, **LONG}
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key=key) as other:
        with other.chat.completions.create(**body) as stream:
            next(iter(stream))
            with pytest.raises(openai.RateLimitError) as caught:
                Client(gateway.url, form, api_key=key).create()
            assert caught.value.response.headers["retry-after"]
        assert Client(gateway.url, form, api_key=key, max_retries=8).create().choices


def test_leaving_stops_the_engine(service: Gateway, engine: Engine, form: str) -> None:
    body = {"model": "hearken", "messages": QUESTION, "stream": True, **LONG}

    def sync(client: openai.OpenAI) -> str:
        with client.chat.completions.create(**body) as stream:
            return next(chunk.id for chunk in stream if chunk.choices[0].delta.content)

    async def asynchronous(client: openai.AsyncOpenAI) -> str:
        async with await client.chat.completions.create(**body) as stream:
            async for chunk in stream:
                if chunk.choices[0].delta.content:
                    return chunk.id
        raise AssertionError("no chunk came")

    completion_id = Client(service.url, form).use(sync, asynchronous)
    eventually(lambda: _running(engine) == 0, "the engine has nothing to do any more")
    eventually(lambda: any(c.completion_id == completion_id for c in service.completions()), "it is logged")
    (choice,) = service.completion(completion_id).choices
    assert choice.finish_reason == "abort"
    assert len(choice.token_ids) < 900


def test_leaving_before_a_whole_answer_stops_the_engine(service: Gateway, engine: Engine, form: str) -> None:
    before = _sampled(engine)
    with pytest.raises(openai.APITimeoutError):
        Client(service.url, form, timeout=0.4).create(**LONG, n=8)
    eventually(lambda: _running(engine) == 0, "the engine has nothing to do any more")
    assert _sampled(engine) - before < 8 * 900


def _running(engine: Engine) -> float:
    return _sample(engine, "vllm:num_requests_running") + _sample(engine, "vllm:num_requests_waiting")


def _sampled(engine: Engine) -> float:
    return _sample(engine, "vllm:generation_tokens_total")


def _sample(engine: Engine, name: str) -> float:
    lines = httpx.get(engine.url + "/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))


def test_a_stream_keeps_its_policy_when_the_table_changes(
    service: Gateway, engine: Engine, adapters: list[str], form: str
) -> None:
    epoch = int(service.metric("hearken_table_epoch"))
    service.decide(RoutingTable(epoch=epoch + 1, live=adapters[0]))
    eventually(service.is_ready, "the first adapter is seen")
    ids: list[str] = []

    def swap() -> None:
        service.decide(RoutingTable(epoch=epoch + 2, live=adapters[1]))

    def sync(client: openai.OpenAI) -> None:
        body = {"model": "hearken", "messages": QUESTION, "stream": True, **LONG}
        for chunk in client.chat.completions.create(**body):
            if not ids:
                swap()
            ids.append(chunk.id)

    async def asynchronous(client: openai.AsyncOpenAI) -> None:
        body = {"model": "hearken", "messages": QUESTION, "stream": True, **LONG}
        async for chunk in await client.chat.completions.create(**body):
            if not ids:
                swap()
            ids.append(chunk.id)

    Client(service.url, form).use(sync, asynchronous)
    event = service.completion(ids[0])
    assert (event.policy_version, event.choices[0].finish_reason) == (adapters[0], "length")
    control = EngineClient(engine.url)
    computed = control.logprobs(adapters[0], event.prompt_token_ids, event.choices[0].token_ids)
    assert event.choices[0].logprobs == pytest.approx(computed, abs=1e-3)
    control.close()
    answer = Client(service.url, form).create()
    assert service.completion(answer.id).policy_version == adapters[1]
    assert not {*adapters, "base"} & {answer.model, json.loads(answer.model_dump_json())["model"]}
    service.decide(RoutingTable(epoch=epoch + 3))
