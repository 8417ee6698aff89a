"""What a request may ask of constrained decoding."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.generation.grammars import (
    MAX_BYTES,
    MAX_KINDS,
    MAX_LENGTHS,
    MAX_OPTIONAL,
    MAX_PATTERN_CHARS,
    MAX_PROPERTIES,
    MAX_VALUES,
    check_grammars,
)
from serve.generation.patterns import work_of
from serve.http.errors import BadRequest

Json = dict[str, Any]


def formatted(schema: Json) -> Json:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def called(schema: Json) -> Json:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}


def properties(count: int, *, required: bool = False) -> Json:
    named = {f"p{i}": {"type": "string"} for i in range(count)}
    return {"type": "object", "properties": named} | ({"required": list(named)} if required else {})


def lengths(count: int) -> Json:
    return {"properties": {f"p{i}": {"type": "string", "maxLength": 500 + i} for i in range(count)}}


def words(count: int) -> list[str]:
    return [f"w{i}" for i in range(count)]


WITHIN = [
    {},
    formatted(properties(MAX_PROPERTIES, required=True)),
    formatted(properties(MAX_OPTIONAL)),
    formatted(lengths(MAX_LENGTHS)),
    formatted({"properties": {f"p{i}": {"type": "string", "maxLength": 500} for i in range(100)}}),
    formatted({"anyOf": [{}] * MAX_KINDS}),
    formatted({"anyOf": [properties(30) for _ in range(30)]}),
    {"structured_outputs": {"regex": "a?" * 512}},
    called({"enum": words(MAX_VALUES)}),
    {"structured_outputs": {"choice": words(MAX_VALUES)}},
    {"structured_outputs": {"regex": "a" * MAX_PATTERN_CHARS}},
    {"structured_outputs": {"json": "not JSON at all"}},
    {"structured_outputs": 7},
    formatted({"anyOf": [{"type": "string"}, {"$ref": "#"}]}),
    formatted({"type": "object", "properties": {"next": {"$ref": "#"}}}),
    formatted({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "string"}}}),
    formatted({"$ref": "#/$defs/missing"}),
    formatted({"type": "string", "pattern": "^.{0,128}$"}),
    formatted({"type": "string", "pattern": "a" * MAX_PATTERN_CHARS}),
    formatted({"properties": {f"p{i}": {"pattern": "^[A-Za-z0-9_-]{1,64}$"} for i in range(60)}}),
    {"structured_outputs": {"regex": "([A-Z][a-z]+(-[a-z]+)*)?[a-z]{0,2000}( [a-z]{1,20}){0,99}"}},
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
    (formatted(properties(MAX_PROPERTIES + 1, required=True)), "response_format"),
    (
        formatted({"anyOf": [properties(600, required=True), {"items": properties(600, required=True)}]}),
        "response_format",
    ),
    (called({"enum": words(MAX_VALUES + 1)}), "tools"),
    ({"tools": called({"enum": words(600)})["tools"] * 2}, "tools"),
    ({"structured_outputs": {"choice": words(MAX_VALUES + 1)}}, "structured_outputs"),
    (
        {"structured_outputs": {"json": json.dumps(properties(MAX_PROPERTIES + 1, required=True))}},
        "structured_outputs",
    ),
    ({"structured_outputs": {"regex": "a" * (MAX_PATTERN_CHARS + 1)}}, "structured_outputs"),
    (formatted({"type": "string", "pattern": "a" * (MAX_PATTERN_CHARS + 1)}), "response_format"),
    (formatted(properties(MAX_OPTIONAL + 1)), "response_format"),
    (formatted(lengths(MAX_LENGTHS + 1)), "response_format"),
    (called({"oneOf": [{}] * (MAX_KINDS + 1)}), "tools"),
    (formatted({"anyOf": [properties(200) for _ in range(3)]}), "response_format"),
    (called({"properties": properties(400)["properties"], "required": ["p0", 7, None]}), "tools"),
    ({"structured_outputs": {"regex": "a?" * 600}}, "structured_outputs"),
    ({"structured_outputs": {"regex": "(([ab]*?x){0,128}){0,90}(a?)[^ab]{3,}"}}, "structured_outputs"),
    ({"structured_outputs": {"regex": "((a*)*)*"}}, "structured_outputs"),
    ({"structured_outputs": {"regex": "((a+)+)+"}}, "structured_outputs"),
    (formatted({"type": "string", "pattern": "^(.*.*.*)*x$"}), "response_format"),
    (formatted({"type": "string", "pattern": "^.{0,1600}$"}), "response_format"),
    (formatted({"type": "string", "pattern": "^[ab]{129}$"}), "response_format"),
    (formatted({"type": "object", "propertyNames": {"pattern": "^a{0,150}$"}}), "response_format"),
    (formatted({"type": "object", "patternProperties": {"^a{0,150}$": {}}}), "response_format"),
    (formatted({"patternProperties": {"a" * (MAX_PATTERN_CHARS + 1): {}}}), "response_format"),
    (formatted({"properties": {f"p{i}": {"pattern": "^.{0,100}$"} for i in range(10)}}), "response_format"),
    (called({"pattern": "^a{2}([^a]*?(a?)*){128}$"}), "tools"),
    (called({"pattern": "a?" * 2000}), "tools"),
    ({"structured_outputs": {"json": '{"pattern": "^.{0,1600}$"}'}}, "structured_outputs"),
    (formatted({"description": "x" * MAX_BYTES}), "response_format"),
    ({"structured_outputs": {"grammar": "root ::= root root"}}, "structured_outputs.grammar"),
    (
        {"structured_outputs": {"structural_tag": '{"format": {"type": "regex", "pattern": "((a*)*)*"}}'}},
        "structured_outputs.structural_tag",
    ),
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


@pytest.mark.parametrize(
    ("pattern", "length", "repeated", "times"),
    [
        ("", 0, 0, 1),
        ("^abc$", 3, 0, 1),
        ("a?b*c+", 3, 3, 1),
        ("a{5}", 5, 5, 5),
        ("a{2,}", 2, 2, 2),
        ("a{2,7}?x", 8, 7, 7),
        ("a{0}", 1, 1, 1),
        ("a{,5}", 5, 5, 5),
        ("a{20}{30}", 600, 600, 30),
        ("a{0,0000000000150}", 150, 150, 150),
        ("a{3" + "0" * 5000 + "}", 100_000, 100_000, 300_000_000),
        ("a{x}", 4, 0, 1),
        ("(ab|c){3}", 9, 9, 3),
        ("((a{10}b){10}c){10}", 1110, 1110, 10),
        ("(?:a)(?<name>b)(?=c){2}", 4, 2, 2),
        (".[^a]\\W\\u00e9\u00e9", 20, 0, 1),
        ("[a\\]b]\\x41\\.\\d{3}", 6, 3, 3),
        ("[]", 1, 0, 1),
        ("(a{3}", 3, 3, 3),
        ("a){3}", 4, 3, 3),
        ("\\", 1, 0, 1),
        ("a{999999999}", 100_000, 100_000, 999_999_999),
    ],
)
def test_what_a_pattern_is_written_out(pattern: str, length: int, repeated: int, times: int) -> None:
    work = work_of(pattern)
    assert (work.length, work.repeated, work.times) == (length, repeated, times)


@pytest.mark.parametrize(
    ("pattern", "loops"),
    [
        ("(a*)*", True),
        ("((a*)*)*", True),
        ("(.*.*.*)*x", True),
        ("(a|b*){2}", True),
        ("(a|)+", True),
        ("(a?){3,}", True),
        ("()*", True),
        ("(a{0,3}b?){0,2}x", True),
        ("a**", True),
        ("a*+", True),
        ("(a*)?", False),
        ("a*?b+?", False),
        ("(a*b)*", False),
        ("(a|bc*)+", False),
        ("([a-z]+(-[a-z]+)*)?", False),
        ("(\\w+\\s?)+", False),
        ("a*b*|c?", False),
        ("(a{2})*", False),
    ],
)
def test_a_repetition_of_what_may_be_empty_is_found(pattern: str, loops: bool) -> None:
    assert work_of(pattern).loops is loops


@given(st.text(alphabet="ab.?*+{}0,9()[]^$|\\u\u00e9"))
def test_no_text_is_too_odd_to_be_measured(pattern: str) -> None:
    work = work_of(pattern)
    assert 0 <= work.repeated <= work.length <= 100_000


def test_long_chains_and_many_ways_are_looked_at_once() -> None:
    """A walk over every way would take 2^500 steps, a recursive one would end in its 1,000th call."""
    names = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(500)}
    chain = {f"c{i}": {"$ref": f"#/$defs/c{i + 1}"} for i in range(1500)}
    check_grammars(formatted({"$ref": "#/$defs/d0", "$defs": names}))
    check_grammars(formatted({"$ref": "#/$defs/c0", "$defs": chain}))
    with pytest.raises(BadRequest, match="refers to itself"):
        check_grammars(formatted({"$ref": "#/$defs/c0", "$defs": chain | {"c1500": {"$ref": "#"}}}))
