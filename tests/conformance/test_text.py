"""OpenAI's older API for text, on a real model; and comparisons through a plain chat."""

from typing import Any

import openai
import pytest

from deploy.engines.client import EngineClient
from tests.conformance.conftest import QUESTION, Client
from tests.conftest import Engine
from tests.serve.conftest import Gateway

pytestmark = pytest.mark.engine
PROMPT = "<|im_start|>user\nWhere is my order?<|im_end|>\n<|im_start|>assistant\n"


def complete(client: Client, **fields: Any) -> Any:
    body = {"model": "hearken", "prompt": PROMPT, "max_tokens": 30} | fields
    return client.use(lambda c: c.completions.create(**body), lambda c: c.completions.create(**body))


def stream(client: Client, **fields: Any) -> list[Any]:
    body = {"model": "hearken", "prompt": PROMPT, "max_tokens": 30, "stream": True} | fields

    async def collect(c: openai.AsyncOpenAI) -> list[Any]:
        return [chunk async for chunk in await c.completions.create(**body)]

    return client.use(lambda c: list(c.completions.create(**body)), collect)


def test_a_completion_says_what_a_chat_says(client: Client, service: Gateway, engine: Engine) -> None:
    answer = complete(client, temperature=0)
    assert answer.object == "text_completion"
    assert answer.choices[0].text == client.create(temperature=0, max_tokens=30).choices[0].message.content
    assert "".join(c.choices[0].text for c in stream(client, temperature=0)) == answer.choices[0].text

    event = service.completion(answer.id)
    control = EngineClient(engine.url)
    computed = control.logprobs("base", event.prompt_token_ids, event.choices[0].token_ids)
    assert event.choices[0].logprobs == pytest.approx(computed, abs=1e-3)
    control.close()


def test_several_prompts_and_choices(client: Client, service: Gateway) -> None:
    answer = complete(client, prompt=[PROMPT, "Once"], n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    choices = service.completion(answer.id).choices
    assert choices[0].prompt_token_ids == choices[1].prompt_token_ids != choices[2].prompt_token_ids
    assert all(len(c.token_ids) == len(c.logprobs) > 0 for c in choices)


def test_an_echo_with_logprobs(client: Client, service: Gateway) -> None:
    ids = service.completion(complete(client, prompt="Where is my order?").id).prompt_token_ids
    for prompt in ("Where is my order?", ids):
        answer = complete(client, prompt=prompt, echo=True, logprobs=2, max_tokens=4)
        (choice,) = answer.choices
        assert choice.text.startswith("Where is my order?")
        assert choice.logprobs.token_logprobs[0] is None
        assert len(choice.logprobs.tokens) == len(ids) + answer.usage.completion_tokens
        event = service.completion(answer.id)
        assert event.choices[0].logprobs == pytest.approx(choice.logprobs.token_logprobs[len(ids) :])
        chunks = stream(client, prompt=prompt, echo=True, logprobs=2, max_tokens=4)
        assert "".join(c.choices[0].text for c in chunks if c.choices).startswith("Where is my order?")
    scored = complete(client, prompt=ids, echo=True, logprobs=0, max_tokens=0)
    assert scored.choices[0].text == "Where is my order?"
    assert len(scored.choices[0].logprobs.tokens) == len(ids)
    assert scored.usage.completion_tokens == 0


def test_stop_seed_and_usage(client: Client) -> None:
    full = complete(client, temperature=0).choices[0].text
    word = full.split()[2]
    assert complete(client, temperature=0, stop=word).choices[0].text == full[: full.index(word)]
    assert len({complete(client, seed=3).choices[0].text for _ in range(2)}) == 1
    *_, last = stream(client, stream_options={"include_usage": True})
    assert last.usage.completion_tokens > 0


@pytest.mark.parametrize(
    ("fields", "param"), [({"temperature": 5}, "temperature"), ({"prompt": "x " * 5000}, "prompt")]
)
def test_a_bad_parameter_is_named(client: Client, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, **fields)
    assert caught.value.param == param


def test_a_chat_that_is_a_comparison(client: Client, service: Gateway) -> None:
    answer = client.create(n=2, extra_body={"hearken": {"compare": True}}, user="ada")
    assert [choice.index for choice in answer.choices] == [0, 1]
    ids = answer.hearken["comparison"]
    events = [service.completion(ids[side]) for side in "ab"]
    assert {event.role for event in events} == {"answer", "reference"}
    vote = {"kind": "comparison", "a": ids["a"], "b": ids["b"], "preferred": "a", "user": "ada"}
    assert service.http.post("/v1/feedback", json=vote).status_code == 202
    assert events[0].messages == QUESTION
