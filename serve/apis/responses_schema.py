"""What POST /v1/responses takes, as a JSON Schema, and what would be right in place of what it does not take.

Only what can be translated into a chat is in the schema. Fields that are not in it go to vLLM as they are.
"""

from typing import Any

from serve.apis.refusing import records, refuse_comparing, refuse_fields, unsupported
from serve.generation.request_schemas import EFFORT, FUNCTION, JSON_SCHEMA, METADATA, SHARED
from serve.schemas.words import (
    FLAG,
    NULL,
    STRING,
    Schema,
    integer,
    list_of,
    or_null,
    record,
    word,
)

Json = dict[str, Any]

LOGPROBS = "message.output_text.logprobs"  # among `include`

_NEVER: Schema = {"type": ["boolean", "null"], "enum": [False, None]}
_IMAGE = record(["type", "image_url"], type=word("input_image"), image_url=STRING, detail=or_null(STRING))
_TEXT = record(["type", "text"], type=word("input_text", "output_text"), text=STRING)
_REFUSAL = record(["type", "refusal"], type=word("refusal"), refusal=STRING)
_CONTENT: Schema = {"anyOf": [STRING, list_of({"anyOf": [_TEXT, _REFUSAL, _IMAGE]})]}
_OUTPUT: Schema = {"anyOf": [STRING, list_of({"anyOf": [_TEXT, _IMAGE]})]}
_THOUGHT = list_of(record(["text"], text=STRING))
_ITEM: Schema = {
    "anyOf": [
        record(
            ["role", "content"],
            type=word("message"),
            role=word("user", "assistant", "system", "developer"),
            content=_CONTENT,
        ),
        record(
            ["type", "call_id", "name", "arguments"],
            type=word("function_call"),
            call_id=STRING,
            name=STRING,
            arguments=STRING,
        ),
        record(
            ["type", "call_id", "output"], type=word("function_call_output"), call_id=STRING, output=_OUTPUT
        ),
        record(["type"], type=word("reasoning"), summary=or_null(_THOUGHT), content=or_null(_THOUGHT)),
    ]
}
_TOOL = record(["type", "name"], type=word("function"), **FUNCTION)
_FORMAT: Schema = {
    "anyOf": [
        record(["type"], type=word("text", "json_object")),
        record(["type", "name", "schema"], type=word("json_schema"), **JSON_SCHEMA),
        NULL,
    ]
}
_SHARED = {name: schema for name, schema in SHARED.items() if name not in ("n", "stream_options")}

RESPONSE: Schema = record(
    ["model", "input"],
    **_SHARED,
    input={"anyOf": [STRING, list_of(_ITEM, at_least=1)]},
    instructions=or_null(STRING),
    max_output_tokens=or_null(integer(1)),
    tools=or_null(list_of(_TOOL)),
    tool_choice={
        "anyOf": [
            word("none", "auto", "required"),
            record(["type", "name"], type=word("function"), name=STRING),
            NULL,
        ]
    },
    parallel_tool_calls=or_null(FLAG),
    text=or_null(record([], format=_FORMAT, verbosity=or_null(STRING))),
    reasoning=or_null(record([], effort=EFFORT, summary=or_null(STRING))),
    include=or_null(list_of(STRING)),
    top_logprobs=or_null(integer(0, 20)),
    metadata=or_null(METADATA),
    store=or_null(FLAG),
    previous_response_id=or_null({"type": "string", "minLength": 1, "maxLength": 128}),
    background=_NEVER,
    truncation=or_null(word("disabled")),
    conversation=NULL,
    prompt=NULL,
    context_management=NULL,
    hearken=or_null(record([], consent=or_null(FLAG), preferences=or_null(FLAG))),
)

_INSTEAD = {
    "conversation": "send previous_response_id, or the whole conversation as input",
    "prompt": "send instructions and input",
    "context_management": "leave out of input what is no longer needed",
    "messages": "send input",
    "n": "send the request as often as answers are wanted",
    "max_tokens": "send max_output_tokens",
    "max_completion_tokens": "send max_output_tokens",
    "response_format": "send text.format",
    "reasoning_effort": "send reasoning.effort",
    "logprobs": f"send include: [{LOGPROBS!r}]",
    "functions": "send tools",
    "function_call": "send tool_choice",
}
_KNOWN_ITEMS = frozenset({"message", "function_call", "function_call_output", "reasoning"})


def refuse_foreign(body: Json) -> None:
    """Raises BadRequest for what OpenAI's servers do and this service does not; says what would be right.

    `body` has passed no check yet: what is of a wrong type is left for the schema.
    """
    refuse_fields(body, _INSTEAD)
    if body.get("background") is True:
        raise unsupported("background", "background is not supported; leave it out, and stream long answers.")
    if body.get("truncation") == "auto":
        raise unsupported(
            "truncation",
            "truncation 'auto' is not supported; leave out of input what the context has no room for.",
        )
    for i, tool in enumerate(records(body.get("tools"))):
        _refuse_type(
            tool,
            {"function"},
            f"tools[{i}]",
            "tools that run here are not supported; send functions, and run them",
        )
    refuse_comparing(body)
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        _refuse_type(
            choice, {"function"}, "tool_choice", "name a function, or send 'auto', 'required' or 'none'"
        )
    for i, item in enumerate(records(body.get("input"))):
        instead = "send messages, function_call, function_call_output and reasoning items"
        if item.get("type") == "item_reference":
            instead = "send the item itself, or previous_response_id"
        _refuse_type(item, _KNOWN_ITEMS, f"input[{i}]", instead)
        for j, part in enumerate(records(item.get("content"))):
            if part.get("type") in ("input_file", "input_audio"):
                raise unsupported(
                    f"input[{i}].content[{j}].type",
                    f"{part['type']} is not supported; send what is in it as input_text.",
                )
            if part.get("type") == "input_image" and part.get("image_url") is None:
                raise unsupported(
                    f"input[{i}].content[{j}].image_url",
                    "Files are not kept here; send the image as image_url.",
                )


def _refuse_type(value: Json, known: frozenset[str] | set[str], path: str, instead: str) -> None:
    kind = value.get("type")
    if isinstance(kind, str) and kind not in known:
        raise unsupported(f"{path}.type", f"{path}.type {kind!r:.60} is not supported; {instead}.")
