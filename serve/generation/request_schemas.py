"""What clients may send, as JSON Schemas: requests are checked against them, /openapi.json shows them.

Their meaning is OpenAI's. Fields that are not here are passed to vLLM as they are, which ignores what it does
not know.
"""

from serve.schemas.words import (
    FLAG,
    FREE,
    NAME,
    NULL,
    NUMBER,
    STRING,
    Schema,
    integer,
    list_of,
    number,
    or_null,
    record,
    word,
)

MAX_USER_CHARS = 512
MAX_CHOICES = 128  # of one request, as at OpenAI
MAX_STOPS = 64  # OpenAI takes 4; each is looked for after each token
MAX_PAIRS, MAX_NAME_CHARS, MAX_VALUE_CHARS = 16, 64, 512  # of metadata, as at OpenAI
_INT64 = 2**63 - 1

METADATA = FREE | {
    "maxProperties": MAX_PAIRS,
    "propertyNames": STRING | {"minLength": 1, "maxLength": MAX_NAME_CHARS},
    "additionalProperties": STRING | {"maxLength": MAX_VALUE_CHARS},
}

_PART = record(["type", "text"], type=word("text"), text=STRING)
_IMAGE = record(["type", "image_url"], type=word("image_url"), image_url=record(["url"], url=STRING))
_AUDIO = record(
    ["type", "input_audio"],
    type=word("input_audio"),
    input_audio=record(["data", "format"], data=STRING, format=STRING),
)
_OTHER_PART = record(["type"], type=word("file", "video_url", "refusal"))
_PARTS = list_of({"anyOf": [_PART, _IMAGE, _AUDIO, _OTHER_PART]}, at_least=1)
_CONTENT: Schema = {"anyOf": [STRING, _PARTS]}
_TOLD: Schema = {"anyOf": [STRING, _PARTS | {"minItems": 0}]}
"""By a tool that may have nothing to tell."""
_SAID: Schema = {"anyOf": [*_TOLD["anyOf"], NULL]}
"""By an assistant: some clients send an empty list beside calls of functions."""
_CALL = record(
    ["id", "type", "function"],
    id=STRING,
    type=word("function"),
    function=record(["name", "arguments"], name=STRING, arguments=STRING),
)
_MESSAGE: Schema = {
    "anyOf": [
        record(["role", "content"], role=word("developer", "system", "user"), content=_CONTENT, name=STRING),
        record(
            ["role"],
            role=word("assistant"),
            content=_SAID,
            reasoning=or_null(STRING),
            reasoning_content=or_null(STRING),
            name=STRING,
            tool_calls=or_null(list_of(_CALL)),
        ),
        record(["role", "content", "tool_call_id"], role=word("tool"), content=_TOLD, tool_call_id=STRING),
    ]
}
_OPTIONS = {"description": or_null(STRING), "strict": or_null(FLAG)}
FUNCTION: dict[str, Schema] = {"name": NAME, "parameters": or_null(FREE), **_OPTIONS}
"""What a client says of a function that may be called."""
JSON_SCHEMA: dict[str, Schema] = {"name": NAME, "schema": FREE, **_OPTIONS}
"""What a client says of the schema that an answer has to fit."""
_TOOL = record(["type", "function"], type=word("function"), function=record(["name"], **FUNCTION))
_TOOL_CHOICE: Schema = {
    "anyOf": [
        word("none", "auto", "required"),
        record(["type", "function"], type=word("function"), function=record(["name"], name=STRING)),
        NULL,
    ]
}
_RESPONSE_FORMAT: Schema = {
    "anyOf": [
        record(["type"], type=word("text", "json_object")),
        record(
            ["type", "json_schema"],
            type=word("json_schema"),
            json_schema=record(["name", "schema"], **JSON_SCHEMA),
        ),
        NULL,
    ]
}
_SOME = STRING | {"minLength": 1}
_NAME = _SOME | {"maxLength": 128}
USER = or_null(STRING | {"maxLength": MAX_USER_CHARS})
EFFORT = or_null(word("none", "minimal", "low", "medium", "high", "xhigh", "max"))

SHARED: dict[str, Schema] = {
    "model": STRING,
    "n": or_null(integer(1, MAX_CHOICES)),
    "seed": or_null(integer(-_INT64 - 1, _INT64)),
    "stop": {"anyOf": [_SOME, list_of(_SOME) | {"maxItems": MAX_STOPS}, NULL]},
    "stream": or_null(FLAG),
    "stream_options": or_null(record([], include_usage=or_null(FLAG))),
    "temperature": or_null(number(0, 2)),
    "top_p": or_null(NUMBER | {"exclusiveMinimum": 0, "maximum": 1}),
    "frequency_penalty": or_null(number(-2, 2)),
    "presence_penalty": or_null(number(-2, 2)),
    "logit_bias": or_null(
        FREE
        | {
            "propertyNames": STRING | {"pattern": "^[0-9]{1,9}$"},
            "additionalProperties": number(-100, 100),
        }
    ),
    "user": USER,
    "safety_identifier": USER,
    # vLLM's own
    "top_k": or_null(integer(-1)),
    "min_p": or_null(number(0, 1)),
    # Near 0 it makes infinite logits, and vLLM then fails requests with a grammar.
    "repetition_penalty": or_null(number(0.1, 2)),
    # Beams are scored by length ** penalty, which is infinite, or 0, far outside of this.
    "length_penalty": number(-10, 10),
    "ignore_eos": FLAG,
    "return_token_ids": or_null(FLAG),
    "cache_salt": or_null(_NAME),
}

CHAT: Schema = record(
    ["model", "messages"],
    **SHARED,
    messages=list_of(_MESSAGE, at_least=1),
    max_tokens=or_null(integer(1)),
    max_completion_tokens=or_null(integer(1)),
    logprobs=or_null(FLAG),
    top_logprobs=or_null(integer(0, 20)),
    tools=or_null(list_of(_TOOL)),
    tool_choice=_TOOL_CHOICE,
    parallel_tool_calls=or_null(FLAG),
    response_format=_RESPONSE_FORMAT,
    reasoning_effort=EFFORT,
    metadata=or_null(METADATA),
    store=or_null(FLAG),
    hearken=or_null(
        record(
            [],
            compare=or_null(FLAG),
            compare_sparingly=or_null(FLAG),
            consent=or_null(FLAG),
            preferences=or_null(FLAG),
            external_id=or_null(STRING),
            episode_id=or_null(STRING),
        )
    ),
)

_TOKENS = list_of(integer(0, 2**31 - 1), at_least=1)
_SEVERAL = {"maxItems": 128}
TEXT: Schema = record(
    ["model", "prompt"],
    **SHARED,
    hearken=or_null(record([], consent=or_null(FLAG))),
    prompt={
        "anyOf": [
            _SOME,
            list_of(_SOME, at_least=1) | _SEVERAL,
            _TOKENS,
            list_of(_TOKENS, at_least=1) | _SEVERAL,
        ]
    },
    max_tokens=or_null(integer(0)),
    logprobs=or_null(integer(0, 20)),
    echo=or_null(FLAG),
    best_of=or_null(integer(1, MAX_CHOICES)),
)

METADATA_CHANGE: Schema = record(["metadata"], metadata=or_null(METADATA))

LIST_QUERY: Schema = record(
    [],
    limit=integer(1, 100),
    order=word("asc", "desc"),
    after=_NAME,
    model=_NAME,
)
"""Parameters of lists of stored completions and of their messages; `metadata[key]=value` besides."""
