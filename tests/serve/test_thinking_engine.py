"""A model that thinks first, on a real vLLM: what people see, what is logged, and what a learner samples."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.engines.client import EngineClient
from deploy.engines.thoughts import thoughts_of, without_marks
from feedback.shared import SqliteStore
from feedback.sqlite.log import SqliteLog
from tests.conftest import Engine, running_engine
from tests.serve.conftest import Gateway, eventually, serving
from tests.thinking import CLOSING, OPENING, QUESTIONS, train_thinking

pytestmark = pytest.mark.engine
SEEDS = 6  # for each question, whole and streamed: 48 answers


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine whose model thinks."""
    folder = tmp_path_factory.mktemp("thinking")
    with running_engine(train_thinking(folder / "model"), folder / "engine.log") as engine:
        yield engine


@pytest.fixture(scope="module")
def real(thinking: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway on it."""
    data = tmp_path_factory.mktemp("real")
    events, store = SqliteLog(data / "log.db"), SqliteStore(data / "shared.db")
    with serving(data, events, store, (thinking.url,)) as gateway:
        eventually(gateway.is_ready, "the gateway is ready")
        yield gateway
    store.close()
    events.close()


@pytest.fixture(scope="module")
def tokenizer(thinking: Engine) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(thinking.model)


def ask(gateway: Gateway, content: str, *, stream: bool, **fields: Any) -> tuple[str, dict[str, str]]:
    """The completion's id, and the message of a whole answer or of a stream put together."""
    answer = gateway.chat(content, stream=stream, **{"max_tokens": 80, "temperature": 0.5} | fields)
    assert answer.status_code == 200, answer.text
    names = ("content", "reasoning", "reasoning_content")
    if not stream:
        body = answer.json()
        return body["id"], {name: body["choices"][0]["message"].get(name) or "" for name in names}
    chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return chunks[0]["id"], {name: "".join(d.get(name) or "" for d in deltas) for name in names}


@pytest.mark.parametrize("stream", [False, True])
def test_no_thought_is_in_an_answer(real: Gateway, tokenizer: Any, stream: bool) -> None:
    ended = 0
    for question, thing in QUESTIONS.items():
        for seed in range(SEEDS):
            completion_id, message = ask(real, question, stream=stream, seed=seed, stream_interval=1 + seed)
            assert OPENING not in message["content"]
            assert CLOSING not in message["content"]
            assert message["reasoning"] == message["reasoning_content"]
            (choice,) = real.completion(completion_id).choices
            assert (choice.text, choice.thought) == (message["content"], message["reasoning"])
            assert len(choice.logprobs) == len(choice.token_ids)
            before = tokenizer.decode(choice.token_ids[: choice.answer_start])
            assert before.endswith(CLOSING) or choice.text == ""
            said = tokenizer.decode(choice.token_ids[choice.answer_start :], skip_special_tokens=True)
            assert without_marks(said) == choice.text
            ended += thing in message["reasoning"] and choice.text.strip() != ""
    assert ended > SEEDS  # the model has learnt to think: this test is about something


@pytest.mark.parametrize("stream", [False, True])
def test_a_thought_that_is_cut_off_has_no_answer(real: Gateway, stream: bool) -> None:
    completion_id, message = ask(real, "Where is my lamp?", stream=stream, max_tokens=4)
    (choice,) = real.completion(completion_id).choices
    assert (message["content"], choice.text, choice.answer_length) == ("", "", 0)
    assert (len(choice.token_ids), choice.finish_reason) == (4, "length")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("word", "field"),
    [
        ("", {"chat_template_kwargs": {"enable_thinking": False}}),
        ("", {"reasoning_effort": "none"}),
        (" /no_think", {}),
    ],
)
def test_who_is_told_not_to_think_answers(
    real: Gateway, stream: bool, word: str, field: dict[str, Any]
) -> None:
    completion_id, message = ask(real, "Where is my lamp?" + word, stream=stream, temperature=0, **field)
    assert message["content"]
    assert not message["reasoning"]
    assert real.completion(completion_id).choices[0].answer_start == 0


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_the_engine_is_told_what_was_thought_in_earlier_turns(
    real: Gateway, tokenizer: Any, name: str
) -> None:
    said = {"role": "assistant", "content": "It is late.", name: "A parcel."}
    messages = [{"role": "user", "content": "Hi"}, said, {"role": "user", "content": "Where is it?"}]
    body = {"model": "hearken", "messages": messages, "max_tokens": 80, "temperature": 0, "stream": True}
    answer = real.http.post("/v1/chat/completions", json=body)
    completion_id = json.loads(answer.text.split("\n")[0][6:])["id"]
    prompt = tokenizer.decode(real.completion(completion_id).prompt_token_ids)
    assert f"{OPENING}A parcel.{CLOSING}It is late." in prompt
    assert real.completion(completion_id).choices[0].answer_start > 0  # the new thought is none of before


def test_a_learners_samples_begin_where_logged_answers_do(
    thinking: Engine, real: Gateway, tokenizer: Any
) -> None:
    client = EngineClient(thinking.url, thoughts=thoughts_of(thinking.model))
    prompts = []
    for question in QUESTIONS:
        completion_id, _ = ask(real, question, stream=True)
        prompts.append(real.completion(completion_id).prompt_token_ids)
    for sample in client.sample("base", prompts, max_tokens=80, temperature=0.5, seed=1):
        context, answer = sample.judged
        assert tokenizer.decode(context).endswith(CLOSING) or sample.text == ""
        assert without_marks(tokenizer.decode(answer, skip_special_tokens=True)) == sample.text
        assert context + answer == sample.prompt_token_ids + sample.token_ids
    (cut,) = client.sample("base", prompts[:1], max_tokens=4)
    assert (cut.answer_start, cut.text) == (4, "")
    begun, closed = (
        tokenizer.encode("<|im_start|>assistant\n" + thought, add_special_tokens=False)
        for thought in ("", f"{OPENING}\n\n{CLOSING}\n\n")
    )
    (told,) = client.sample("base", [prompts[0][: -len(begun)] + closed], max_tokens=4)
    assert (told.answer_start, told.text != "") == (0, True)
    client.close()
