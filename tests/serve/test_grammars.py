"""What a request may ask of constrained decoding."""

import json
from typing import Any

import pytest

from serve.generation.grammars import MAX_BYTES, MAX_PATTERN_CHARS, MAX_PROPERTIES, MAX_VALUES, check_grammars
from serve.http.errors import BadRequest

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
    formatted({"anyOf": [{"type": "string"}, {"$ref": "#"}]}),
    formatted({"type": "object", "properties": {"next": {"$ref": "#"}}}),
    formatted({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "string"}}}),
    formatted({"$ref": "#/$defs/missing"}),
    formatted({"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {}}}),
    {"structured_outputs": {"json": {"$ref": "other.json#"}}},
    formatted({"$ref": "#node", "$defs": {"a": {"$anchor": "node", "type": "string"}}}),
    {"bad_words": ["no"], "response_format": {"type": "text"}, "tool_choice": "auto", **called({})},
]
BEYOND = [
    (formatted({"$ref": "#"}), "response_format"),
    (
        formatted({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        "response_format",
    ),
    (formatted({"type": "object", "allOf": [{"$ref": "#"}]}), "response_format"),
    (formatted({"properties": {"x": {"$ref": "#/properties/x"}}, "required": ["x"]}), "response_format"),
    (called({"$ref": "#"}), "tools"),
    ({"structured_outputs": {"json": {"$ref": "#"}}}, "structured_outputs"),
    ({"structured_outputs": {"json": '{"$ref": "#"}'}}, "structured_outputs"),
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


def test_long_chains_and_many_ways_are_looked_at_once() -> None:
    """A walk over every way would take 2^500 steps, a recursive one would end in its 1,000th call."""
    names = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(500)}
    chain = {f"c{i}": {"$ref": f"#/$defs/c{i + 1}"} for i in range(1500)}
    check_grammars(formatted({"$ref": "#/$defs/d0", "$defs": names}))
    check_grammars(formatted({"$ref": "#/$defs/c0", "$defs": chain}))
    with pytest.raises(BadRequest, match="refers to itself"):
        check_grammars(formatted({"$ref": "#/$defs/c0", "$defs": chain | {"c1500": {"$ref": "#"}}}))
