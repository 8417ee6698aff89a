"""The gateway on a real vLLM: the fake engine of the other tests must not be wrong about it."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import openai
import pytest

from deploy.engines.client import EngineClient
from deploy.history.table import RoutingTable
from feedback.core.events import Completion
from feedback.shared import SqliteStore
from feedback.sqlite.log import SqliteLog
from tests.conftest import Engine
from tests.serve.conftest import Gateway, eventually, serving

pytestmark = pytest.mark.engine
ADAPTER = "policy-1-cafecafe"
MESSAGES = [{"role": "user", "content": "Where is my order?"}]


@pytest.fixture(scope="module")
def real(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway on the real engine, on the base model."""
    data = tmp_path_factory.mktemp("real")
    events, store = SqliteLog(data / "log.db"), SqliteStore(data / "shared.db")
    with serving(data, events, store, (engine.url,), blind_voters=False) as gateway:
        eventually(gateway.is_ready, "the gateway is ready")
        yield gateway
    store.close()
    events.close()


@pytest.fixture(scope="module")
def adapter(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a LoRA adapter whose weights are random, and large enough to be noticed."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(engine.model), config)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    return folder


def assert_exact(event: Completion, engine: Engine) -> None:
    """The logged ids and logprobs are those that the engine itself computes for them."""
    client = EngineClient(engine.url)
    for choice in event.choices:
        assert len(choice.logprobs) == len(choice.token_ids) > 0
        computed = client.logprobs(event.policy_version, event.prompt_token_ids, choice.token_ids)
        assert choice.logprobs == pytest.approx(computed, abs=1e-3)
    client.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 2])
def test_events_hold_what_the_engine_saw_and_sampled(
    real: Gateway, engine: Engine, stream: bool, n: int
) -> None:
    from transformers import AutoTokenizer

    answer = real.chat(MESSAGES[0]["content"], stream=stream, n=n, max_tokens=40)
    assert answer.status_code == 200
    body = json.loads(answer.text.split("\n")[0][6:]) if stream else answer.json()
    event = real.completion(body["id"])
    assert len(event.choices) == n
    assert_exact(event, engine)

    tokenizer = AutoTokenizer.from_pretrained(engine.model)
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert event.prompt_token_ids == prompt
    for choice in event.choices:
        assert choice.text == tokenizer.decode(choice.token_ids, skip_special_tokens=True)
        if choice.finish_reason == "stop":  # then the end-of-sequence token is there, with its logprob
            assert choice.token_ids[-1] == tokenizer.eos_token_id
    assert real.metric("hearken_completions_inexact_total") == 0
    assert "base" not in answer.text.replace(event.choices[0].text, "")


def test_an_adapter_is_served_once_it_is_loaded(real: Gateway, engine: Engine, adapter: Path) -> None:
    client = EngineClient(engine.url)
    real.decide(RoutingTable(epoch=1, live=ADAPTER))
    assert real.chat("hi").status_code == 503
    client.load(ADAPTER, str(adapter))
    eventually(real.is_ready, "the adapter is seen")
    answer = real.chat("hi", max_tokens=8)
    assert answer.status_code == 200
    assert ADAPTER not in answer.text
    event = real.completion(answer.json()["id"])
    assert event.policy_version == ADAPTER
    assert_exact(event, engine)
    base = client.logprobs("base", event.prompt_token_ids, event.choices[0].token_ids)
    assert event.choices[0].logprobs != pytest.approx(base, abs=1e-3)

    client.unload(ADAPTER)
    answer = real.chat("hi", stream=True)
    assert (answer.status_code, ADAPTER in answer.text) == (503, False)
    real.decide(RoutingTable(epoch=2))
    eventually(real.is_ready, "back on the base model")
    client.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        (
            {"messages": [{"role": "user", "content": "long " * 20_000}]},
            "context_length_exceeded",
            "messages",
        ),
        ({"top_p": 3.0}, "invalid_value", "top_p"),
        ({"temperature": -1.0}, "invalid_value", "temperature"),
        ({"min_tokens": 50}, "invalid_value", None),
        ({"stop_token_ids": "x"}, "invalid_value", "stop_token_ids"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "invalid_value", None),
    ],
)
def test_vllms_refusals_are_told_in_words(
    real: Gateway, stream: bool, fields: dict[str, object], code: str, param: str | None
) -> None:
    body = {"model": "hearken", "messages": MESSAGES, "stream": stream, "max_tokens": 8} | fields
    answer = real.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    assert param is None or str(error["param"]).startswith(param)
    assert "validation error" not in error["message"]
    assert len(error["message"]) < 600


