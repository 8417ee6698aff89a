"""What clients may send, as JSON Schemas: requests are checked against them, /openapi.json shows them.

Their meaning is OpenAI's. Fields that are not here are passed to vLLM as they are, which ignores what it does
not know.
"""

from typing import Any

Schema = dict[str, Any]

MAX_USER_CHARS = 512
MAX_CHOICES = 128  # of one request, as at OpenAI
_INT64 = 2**63 - 1


def _or_null(schema: Schema) -> Schema:
    return (
        schema
        | {"type": [schema["type"], "null"]}
        | ({"enum": [*schema["enum"], None]} if "enum" in schema else {})
    )


def _object(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": required}


def _word(*words: str) -> Schema:
    return {"type": "string", "enum": list(words)}


def _number(low: float, high: float) -> Schema:
    return {"type": "number", "minimum": low, "maximum": high}


def _integer(low: int, high: int | None = None) -> Schema:
    return {"type": "integer", "minimum": low} | ({} if high is None else {"maximum": high})


_STRING: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_NAME: Schema = {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"}
_FREE: Schema = {"type": "object"}

METADATA: Schema = {
    "type": "object",
    "maxProperties": 16,
    "propertyNames": {"type": "string", "minLength": 1, "maxLength": 64},
    "additionalProperties": {"type": "string", "maxLength": 512},
}

_PART = _object(["type", "text"], type=_word("text"), text=_STRING)
_IMAGE = _object(["type", "image_url"], type=_word("image_url"), image_url=_object(["url"], url=_STRING))
_AUDIO = _object(
    ["type", "input_audio"],
    type=_word("input_audio"),
    input_audio=_object(["data", "format"], data=_STRING, format=_STRING),
)
_OTHER_PART = _object(["type"], type=_word("file", "video_url", "refusal"))
_PARTS: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {"anyOf": [_PART, _IMAGE, _AUDIO, _OTHER_PART]},
}
_CONTENT: Schema = {"anyOf": [_STRING, _PARTS]}
_CONTENT_OR_NULL: Schema = {"anyOf": [*_CONTENT["anyOf"], {"type": "null"}]}
_CALL = _object(
    ["id", "type", "function"],
    id=_STRING,
    type=_word("function"),
    function=_object(["name", "arguments"], name=_STRING, arguments=_STRING),
)
_MESSAGE: Schema = {
    "anyOf": [
        _object(
            ["role", "content"], role=_word("developer", "system", "user"), content=_CONTENT, name=_STRING
        ),
        _object(
            ["role"],
            role=_word("assistant"),
            content=_CONTENT_OR_NULL,
            reasoning=_or_null(_STRING),
            reasoning_content=_or_null(_STRING),
            name=_STRING,
            tool_calls=_or_null({"type": "array", "items": _CALL}),
        ),
        _object(
            ["role", "content", "tool_call_id"], role=_word("tool"), content=_CONTENT, tool_call_id=_STRING
        ),
    ]
}
_TOOL = _object(
    ["type", "function"],
    type=_word("function"),
    function=_object(
        ["name"],
        name=_NAME,
        description=_or_null(_STRING),
        parameters=_or_null(_FREE),
        strict=_or_null(_FLAG),
    ),
)
_TOOL_CHOICE: Schema = {
    "anyOf": [
        _word("none", "auto", "required"),
        _object(["type", "function"], type=_word("function"), function=_object(["name"], name=_STRING)),
        {"type": "null"},
    ]
}
_RESPONSE_FORMAT: Schema = {
    "anyOf": [
        _object(["type"], type=_word("text", "json_object")),
        _object(
            ["type", "json_schema"],
            type=_word("json_schema"),
            json_schema=_object(
                ["name", "schema"],
                name=_NAME,
                description=_or_null(_STRING),
                schema=_FREE,
                strict=_or_null(_FLAG),
            ),
        ),
        {"type": "null"},
    ]
}
_STOP_WORD: Schema = {"type": "string", "minLength": 1}
_USER = _or_null({"type": "string", "maxLength": MAX_USER_CHARS})

_SHARED: dict[str, Schema] = {
    "model": _STRING,
    "n": _or_null(_integer(1, MAX_CHOICES)),
    "seed": _or_null(_integer(-_INT64 - 1, _INT64)),
    "stop": {"anyOf": [_STOP_WORD, {"type": "array", "maxItems": 4, "items": _STOP_WORD}, {"type": "null"}]},
    "stream": _or_null(_FLAG),
    "stream_options": _or_null(_object([], include_usage=_or_null(_FLAG))),
    "temperature": _or_null(_number(0, 2)),
    "top_p": _or_null({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
    "frequency_penalty": _or_null(_number(-2, 2)),
    "presence_penalty": _or_null(_number(-2, 2)),
    "logit_bias": _or_null(
        {
            "type": "object",
            "propertyNames": {"type": "string", "pattern": "^[0-9]{1,9}$"},
            "additionalProperties": _number(-100, 100),
        }
    ),
    "user": _USER,
    "safety_identifier": _USER,
    # vLLM's own
    "top_k": _or_null(_integer(-1)),
    "min_p": _or_null(_number(0, 1)),
    # Near 0 it makes infinite logits, and vLLM then fails requests with a grammar.
    "repetition_penalty": _or_null(_number(0.1, 2)),
    # Beams are scored by length ** penalty, which is infinite, or 0, far outside of this.
    "length_penalty": _number(-10, 10),
    "ignore_eos": _FLAG,
    "return_token_ids": _or_null(_FLAG),
    "cache_salt": _or_null({"type": "string", "minLength": 1, "maxLength": 128}),
}

CHAT: Schema = _object(
    ["model", "messages"],
    **_SHARED,
    messages={"type": "array", "minItems": 1, "items": _MESSAGE},
    max_tokens=_or_null(_integer(1)),
    max_completion_tokens=_or_null(_integer(1)),
    logprobs=_or_null(_FLAG),
    top_logprobs=_or_null(_integer(0, 20)),
    tools=_or_null({"type": "array", "minItems": 1, "items": _TOOL}),
    tool_choice=_TOOL_CHOICE,
    parallel_tool_calls=_or_null(_FLAG),
    response_format=_RESPONSE_FORMAT,
    reasoning_effort=_or_null(_word("none", "minimal", "low", "medium", "high", "xhigh", "max")),
    metadata=_or_null(METADATA),
    store=_or_null(_FLAG),
    hearken=_or_null(_object([], compare=_or_null(_FLAG), consent=_or_null(_FLAG))),
)

_TOKENS: Schema = {"type": "array", "minItems": 1, "items": _integer(0, 2**31 - 1)}
TEXT: Schema = _object(
    ["model", "prompt"],
    **_SHARED,
    hearken=_or_null(_object([], consent=_or_null(_FLAG))),
    prompt={
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "minItems": 1, "maxItems": 128, "items": {"type": "string", "minLength": 1}},
            _TOKENS,
            {"type": "array", "minItems": 1, "maxItems": 128, "items": _TOKENS},
        ]
    },
    max_tokens=_or_null(_integer(0)),
    logprobs=_or_null(_integer(0, 20)),
    echo=_or_null(_FLAG),
    best_of=_or_null(_integer(1, MAX_CHOICES)),
)

METADATA_CHANGE: Schema = _object(["metadata"], metadata=_or_null(METADATA))

LIST_QUERY: Schema = _object(
    [],
    limit=_integer(1, 100),
    order=_word("asc", "desc"),
    after={"type": "string", "minLength": 1, "maxLength": 128},
    model={"type": "string", "minLength": 1, "maxLength": 128},
)
"""Parameters of lists of stored completions and of their messages; `metadata[key]=value` besides."""
