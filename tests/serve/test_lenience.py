"""What clients send and models say that is not quite as it should be, and is clear all the same."""

import json
from typing import Any

import pytest

from serve.generation.cut_calls import take_cut_calls
from tests.serve.conftest import Gateway
from tests.serve.fake_vllm import FakeVllm

TOOL = {"type": "function", "function": {"name": "forecast", "parameters": {"type": "object"}}}
CALL = {"id": "1", "type": "function", "function": {"name": "forecast", "arguments": "{}"}}


def test_an_empty_list_beside_calls_is_no_content(gateway: Gateway, fake: FakeVllm) -> None:
    messages = [
        {"role": "user", "content": "Rome?"},
        {"role": "assistant", "content": [], "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": []},
    ]
    answer = gateway.http.post("/v1/chat/completions", json={"model": "hearken", "messages": messages})
    assert answer.status_code == 200
    assert [message["content"] for message in fake.requests[-1]["messages"]] == ["Rome?", None, ""]


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_an_empty_list_of_tools_is_none(gateway: Gateway, fake: FakeVllm, choice: str | None) -> None:
    assert gateway.chat(tools=[], tool_choice=choice).status_code == 200
    assert not {"tools", "tool_choice"} & fake.requests[-1].keys()


def test_a_call_that_is_required_needs_a_tool(steady: Gateway) -> None:
    refused = steady.chat(tools=[], tool_choice="required")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tool_choice")


def test_stops_may_be_many_but_not_any_number(gateway: Gateway, fake: FakeVllm) -> None:
    stops = [f"stop {i}" for i in range(64)]
    assert gateway.chat(stop=stops).status_code == 200
    assert fake.requests[-1]["stop"] == stops
    refused = gateway.chat(stop=[*stops, "one more"]).json()["error"]
    assert (refused["param"], "at most 64" in refused["message"]) == ("stop", True)


@pytest.mark.parametrize(
    ("sent", "heard"),
    [
        (r"Hi \ud83d", "Hi \ufffd"),
        (r"\udd11 hi \uD83D\uDE00", "\ufffd hi \U0001f600"),
        (r"\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
        (r"a\\ud83d \ud83d", "a\\ud83d \ufffd"),
        ("cut �", "cut �"),
    ],
)
@pytest.mark.parametrize("path", ["chat/completions", "responses", "messages"])
def test_half_an_emoji_is_taken_for_an_unknown_character(
    gateway: Gateway, fake: FakeVllm, path: str, sent: str, heard: str
) -> None:
    field = "input" if path == "responses" else "messages"
    body = f'{{"model": "hearken", "max_tokens": 9, "{field}": [{{"role": "user", "content": "{sent}"}}]}}'
    body = body.replace('"max_tokens": 9, ', "") if path == "responses" else body
    headers = {"content-type": "application/json"}
    answer = gateway.http.post(f"/v1/{path}", content=body.encode(), headers=headers)
    assert answer.status_code == 200
    assert fake.requests[-1]["messages"][0]["content"] == heard
    assert gateway.completions()[-1].messages[0]["content"] == heard


def test_what_is_no_json_is_still_refused(steady: Gateway) -> None:
    headers = {"content-type": "application/json"}
    answer = steady.http.post("/v1/chat/completions", content=rb'{"a": "\ud83d"', headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


def cut(content: str | None, sampled: str, **body: Any) -> dict[str, Any]:
    """The message of a cut answer, after its calls were taken. A character is a token."""
    tokens = [{"token": c, "bytes": list(c.encode()), "logprob": -1.0} for c in sampled]
    message: dict[str, Any] = {"role": "assistant", "content": content}
    choice = {"message": message, "finish_reason": "length", "logprobs": {"content": tokens}}
    take_cut_calls({"choices": [choice]}, {"tools": [TOOL], **body})
    return message


def calls(message: dict[str, Any]) -> list[tuple[str, str]]:
    found = [call["function"] for call in message.get("tool_calls", [])]
    return [(function["name"], function["arguments"]) for function in found]


WHOLE = '{"name": "forecast", "arguments": {"city": "Rome"}}'


@pytest.mark.parametrize(
    ("sampled", "expected"),
    [
        ('[{"name": "forecast", "parameters": {"city": "Ro', [("forecast", '{"city": "Ro')]),
        ('[{"name":"forecast","parameters":{"city":"Ä"}},{"name":"fore', [("forecast", '{"city":"Ä"}')]),
        (
            '[{"name": "f", "parameters": {}}, {"name": "g", "parameters": {"a": [1,',
            [("f", "{}"), ("g", '{"a": [1,')],
        ),
        ('Hm [{</think>[{"name": "f", "parameters": ', [("f", "")]),
        ('[{"na', []),
        ("", []),
    ],
)
def test_required_calls_that_were_cut(sampled: str, expected: list[tuple[str, str]]) -> None:
    message = cut(None, sampled, tool_choice="required")
    assert calls(message) == expected
    assert message["content"] is None


@pytest.mark.parametrize(
    ("content", "left", "expected"),
    [
        (f"Wait.<tool_call>\n{WHOLE[:-7]}", "Wait.", [("forecast", '{"city": "')]),
        (f"<tool_call>{WHOLE}</tool_call>\n<tool_call>{WHOLE[:4]}", None, [("forecast", '{"city": "Rome"}')]),
        ("No call at all", "No call at all", []),
        ("<tool_call>nothing", "<tool_call>nothing", []),
    ],
)
def test_calls_of_its_own_accord_that_were_cut(
    content: str, left: str | None, expected: list[tuple[str, str]]
) -> None:
    message = cut(content, "", tool_choice="auto")
    assert (message["content"], calls(message)) == (left, expected)


def test_only_cut_answers_with_tools_are_looked_at() -> None:
    text = f"<tool_call>{WHOLE[:-8]}"
    assert cut(text, "", tool_choice="none")["content"] == text
    assert cut(text, "", tools=None)["content"] == text
    assert json.loads(calls(cut(f"<tool_call>{WHOLE}</tool_call>", ""))[0][1]) == {"city": "Rome"}