def test_comparisons_and_usage(real: Gateway, engine: Engine) -> None:
    body = {"model": "hearken", "messages": MESSAGES, "max_tokens": 16, "seed": 3}
    answer = real.http.post("/v1/comparisons", json=body).json()
    for side in ("a", "b"):
        event = real.completion(answer[side]["id"])
        assert_exact(event, engine)
        assert answer[side]["usage"]["completion_tokens"] == len(event.choices[0].token_ids)

    stream = real.openai.chat.completions.create(
        model="hearken",
        messages=[{"role": "user", "content": "hi"}],
        max_tokens=8,
        stream=True,
        logprobs=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = list(stream)
    event = real.completion(last.id)
    assert last.usage is not None
    assert last.usage.completion_tokens == len(event.choices[0].token_ids)
    seen = [t.logprob for c in chunks if (p := c.choices[0].logprobs) is not None for t in p.content or []]
    assert seen == pytest.approx(event.choices[0].logprobs)


def test_leaving_aborts_the_request_in_the_engine(real: Gateway, engine: Engine) -> None:
    for _ in range(10):  # a fast engine may be done before the client has left
        event = left_early(real)
        (choice,) = event.choices
        if choice.finish_reason != "length":
            break
    assert choice.finish_reason == "abort"
    assert len(choice.token_ids) < 400
    assert_exact(event, engine)


def left_early(real: Gateway) -> Completion:
    """What is logged of a stream that its client leaves after the first word."""
    body = {"model": "hearken", "messages": MESSAGES, "stream": True, "ignore_eos": True, "max_tokens": 400}
    with real.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        chunks = (json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {"))
        first = next(chunk for chunk in chunks if chunk["choices"][0]["delta"].get("content"))

    def logged() -> bool:
        return any(c.completion_id == first["id"] for c in real.completions())

    eventually(logged, "the cut completion is logged")
    return real.completion(first["id"])


def test_the_official_client_sees_openais_errors(real: Gateway) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        real.openai.chat.completions.create(
            model="hearken", messages=[{"role": "user", "content": "x"}], max_tokens=8, temperature=-3
        )
    assert caught.value.param == "temperature"


def test_a_default_limit_ends_an_answer_and_leaves_long_prompts_alone(engine: Engine, tmp_path: Path) -> None:
    """vLLM lowers a limit to what the prompt leaves of the context, so a default refuses nobody."""
    context = httpx.get(f"{engine.url}/v1/models").json()["data"][0]["max_model_len"]

    def counted(text: str) -> int:
        body = {"model": "base", "messages": [{"role": "user", "content": text}]}
        count: int = httpx.post(f"{engine.url}/tokenize", json=body).json()["count"]
        return count

    with (
        closing(SqliteLog(tmp_path / "log.db")) as events,
        closing(SqliteStore(tmp_path / "shared.db")) as store,
        serving(tmp_path, events, store, (engine.url,), default_max_tokens=40) as gateway,
    ):
        eventually(gateway.is_ready, "the gateway is ready")
        short = gateway.chat("hi", ignore_eos=True).json()
        assert (short["choices"][0]["finish_reason"], short["usage"]["completion_tokens"]) == ("length", 40)
        word = counted("kettle kettle") - counted("kettle")
        words = (context - 10 - counted("")) // word
        usage = gateway.chat(" ".join(["kettle"] * words), ignore_eos=True).raise_for_status().json()["usage"]
        assert usage["completion_tokens"] == context - usage["prompt_tokens"] < 40


def test_the_log_has_the_prompt_with_what_its_user_asked_for(real: Gateway, engine: Engine) -> None:
    wish = {"entries": ["Answer as a kind neighbour would."]}  # which no grammar can hold it to
    real.http.put("/v1/users/ada/preferences", json=wish).raise_for_status()
    asked = {"model": "hearken", "messages": MESSAGES, "max_tokens": 12}
    without, under = (
        real.completion(real.http.post("/v1/chat/completions", json=asked | more).json()["id"])
        for more in ({"user": "bob"}, {"user": "ada"})
    )
    real.http.delete("/v1/users/ada/preferences").raise_for_status()
    for event in (without, under):
        told = {"model": "hearken", "messages": event.messages}
        assert event.prompt_token_ids == real.http.post("/tokenize", json=told).json()["tokens"]
        assert_exact(event, engine)
    assert without.messages == MESSAGES
    assert "kind neighbour" in under.messages[0]["content"]
    assert len(under.prompt_token_ids) > len(without.prompt_token_ids)
