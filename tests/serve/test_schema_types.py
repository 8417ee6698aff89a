"""What a type decides at once is decided as it is field by field: the same bodies, the same errors."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.apis.messages_schema import COUNT_TOKENS, MESSAGE
from serve.apis.responses_schema import RESPONSE
from serve.completions.tokenizing import TOKENIZE
from serve.generation.request_schemas import CHAT, LIST_QUERY, METADATA_CHANGE, TEXT
from serve.generation.requests import chat_of, check_chat
from serve.http.bodies import parse_object
from serve.http.errors import ApiError
from serve.releases.openapi import ACTION
from serve.schemas.types import EXACT, passes
from serve.schemas.validator import Schema, check, find_fault
from tests.serve.mutating import MANY, changed, neighbours, outcome

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}, "strict": None}}
PARTS = [
    {"type": "text", "text": "what is this?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
    {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
    {"type": "refusal", "refusal": "no"},
]
FORMAT = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
CHATS: list[Any] = [
    {"model": "hearken", "messages": [{"role": "user", "content": "hi"}]},
    {
        "model": "hearken",
        "messages": [
            {"role": "system", "content": "be kind", "name": "us"},
            {"role": "user", "content": PARTS},
            {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None, "annotations": []},
            {"role": "tool", "content": [], "tool_call_id": "c1"},
            {"role": "assistant", "content": [], "reasoning": "hm", "reasoning_content": None},
            {"role": "developer", "content": "go on"},
        ],
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "look_up"}},
        "response_format": FORMAT,
        "metadata": {"external_id": "m-1", "episode_id": "e-1"},
        "hearken": {"consent": False, "compare": None},
    },
    {
        "model": "hearken",
        "messages": [{"role": "user", "content": "hi"}],
        "n": 2,
        "seed": -17,
        "stop": ["a", "b"],
        "stream": True,
        "stream_options": None,
        "temperature": 0,
        "top_p": 1,
        "top_k": -1,
        "min_p": 0.5,
        "logit_bias": {"17": -100, "4": 1.5},
        "user": "u",
        "safety_identifier": None,
        "logprobs": True,
        "top_logprobs": 20,
        "max_tokens": 5,
        "response_format": {"type": "text"},
        "tool_choice": "none",
        "reasoning_effort": "low",
        "cache_salt": "s",
        "ignore_eos": False,
        "length_penalty": 1.5,
        "store": True,
        "unknown": {"a": [1]},
    },
    {
        "model": "hearken",
        "messages": [{"role": "user", "content": "hi"}],
        "n": 128,
        "temperature": 2,
        "top_p": 1,
        "frequency_penalty": -2,
        "presence_penalty": 2,
        "min_p": 0,
        "seed": 0,
        "top_logprobs": 0,
        "logprobs": True,
        "max_tokens": 1,
        "repetition_penalty": 0.1,
        "stop": ["a"] * 64,
        "user": "a" * 512,
        "safety_identifier": "😀" * 512,
        "cache_salt": "a" * 128,
        "logit_bias": {"123456789": 100, "1": -100},
        "length_penalty": -10,
        "metadata": {"k" * 63 + str(i): "v" * 512 for i in range(10)},
        "tools": [{"type": "function", "function": {"name": "f" * 64}}],
    },
]
"""The last one is at its limits."""
RESPONSES: list[Any] = [
    {"model": "hearken", "input": "hi", "instructions": "be kind", "truncation": "disabled"},
    {
        "model": "hearken",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "8"},
            {"type": "reasoning", "summary": [{"text": "hm"}], "content": None},
        ],
        "tools": [{"type": "function", "name": "f"}],
        "tool_choice": {"type": "function", "name": "f"},
        "text": {"format": {"type": "json_object"}, "verbosity": "low"},
        "reasoning": {"effort": "high"},
    },
]
USE = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}
MESSAGES: list[Any] = [
    {
        "model": "hearken",
        "max_tokens": 9,
        "system": [{"type": "text", "text": "be kind"}],
        "messages": [
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "8"}]},
            {"role": "assistant", "content": [USE]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "x"}]},
            {"role": "system", "content": "go on"},
        ],
        "tools": [{"name": "f", "input_schema": {"type": "object"}, "type": "custom"}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {}}},
        "metadata": {"user_id": "u"},
        "mcp_servers": [],
    }
]
SCHEMAS: dict[str, tuple[Schema, list[Any]]] = {
    "CHAT": (CHAT, CHATS),
    "TOKENIZE": (TOKENIZE, [{"prompt": "hi", "add_special_tokens": True}, *CHATS[:2]]),
    "RESPONSE": (RESPONSE, RESPONSES),
    "MESSAGE": (MESSAGE, MESSAGES),
    "COUNT_TOKENS": (COUNT_TOKENS, MESSAGES),
    "ACTION": (ACTION, [{"action": "pin", "version": "base", "reason": "it is better"}]),
    "METADATA_CHANGE": (
        METADATA_CHANGE,
        [{"metadata": dict.fromkeys("abcdefghijklmnop", "b")}, {"metadata": None}],
    ),
    "LIST_QUERY": (LIST_QUERY, [{"limit": 100, "order": "asc", "after": "x" * 128, "model": "m"}]),
}
each_schema = pytest.mark.parametrize("name", SCHEMAS)


def in_doubt(name: str, value: Any) -> bool:
    """Whether a body has what a type does not take, and a schema may.

    That is an integer with a point, or one that no float is, and what only RESPONSE says of its fields.
    """
    if isinstance(value, dict):
        unsaid = name == "RESPONSE" and ("background" in value or ("role" in value and "type" not in value))
        return unsaid or any(in_doubt(name, each) for each in value.values())
    if isinstance(value, list):
        return any(in_doubt(name, each) for each in value)
    return isinstance(value, float) or (type(value) is int and abs(value) > EXACT)


@each_schema
def test_what_is_in_order_is_seen_at_once(name: str) -> None:
    schema, bodies = SCHEMAS[name]
    assert [passes(body, schema) for body in bodies] == [True] * len(bodies)


@each_schema
def test_types_and_schemas_take_the_same_bodies_with_one_change(name: str) -> None:
    for body in (near for each in SCHEMAS[name][1] for near in neighbours(each)):
        compare(name, body)


@each_schema
def test_types_and_schemas_take_the_same_bodies_with_several(name: str) -> None:
    MANY(given(changed(SCHEMAS[name][1]))(lambda body: compare(name, body)))()


def compare(name: str, body: Any) -> None:
    """Check a body by its type and by its schema."""
    schema = SCHEMAS[name][0]
    fault = outcome(lambda: find_fault(body, schema))
    if passes(body, schema):
        assert fault == "None", f"the type is laxer than its schema: {body}"
    else:
        assert fault != "None" or in_doubt(name, body), f"the type is stricter than it has to be: {body}"
    assert outcome(lambda: check(body, schema)) == fault


@pytest.mark.parametrize("body", [{"n": 2.0}, {"seed": EXACT + 1}, {"seed": -(2**63)}, {"top_k": 2**64 - 1}])
def test_an_integer_that_a_type_does_not_take_is_left_for_the_schema(body: dict[str, Any]) -> None:
    assert not passes(CHATS[0] | body, CHAT)
    check(CHATS[0] | body, CHAT)


def test_what_no_type_can_say_is_left_for_the_schema() -> None:
    for prompt in ("hi", ["hi", "ho"], [1, 2], [[1, 2], [3]]):
        body = {"model": "hearken", "prompt": prompt}
        assert not passes(body, TEXT)
        check(body, TEXT)
    with pytest.raises(ApiError, match="prompt"):
        check({"model": "hearken", "prompt": 7}, TEXT)


@MANY
@given(changed(CHATS))
def test_a_chat_is_what_it_is_field_by_field(body: Any) -> None:
    raw = orjson.dumps({key: each for key, each in body.items() if key not in ("functions", "function_call")})

    def by_field() -> object:
        read = parse_object(raw)
        find_fault(read, CHAT)
        return chat_of(read, "hearken", 50)

    assert outcome(lambda: check_chat(parse_object(raw), "hearken", 50)) == outcome(by_field)


@given(st.integers(0, 130), st.booleans(), st.integers(0, 200), st.booleans())
def test_a_body_may_be_100_levels_deep(levels: int, of_lists: bool, beside: int, in_text: bool) -> None:
    opening, closing = (b"[", b"]") if of_lists else (b'{"a":', b"}")
    inner = opening * levels + b"1" + closing * levels
    other = b'"' + b"[{" * beside + b'"' if in_text else b"[" + b",".join([b"{}"] * beside) + b"]"
    raw = b'{"a":' + inner + b',"b":' + other + b"}"
    if 1 + levels > 100:
        with pytest.raises(ApiError, match="nested more than 100"):
            parse_object(raw)
    else:
        assert parse_object(raw)["b"] == orjson.loads(other)
