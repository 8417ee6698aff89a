"""Chats with the official client, sync and async: what OpenAI's reference promises, on a real model."""

import json

import openai
import pytest

from tests.conformance.conftest import QUESTION, SOME_TEXT, Client
from tests.serve.conftest import Gateway

pytestmark = pytest.mark.engine
EMOJI = "Hi 👩🏽‍🚀 ok 🎉"


def text_of(chunks: list[openai.types.chat.ChatCompletionChunk], index: int = 0) -> str:
    return "".join(
        choice.delta.content or "" for chunk in chunks for choice in chunk.choices if choice.index == index
    )


def test_a_whole_answer(client: Client) -> None:
    answer = client.create(extra_body=SOME_TEXT)
    (choice,) = answer.choices
    assert (answer.object, answer.model) == ("chat.completion", "hearken")
    assert answer.id.startswith("chatcmpl-")
    assert answer.created > 1_700_000_000
    assert (choice.index, choice.message.role) == (0, "assistant")
    assert choice.message.content
    assert choice.message.tool_calls is None
    assert choice.message.refusal is None
    assert choice.finish_reason in ("stop", "length")
    assert choice.logprobs is None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_roles_and_kinds_of_content(client: Client) -> None:
    told = [{"role": "developer", "content": "Be brief."}, {"role": "system", "content": "Be kind."}]
    parts = {
        "role": "user",
        "content": [{"type": "text", "text": "Where is"}, {"type": "text", "text": "it?"}],
    }
    before = [*QUESTION, {"role": "assistant", "content": "On its way."}]
    answer = client.create(messages=[*told, *before, parts], extra_body=SOME_TEXT)
    assert answer.choices[0].message.content
    as_system = [{"role": "system", "content": "Be brief."}, *QUESTION]
    as_developer = [{"role": "developer", "content": "Be brief."}, *QUESTION]
    tokens = {client.create(messages=m, max_tokens=1).usage.prompt_tokens for m in (as_system, as_developer)}
    assert len(tokens) == 1


def test_a_streamed_answer_is_the_whole_one(client: Client) -> None:
    whole = client.create(temperature=0)
    chunks = client.stream(temperature=0)
    assert text_of(chunks) == whole.choices[0].message.content
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk.id, chunk.model, chunk.created) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks][-1] == whole.choices[0].finish_reason
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_comes_last_when_asked_for(client: Client) -> None:
    *chunks, last = client.stream(temperature=0, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage == client.create(temperature=0).usage
    assert all(chunk.usage is None for chunk in chunks)
    assert all(chunk.choices for chunk in chunks)


def test_several_choices(client: Client) -> None:
    answer = client.create(n=8, temperature=1, seed=7)
    assert [choice.index for choice in answer.choices] == list(range(8))
    assert len({choice.message.content for choice in answer.choices}) > 1
    chunks = client.stream(n=3, extra_body=SOME_TEXT)
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1, 2}
    assert all(text_of(chunks, index) for index in range(3))


def test_greedy_choices_are_equal(client: Client) -> None:
    answer = client.create(n=2, temperature=0)
    assert len({choice.message.content for choice in answer.choices}) == 1
    chunks = client.stream(n=2, temperature=0)
    assert text_of(chunks, 0) == text_of(chunks, 1) == answer.choices[0].message.content


def test_logprobs(client: Client) -> None:
    answer = client.create(logprobs=True, top_logprobs=3, max_tokens=8, temperature=0)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    for token in content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob)  # greedy: the likeliest
        assert bytes(token.bytes).decode() == token.token
    assert "".join(t.token for t in content).startswith(answer.choices[0].message.content)

    chunks = client.stream(logprobs=True, max_tokens=8, temperature=0)
    streamed = [t for c in chunks if (p := c.choices[0].logprobs) for t in p.content or []]
    assert [t.token for t in streamed] == [t.token for t in content]
    assert all(t.top_logprobs == [] for t in streamed)
    bare = client.stream(max_tokens=4)
    assert all(chunk.choices[0].logprobs is None for chunk in bare)


