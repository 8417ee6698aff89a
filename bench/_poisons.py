"""Bodies that a gateway lets pass and that an engine fails, or works on for long: listed, and drawn."""

import json
import random
from typing import Any

Body = dict[str, Any]

_ATOMS = (
    "a",
    ".",
    "[ab]",
    "[^a]",
    "\\d",
    "\\w",
    "\\s",
    "\\S",
    "\\W",
    "(ab|c)",
    "(a?)",
    "()",
    "[^\\s\\S]",
    "\\u0100",
)
_TIMES = ("", "?", "*", "+", "{0}", "{2}", "{0,128}", "{3,}", "{128}", "{0,90}", "*?", "+?")
_WORDS = (
    "type",
    "enum",
    "const",
    "pattern",
    "items",
    "properties",
    "anyOf",
    "allOf",
    "oneOf",
    "not",
    "format",
)


def formatted(schema: Any) -> Body:
    """A chat's fields whose answer has to fit a schema."""
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def called(schema: Any) -> Body:
    """A chat's fields whose answer has to be a call of a function with such parameters."""
    function = {"type": "function", "function": {"name": "f", "parameters": schema}}
    return {"tools": [function], "tool_choice": "required"}


def matched(regex: str) -> Body:
    """A chat's fields whose answer has to match a regular expression."""
    return {"structured_outputs": {"regex": regex}}


KNOWN: dict[str, Body] = {
    "refers to itself": formatted({"$ref": "#"}),
    "names of 150": formatted({"type": "object", "propertyNames": {"pattern": "^a{0,150}$"}}),
    "pattern of 150": formatted({"type": "object", "patternProperties": {"^a{0,150}$": {"type": "string"}}}),
    "nothing fits": matched("[^\\x00-\\U0010ffff]"),
    "beams, penalty of 1e6": {"use_beam_search": True, "n": 2, "length_penalty": 1e6},
    "beams, penalty of -1e6": {"use_beam_search": True, "n": 2, "length_penalty": -1e6},
}
"""What engines were known to fail with; the gateway refuses some of them by now."""

_PARTS = [f"p{i}" for i in range(1000)]
FOUND: dict[str, Body] = {
    "a pattern of 6,400 anythings": formatted({"type": "string", "pattern": "^.{0,6400}$"}),
    "a pattern of 130": formatted({"type": "string", "pattern": "^\\S[ab]{3,}\\S{130}$"}),
    "names of 150 non-words": formatted({"type": "object", "propertyNames": {"pattern": "^\\W{0,150}$"}}),
    "100 patterns of 2,000": formatted(
        {
            "type": "object",
            "properties": {p: {"pattern": "^a{0,2000}b$", "type": "string"} for p in _PARTS[:100]},
        }
    ),
    "stars in stars": called({"type": "string", "pattern": "^a{2}([^a]*?(a?)*){128}$"}),
    "either itself or itself": formatted({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}),
    "one of itself": called({"oneOf": [{"$ref": "#"}]}),
    "neither space nor other": matched("[^\\s\\S]{2}"),
    "2,000 times perhaps": matched("a?" * 2000),
    "what may be empty, again and again": matched("((a*)*)*"),
    "three deep": matched("((a+)+)+"),
    "repetitions of repetitions": matched(
        "(([ab]*?){0,128}){0,90}(((ab|c)*?[ab]*?()*?){0,128}(a?)[^\\s\\S]{3,})"
    ),
    "50 lengths": formatted(
        {
            "type": "object",
            "properties": {p: {"type": "string", "maxLength": 1000 + i} for i, p in enumerate(_PARTS[:50])},
            "required": _PARTS[:50],
        }
    ),
    "1,000 optional properties": called(
        {"type": "object", "properties": {p: {"type": "string"} for p in _PARTS}}
    ),
    "900 kinds of itself": formatted(
        {"anyOf": [{"type": "object", "properties": {p: {"$ref": "#"}}} for p in _PARTS[:900]]}
    ),
}
"""What was found by drawing (`python -m bench poison --draw`) and by making what was found larger."""


def drawn(draw: random.Random) -> Body:
    """A body of the kinds above: grammars of all sorts, and vLLM's own fields with odd values."""
    kind = draw.randrange(6)
    if kind == 0:
        return matched(regex(draw))
    if kind == 1:
        return called(schema(draw, 3))
    if kind == 2:
        return odd(draw)
    return formatted(schema(draw, 3))


def regex(draw: random.Random, depth: int = 2) -> str:
    """A regular expression of a few parts."""
    parts = []
    for _ in range(draw.randint(1, 3)):
        part = f"({regex(draw, depth - 1)})" if depth and draw.random() < 0.3 else draw.choice(_ATOMS)
        parts.append(part + draw.choice(_TIMES))
    return ("|" if draw.random() < 0.15 else "").join(parts)


