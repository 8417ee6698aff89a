"""What a request may ask of constrained decoding."""

import json
from typing import Any

import pytest

from serve.errors import BadRequest
from serve.grammars import MAX_BYTES, MAX_PATTERN_CHARS, MAX_PROPERTIES, MAX_VALUES, check_grammars

Json = dict[str, Any]


def formatted(schema: Json) -> Json:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def called(schema: Json) -> Json:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}


def properties(count: int) -> Json:
    return {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(count)}}


def words(count: int) -> list[str]:
    return [f"w{i}" for i in range(count)]


WITHIN = [
    {},
    formatted(properties(MAX_PROPERTIES)),
    called({"enum": words(MAX_VALUES)}),
    {"structured_outputs": {"choice": words(MAX_VALUES)}},
    {"structured_outputs": {"regex": "a" * MAX_PATTERN_CHARS}},
    {"structured_outputs": {"json": "not JSON at all"}},
    {"structured_outputs": 7},
    {"bad_words": ["no"], "response_format": {"type": "text"}, "tool_choice": "auto", **called({})},
]
BEYOND = [
    (formatted(properties(MAX_PROPERTIES + 1)), "response_format"),
    (formatted({"anyOf": [properties(600), {"items": properties(600)}]}), "response_format"),
    (called({"enum": words(MAX_VALUES + 1)}), "tools"),
    ({"tools": called({"enum": words(600)})["tools"] * 2}, "tools"),
    ({"structured_outputs": {"choice": words(MAX_VALUES + 1)}}, "structured_outputs"),
    ({"structured_outputs": {"json": json.dumps(properties(MAX_PROPERTIES + 1))}}, "structured_outputs"),
    ({"structured_outputs": {"regex": "a" * (MAX_PATTERN_CHARS + 1)}}, "structured_outputs"),
    (formatted({"type": "string", "pattern": "a" * (MAX_PATTERN_CHARS + 1)}), "response_format"),
    (formatted({"description": "x" * MAX_BYTES}), "response_format"),
    ({"structured_outputs": {"grammar": "root ::= root root"}}, "structured_outputs.grammar"),
    ({"bad_words": ["no"], **formatted({})}, "bad_words"),
    ({"allowed_token_ids": [5], "structured_outputs": {"choice": ["a"]}}, "allowed_token_ids"),
    ({"bad_words": ["no"], "tool_choice": "required", **called({})}, "bad_words"),
]


@pytest.mark.parametrize("body", WITHIN, ids=range(len(WITHIN)))
def test_what_is_within_the_bounds(body: Json) -> None:
    check_grammars(body)


@pytest.mark.parametrize(("body", "param"), BEYOND, ids=range(len(BEYOND)))
def test_what_is_not_is_named(body: Json, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_grammars(body)
    assert caught.value.param == param
