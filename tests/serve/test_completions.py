"""OpenAI's older API: text from prompts, routed, logged and open to votes like chats."""

import json

import openai
import pytest

from tests.serve.conftest import Gateway, Start
from tests.serve.fake_vllm import EOS, FakeVllm

TEXT = "I am base, seed None."
IDS = [100, 101, 102, 103, 104, EOS]
LOGPROBS = [-0.1, -0.2, -0.3, -0.4, -0.5, -0.6]


def test_a_whole_completion_is_logged_and_can_be_voted_on(steady: Gateway) -> None:
    answer = steady.openai.completions.create(model="hearken", prompt="Once upon a time", user="ada")
    (choice,) = answer.choices
    assert (answer.object, answer.model, choice.text) == ("text_completion", "hearken", TEXT)
    assert choice.logprobs is None
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6

    event = steady.completion(answer.id)
    assert event.messages == [{"role": "user", "content": "Once upon a time"}]
    assert event.prompt_token_ids == [4, 4, 1, 4]
    assert [(c.text, c.token_ids, c.logprobs) for c in event.choices] == [(TEXT, IDS, LOGPROBS)]
    assert event.sampling.max_tokens == 16
    vote = {"kind": "thumbs", "completion_id": answer.id, "value": "up", "user": "ada"}
    assert steady.http.post("/v1/feedback", json=vote).status_code == 202


def test_nothing_of_the_engine_leaks(steady: Gateway) -> None:
    for stream in (False, True):
        body = {"model": "hearken", "prompt": "a b", "stream": stream}
        text = steady.http.post("/v1/completions", json=body).text
        assert "token_ids" not in text
        assert "cmpl-engine" not in text.replace("chatcmpl-", "")
        assert '"base"' not in text
        assert "token_logprobs" not in text


def test_a_stream_is_the_whole_in_pieces(steady: Gateway) -> None:
    options = {"include_usage": True}
    stream = steady.openai.completions.create(
        model="hearken", prompt="Once", stream=True, stream_options=options, n=2
    )
    *chunks, last = list(stream)
    for index in (0, 1):
        assert "".join(c.choices[0].text for c in chunks if c.choices[0].index == index) == TEXT
    assert last.usage is not None
    assert last.usage.completion_tokens == 12
    event = steady.completion(last.id)
    assert [(c.index, c.token_ids, c.logprobs) for c in event.choices] == [
        (0, IDS, LOGPROBS),
        (1, IDS, LOGPROBS),
    ]
    assert all(c.prompt_token_ids is None for c in event.choices)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("prompt", "texts", "ids"),
    [
        ("ab c", ["ab c"], [[2, 1]]),
        (["ab c", "defg"], ["ab c", "defg"], [[2, 1], [4]]),
        ([2, 1], ["xx x"], [[2, 1]]),
        ([[2, 1], [4]], ["xx x", "xxxx"], [[2, 1], [4]]),
    ],
)
def test_prompts_of_every_kind_are_echoed_and_kept(
    steady: Gateway, prompt: object, texts: list[str], ids: list[list[int]], stream: bool
) -> None:
    body = {"model": "hearken", "prompt": prompt, "echo": True, "logprobs": 1, "stream": stream}
    answer = steady.http.post("/v1/completions", json=body)
    lines = (
        [answer.json()]
        if not stream
        else [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]
    )
    pieces = [choice for line in lines for choice in line["choices"]]
    for index, (text, prompt_ids) in enumerate(zip(texts, ids, strict=True)):
        own = [piece for piece in pieces if piece["index"] == index]
        assert "".join(piece["text"] for piece in own) == text + TEXT
        numbers = [number for piece in own for number in piece["logprobs"]["token_logprobs"]]
        assert numbers == [None] * len(prompt_ids) + LOGPROBS
    event = steady.completion(lines[0]["id"])
    assert event.prompt_token_ids == ids[0]
    assert [c.logprobs for c in event.choices] == [LOGPROBS] * len(ids)
    if len(ids) > 1:
        assert [c.prompt_token_ids for c in event.choices] == ids


def test_greedy_choices_are_made_once_for_each_prompt(gateway: Gateway, fake: FakeVllm) -> None:
    answer = gateway.openai.completions.create(
        model="hearken", prompt=["one", "two words"], n=2, temperature=0, echo=True
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in answer.choices] == ["one" + TEXT] * 2 + ["two words" + TEXT] * 2
    assert fake.requests[-1]["n"] == 1
    event = gateway.completion(answer.id)
    assert [c.token_ids for c in event.choices] == [IDS] * 4


def test_an_echo_alone_samples_nothing(start: Start) -> None:
    gateway = start(blind_voters=False)
    answer = gateway.openai.completions.create(
        model="hearken", prompt="ab c", echo=True, max_tokens=0, logprobs=1
    )
    assert answer.choices[0].text == "ab c"
    assert answer.usage is not None
    assert (answer.usage.completion_tokens, answer.usage.total_tokens) == (0, 2)
    assert gateway.completions() == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 99}, "logprobs"),
        ({"best_of": 3}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"echo": "yes"}, "echo"),
        ({"temperature": 9}, "temperature"),
        ({"prompt": ["hi"] * 65, "n": 2}, "n"),
        ({"structured_outputs": {"regex": "a" * 5000}}, "structured_outputs"),
    ],
)
def test_bad_fields_are_named(steady: Gateway, fields: dict[str, object], param: str) -> None:
    body = {"model": "hearken", "prompt": "hi"} | fields
    with pytest.raises(openai.BadRequestError) as caught:
        steady.openai.post("/completions", body=body, cast_to=object)
    assert str(caught.value.param).startswith(param)


def test_an_unknown_model(steady: Gateway) -> None:
    with pytest.raises(openai.NotFoundError):
        steady.openai.completions.create(model="davinci", prompt="hi")
