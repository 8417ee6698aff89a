"""What a model thinks before it answers: shown beside the answer, and told apart from it in the log."""

import json

import pytest

from tests.serve.conftest import Gateway, Start
from tests.serve.fake_vllm import CLOSE, OPEN, THOUGHT, FakeVllm, Trouble

TEXT = "I am base, seed None."
ANSWER_START = 7  # after OPEN, five words and CLOSE


def parts(answer: str) -> tuple[str, str, str]:
    """(content, reasoning, reasoning_content) of a streamed answer."""
    said = {"content": "", "reasoning": "", "reasoning_content": ""}
    for line in answer.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                for name in said:
                    said[name] += choice["delta"].get(name) or ""
    return said["content"], said["reasoning"], said["reasoning_content"]


def test_a_thought_has_both_of_its_names_and_is_not_the_answer(gateway: Gateway) -> None:
    answer = gateway.chat(Trouble.THINK)
    message = answer.json()["choices"][0]["message"]
    assert (message["content"], message["reasoning"], message["reasoning_content"]) == (
        TEXT,
        THOUGHT,
        THOUGHT,
    )
    assert parts(gateway.chat(Trouble.THINK, stream=True).text) == (TEXT, THOUGHT, THOUGHT)
    assert answer.json()["usage"]["completion_tokens_details"] == {"reasoning_tokens": 5}


def test_who_does_not_think_has_no_thought(gateway: Gateway) -> None:
    assert not {"reasoning", "reasoning_content"} & gateway.chat().json()["choices"][0]["message"].keys()
    (completion,) = gateway.completions()
    assert (completion.choices[0].answer_start, completion.choices[0].thought) == (0, None)


@pytest.mark.parametrize("stream", [False, True])
def test_the_log_keeps_all_tokens_and_knows_where_the_answer_begins(gateway: Gateway, stream: bool) -> None:
    gateway.chat(Trouble.THINK, stream=stream, n=2)
    (completion,) = gateway.completions()
    for choice in completion.choices:
        assert (choice.text, choice.thought) == (TEXT, THOUGHT)
        assert choice.answer_start == ANSWER_START
        assert (
            len(choice.token_ids) == len(choice.logprobs) == ANSWER_START + 5 + 1
        )  # and the end of the turn
        assert choice.answer_length == 6


@pytest.mark.parametrize("stream", [False, True])
def test_a_thought_that_never_ends_has_an_empty_answer(gateway: Gateway, stream: bool) -> None:
    gateway.chat(Trouble.THINK_ON, stream=stream)
    (choice,) = gateway.completions()[0].choices
    assert (choice.text, choice.thought, choice.answer_length) == ("", THOUGHT, 0)
    assert choice.is_blank


def test_both_sides_of_a_comparison_think(gateway: Gateway) -> None:
    body = {"model": "hearken", "messages": [{"role": "user", "content": Trouble.THINK}]}
    answer = gateway.http.post("/v1/comparisons", json=body).json()
    for side in ("a", "b"):
        assert answer[side]["choices"][0]["message"]["reasoning_content"] == THOUGHT
    assert {c.choices[0].answer_start for c in gateway.completions()} == {ANSWER_START}


@pytest.mark.parametrize("stream", [False, True])
def test_a_stored_answer_has_its_thought(gateway: Gateway, stream: bool) -> None:
    gateway.chat(Trouble.THINK, store=True, stream=stream)
    (kept,) = gateway.http.get("/v1/chat/completions").json()["data"]
    message = kept["choices"][0]["message"]
    assert (message["content"], message["reasoning"], message["reasoning_content"]) == (
        TEXT,
        THOUGHT,
        THOUGHT,
    )


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_thoughts_of_earlier_turns_are_passed_on(gateway: Gateway, fake: FakeVllm, name: str) -> None:
    history = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello.", name: "They greet me."},
        {"role": "user", "content": "again"},
    ]
    answer = gateway.http.post("/v1/chat/completions", json={"model": "hearken", "messages": history})
    assert answer.status_code == 200
    assert fake.requests[-1]["messages"] == history
    wrong = [history[0], {"role": "assistant", "content": "", name: 7}, history[2]]
    refused = gateway.http.post("/v1/chat/completions", json={"model": "hearken", "messages": wrong})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, f"messages[1].{name}")


def test_what_may_not_be_kept_of_a_thought_is_not_kept_as_tokens(start: Start) -> None:
    gateway = start(redact="patterns")
    gateway.chat(Trouble.THINK)
    (choice,) = gateway.completions()[0].choices
    assert (choice.text, choice.thought) == (TEXT, "Let me see, [email] asks.")
    assert (choice.token_ids, choice.answer_start, choice.answer_length) == ([], ANSWER_START, 6)


def test_the_marks_are_nowhere_in_what_clients_see(gateway: Gateway) -> None:
    for stream in (False, True):
        shown = gateway.chat(Trouble.THINK, stream=stream).text
        assert OPEN not in shown
        assert CLOSE not in shown


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("asked", [Trouble.THINK_TWICE, Trouble.THINK_NOTHING])
def test_marks_that_the_engine_leaves_in_an_answer_are_taken_out(
    gateway: Gateway, stream: bool, asked: str
) -> None:
    shown = gateway.chat(asked, stream=stream).text
    assert OPEN not in shown
    assert CLOSE not in shown
    (choice,) = gateway.completions()[0].choices
    assert choice.text == "I am base, seed None."