def test_a_seed_repeats_an_answer(client: Client) -> None:
    seeds = (7, *range(7, 15))
    answers = [client.create(seed=seed, temperature=1).choices[0].message.content for seed in seeds]
    assert answers[0] == answers[1]
    assert len(set(answers)) > 1


@pytest.mark.parametrize("as_list", [False, True])
def test_stop_ends_before_the_words(client: Client, as_list: bool) -> None:
    full = client.create(temperature=0).choices[0].message.content
    word = full.split()[2]
    answer = client.create(temperature=0, stop=["never said", word] if as_list else word)
    assert answer.choices[0].message.content == full[: full.index(word)]
    assert answer.choices[0].finish_reason == "stop"
    assert text_of(client.stream(temperature=0, stop=word)) == full[: full.index(word)]


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_length_is_limited(client: Client, field: str) -> None:
    answer = client.create(**{"max_tokens": None, field: 3}, extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 3
    assert answer.choices[0].finish_reason == "length"


def test_the_newer_limit_counts(client: Client) -> None:
    answer = client.create(max_tokens=9, max_completion_tokens=2, extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 2


def test_characters_that_are_several_tokens(client: Client) -> None:
    only = {"structured_outputs": {"choice": [EMOJI]}}
    assert client.create(extra_body=only).choices[0].message.content == EMOJI
    chunks = client.stream(extra_body=only)
    assert text_of(chunks) == EMOJI
    assert all("\ufffd" not in (c.choices[0].delta.content or "") for c in chunks)


def test_what_is_known_elsewhere_or_nowhere_does_no_harm(client: Client) -> None:
    answer = client.create(
        user="ada",
        safety_identifier="ada",
        metadata={"team": "support"},
        service_tier="auto",
        prompt_cache_key="k",
        reasoning_effort="low",
        verbosity="low",
        parallel_tool_calls=None,
        extra_body={"a_field_of_tomorrow": {"deep": [1, None]}, "hearken": {}, **SOME_TEXT},
        extra_headers={"x-anything": "1"},
    )
    assert answer.choices[0].message.content
    assert client.stream(extra_body={"a_field_of_tomorrow": 1})


def test_sampling_fields_are_taken(client: Client) -> None:
    neutral = {"presence_penalty": 0.5, "frequency_penalty": -0.5, "logit_bias": {"50": -100}, "top_p": 0.9}
    assert client.create(**neutral).choices[0].message.content is not None
    forced = client.create(logit_bias={"50": 100}, max_tokens=3, logprobs=True, extra_body={"top_k": 1})
    assert len({t.token for t in forced.choices[0].logprobs.content}) == 1


def test_raw_responses_show_headers(client: Client, service: Gateway) -> None:
    body = {"model": "hearken", "messages": QUESTION, "max_tokens": 4}
    raw = client.use(
        lambda c: c.chat.completions.with_raw_response.create(**body),
        lambda c: c.chat.completions.with_raw_response.create(**body),
    )
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.headers["content-type"] == "application/json"
    assert "x-hearken-arm" not in raw.headers
    assert service.signer.is_ours(raw.parse().id)
    assert json.loads(raw.text if isinstance(raw.text, str) else raw.text())["object"] == "chat.completion"


def test_the_request_id_of_an_answer_is_on_it(client: Client) -> None:
    assert client.create()._request_id.startswith("req_")


def test_models(client: Client) -> None:
    listed = client.use(lambda c: list(c.models.list()), _list_models)
    assert [model.id for model in listed] == ["hearken"]
    one = client.use(lambda c: c.models.retrieve("hearken"), lambda c: c.models.retrieve("hearken"))
    assert (one.id, one.object) == ("hearken", "model")
    with pytest.raises(openai.NotFoundError):
        client.use(lambda c: c.models.retrieve("base"), lambda c: c.models.retrieve("base"))


async def _list_models(client: openai.AsyncOpenAI) -> list[openai.types.Model]:
    return [model async for model in client.models.list()]
