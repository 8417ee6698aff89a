"""What POST /v1/messages takes, as a JSON Schema, and what would be right in place of what it does not take.

Only what can be translated into a chat is in the schema. Fields that are not in it go to vLLM as they are.
"""

from typing import Any

from serve.apis.refusing import records, refuse_comparing, refuse_fields, unsupported
from serve.generation.request_schemas import EFFORT, MAX_STOPS, SHARED, USER
from serve.schemas.words import (
    FLAG,
    FREE,
    NAME,
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

_TEXT = record(["type", "text"], type=word("text"), text=STRING)
_TEXTS: Schema = {"anyOf": [STRING, list_of(_TEXT)]}
_RESULT = record(
    ["type", "tool_use_id"],
    type=word("tool_result"),
    tool_use_id=STRING,
    content={"anyOf": [*_TEXTS["anyOf"], NULL]},
    is_error=or_null(FLAG),
)
_USE = record(["type", "id", "name", "input"], type=word("tool_use"), id=STRING, name=STRING, input=FREE)
_THOUGHT = record(["type", "thinking"], type=word("thinking"), thinking=STRING)
_HIDDEN = record(["type"], type=word("redacted_thinking"))
_MESSAGE: Schema = {
    "anyOf": [
        record(
            ["role", "content"],
            role=word("user"),
            content={"anyOf": [STRING, list_of({"anyOf": [_TEXT, _RESULT]}, at_least=1)]},
        ),
        record(
            ["role", "content"],
            role=word("assistant"),
            content={"anyOf": [STRING, list_of({"anyOf": [_TEXT, _USE, _THOUGHT, _HIDDEN]})]},
        ),
        record(["role", "content"], role=word("system"), content=_TEXTS),
    ]
}
_TOOL = record(
    ["name", "input_schema"],
    type=or_null(word("custom")),
    name=NAME,
    description=or_null(STRING),
    input_schema=FREE,
    strict=or_null(FLAG),
)
_TOOL_CHOICE: Schema = {
    "anyOf": [
        record(["type"], type=word("auto", "any", "none"), disable_parallel_tool_use=or_null(FLAG)),
        record(["type", "name"], type=word("tool"), name=STRING, disable_parallel_tool_use=or_null(FLAG)),
        NULL,
    ]
}
_FORMAT = record(["type", "schema"], type=word("json_schema"), schema=FREE)
_STOPS = list_of({"type": "string", "minLength": 1}) | {"maxItems": MAX_STOPS}
_OTHERS = ("n", "stop", "stream_options", "user", "safety_identifier")
_SHARED = {name: schema for name, schema in SHARED.items() if name not in _OTHERS}

COUNT_TOKENS: Schema = record(
    ["model", "messages"],
    model=STRING,
    messages=list_of(_MESSAGE, at_least=1),
    system={"anyOf": [*_TEXTS["anyOf"], NULL]},
    tools=or_null(list_of(_TOOL)),
    tool_choice=_TOOL_CHOICE,
    output_config=or_null(record([], effort=EFFORT, format=or_null(_FORMAT))),
    thinking=or_null(record(["type"], type=word("enabled", "disabled", "adaptive", "between_tools"))),
)
"""POST /v1/messages/count_tokens."""

MESSAGE: Schema = record(
    ["model", "max_tokens", "messages"],
    **(_SHARED | COUNT_TOKENS["properties"]),
    max_tokens=integer(1),
    stop_sequences=or_null(_STOPS),
    metadata=or_null(record([], user_id=USER)),
    mcp_servers=or_null(list_of(FREE) | {"maxItems": 0}),
    container=NULL,
    hearken=or_null(record([], consent=or_null(FLAG), preferences=or_null(FLAG))),
)

_INSTEAD = {
    "container": "run your tools yourself",
    "output_format": "send output_config.format",
    "stop": "send stop_sequences",
    "n": "send the request as often as answers are wanted",
    "max_completion_tokens": "send max_tokens",
    "response_format": "send output_config.format",
    "reasoning_effort": "send output_config.effort",
    "user": "send metadata.user_id",
    "logprobs": "send POST /v1/chat/completions or /v1/responses for them",
    "functions": "send tools",
    "function_call": "send tool_choice",
}
_BLOCKS = frozenset({"text", "tool_use", "tool_result", "thinking", "redacted_thinking"})


def refuse_foreign(body: Json) -> None:
    """Raises Foreign for what Anthropic's servers do and this service does not; says what would be right.

    `body` has passed no check yet: what is of a wrong type is left for the schema.
    """
    refuse_fields(body, _INSTEAD)
    if body.get("mcp_servers"):
        raise unsupported("mcp_servers", "mcp_servers is not supported; call their tools yourself.")
    refuse_comparing(body)
    for i, tool in enumerate(records(body.get("tools"))):
        kind = tool.get("type")
        if isinstance(kind, str) and kind != "custom":
            raise unsupported(
                f"tools[{i}].type",
                f"tools[{i}].type {kind!r:.60} is not supported; send a tool of your own, with input_schema.",
            )
    for i, message in enumerate(records(body.get("messages"))):
        _refuse_blocks(message.get("content"), f"messages[{i}].content")
    _refuse_blocks(body.get("system"), "system")


def _refuse_blocks(content: object, path: str) -> None:
    for i, block in enumerate(records(content)):
        kind = block.get("type")
        if kind == "image":
            raise unsupported(
                f"{path}[{i}].type",
                f"{path}[{i}]: images are not supported here; send them to POST /v1/chat/completions, "
                "as image_url, if the model has eyes.",
            )
        if isinstance(kind, str) and kind not in _BLOCKS:
            raise unsupported(
                f"{path}[{i}].type",
                f"{path}[{i}].type {kind!r:.60} is not supported; send what is in it as a text block.",
            )
        if kind == "tool_result":
            _refuse_blocks(block.get("content"), f"{path}[{i}].content")