def schema(draw: random.Random, depth: int) -> Any:
    """A JSON Schema, with keywords that need not go together."""
    if depth == 0 or draw.random() < 0.1:
        return draw.choice(
            [{}, True, {"$ref": "#"}, {"type": "string"}, {"type": ["string", "null"]}, {"const": 1}]
        )
    found: Body = {}
    for _ in range(draw.randint(1, 3)):
        _add(found, draw, depth)
    return found


def _add(found: Body, draw: random.Random, depth: int) -> None:
    def inner() -> Any:
        return schema(draw, depth - 1)

    kind = draw.randrange(14)
    if kind == 0:
        found |= {"type": "string", "pattern": f"^{regex(draw)}$"}
    elif kind == 1:
        found |= {"type": "object", "propertyNames": {"pattern": f"^{regex(draw)}$"}}
    elif kind == 2:
        found |= {"type": "object", "patternProperties": {f"^{regex(draw)}$": inner()}}
    elif kind == 3:
        found |= {"type": "object", "properties": {"a": inner(), "b": inner()}, "required": ["a"]}
    elif kind == 4:
        found |= {"type": "array", "items": inner(), "minItems": draw.choice([0, 1, 200])}
    elif kind == 5:
        found |= {"type": "array", "prefixItems": [inner()], "items": draw.choice([False, {}])}
    elif kind == 6:
        found[draw.choice(["anyOf", "oneOf", "allOf"])] = [inner() for _ in range(draw.randint(1, 3))]
    elif kind == 7:
        found |= {"type": "string", "format": draw.choice(["email", "uri", "uuid", "date-time", "ipv6"])}
    elif kind == 8:
        found |= {
            "type": "integer",
            "minimum": draw.choice([-(2**62), 5]),
            "maximum": draw.choice([2**62, 6]),
        }
    elif kind == 9:
        found |= {"type": "number", "exclusiveMinimum": draw.choice([-1e300, 1e-300]), "maximum": 1e300}
    elif kind == 10:
        found |= {"type": "string", "minLength": draw.choice([0, 5]), "maxLength": draw.choice([5, 10**6])}
    elif kind == 11:
        found |= {"enum": draw.choice([["a", 1, None, {}], ["\U0001f600"], [""], [1e308]])}
    elif kind == 12:
        found |= {"$ref": draw.choice(["#", "#/$defs/a", "#/properties/a"]), "$defs": {"a": inner()}}
    else:
        found |= {"type": "object", "minProperties": draw.choice([0, 1, 3]), "additionalProperties": inner()}


def odd(draw: random.Random) -> Body:
    """One or two of vLLM's own fields, with values at the edge of what they may be."""
    values: dict[str, list[Any]] = {
        "logit_bias": [{"5": 100}, {"1023": -100}, {"1024": 1}, {"999999999": 1}],
        "allowed_token_ids": [[0], [2], [1023], [5, 5]],
        "bad_words": [["a"], [" "], ["\u0000"], ["kettle " * 50]],
        "stop_token_ids": [[0], [2], [999999]],
        "prompt_logprobs": [0, 1, 20],
        "truncate_prompt_tokens": [1, -1, 3],
        "min_tokens": [1, 8],
        "use_beam_search": [True],
        "length_penalty": [-10, 10, 0],
        "n": [2, 8],
        "temperature": [0, 2, 1e-9, 1e-4],
        "min_p": [1, 1e-9],
        "top_p": [1e-9],
        "repetition_penalty": [0.1, 2],
        "thinking_token_budget": [0, 1],
        "continue_final_message": [True],
        "add_generation_prompt": [False],
        "echo": [True],
        "logprob_token_ids": [[5], [999999]],
        "chat_template_kwargs": [{"tools": 1}, {"messages": None}, {"add_generation_prompt": []}],
        "documents": [[{"title": "x", "text": "y"}], [{}]],
        "repetition_detection": [{"max_pattern_size": 1, "min_pattern_size": 1, "min_count": 2}],
        "structured_outputs": [{"structural_tag": '{"type":"structural_tag","format":{"type":"any_text"}}'}],
        "stream_interval": [10**6],
        "mm_processor_kwargs": [{"x": 1}],
        "watermarking": [True],
        "return_tokens_as_token_ids": [True],
        "include_stop_str_in_output": [True],
    }
    names = draw.sample(sorted(values), draw.randint(1, 3))
    return {name: draw.choice(values[name]) for name in names}


def again(fields: Body, number: int) -> Body:
    """The same body written in another way, so that no cache of grammars has it."""
    text = json.dumps(fields)
    for name in ("$ref", "type", "pattern", "anyOf", "items"):
        if f'{{"{name}":' in text and "structural" not in text:
            return dict(json.loads(text.replace(f'{{"{name}":', f'{{"title": "t{number}", "{name}":', 1)))
    return fields
