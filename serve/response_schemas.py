"""What clients get, as JSON Schemas for /openapi.json. Objects may have more fields than are shown."""

from typing import Any

Schema = dict[str, Any]

_STRING: Schema = {"type": "string"}
_TEXT: Schema = {"type": ["string", "null"]}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_FINISH: Schema = {"enum": ["stop", "length", "tool_calls", "abort", "error", "repetition", None]}


def ref(name: str) -> Schema:
    """A schema of the document's components."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(**properties: Schema) -> Schema:
    """An object that has all of these."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _const(word: str) -> Schema:
    return {"type": "string", "enum": [word]}


def _paged(items: Schema) -> Schema:
    return _object(
        object=_const("list"), data=_list(items), first_id=_TEXT, last_id=_TEXT, has_more={"type": "boolean"}
    )


def _optional(schema: Schema, **properties: Schema) -> Schema:
    return schema | {"properties": schema["properties"] | properties}


_TOKEN = _object(
    token=_STRING, logprob={"type": "number"}, bytes={"type": ["array", "null"], "items": _COUNT}
)
_LOGPROBS: Schema = {
    "type": ["object", "null"],
    "properties": {
        "content": {"type": ["array", "null"], "items": _optional(_TOKEN, top_logprobs=_list(_TOKEN))}
    },
}
_CALL = _object(id=_STRING, type=_const("function"), function=_object(name=_STRING, arguments=_STRING))
_THOUGHT: dict[str, Schema] = {"reasoning": _STRING, "reasoning_content": _STRING}
_MESSAGE = _optional(
    _object(role=_const("assistant"), content=_TEXT), tool_calls=_list(_CALL), refusal=_TEXT, **_THOUGHT
)
_CHOICE = _object(index=_COUNT, message=_MESSAGE, logprobs=_LOGPROBS, finish_reason=_FINISH)
_CALL_DELTA = {"type": "object", "properties": {"index": _COUNT}, "required": ["index"]}
_DELTA: Schema = {
    "type": "object",
    "properties": {
        "role": _const("assistant"),
        "content": _TEXT,
        "tool_calls": _list(_CALL_DELTA),
        **_THOUGHT,
    },
}
_HEAD = {"id": _STRING, "created": _COUNT, "model": _STRING}
_TEXT_LOGPROBS: Schema = {
    "type": ["object", "null"],
    "properties": {
        "tokens": _list(_STRING),
        "token_logprobs": _list({"type": ["number", "null"]}),
        "top_logprobs": _list({"type": ["object", "null"]}),
        "text_offset": _list(_COUNT),
    },
}
_TEXT_CHOICE = _object(index=_COUNT, text=_STRING, logprobs=_TEXT_LOGPROBS, finish_reason=_FINISH)
_ANSWER = _object(
    object=_const("chat.completion"), **_HEAD, choices=_list(_CHOICE), usage={"anyOf": [ref("Usage")]}
)
_HEARKEN: Schema = {
    "type": "object",
    "description": "A token to vote with; of a comparison also the ids of its sides.",
    "properties": {
        "feedback_token": _STRING,
        "feedback_token_expires_at": _COUNT,
        "comparison": _object(comparison_id=_STRING, a=_STRING, b=_STRING),
    },
}

_TIME = {"type": ["number", "null"]}
_COUNTED = _object(count=_COUNT, first_at=_TIME, last_at=_TIME)

RESPONSES: dict[str, Schema] = {
    "Error": _object(error=_object(message=_STRING, type=_STRING, param=_TEXT, code=_STRING)),
    "Usage": _optional(
        _object(prompt_tokens=_COUNT, completion_tokens=_COUNT, total_tokens=_COUNT),
        prompt_tokens_details=_object(cached_tokens=_COUNT),
    ),
    "ChatCompletion": _optional(_ANSWER, hearken=_HEARKEN),
    "ChatCompletionChunk": _object(
        object=_const("chat.completion.chunk"),
        **_HEAD,
        choices=_list({"type": "object", "properties": {"index": _COUNT, "delta": _DELTA}}),
    ),
    "StoredCompletion": _optional(
        _ANSWER | {"required": [*_ANSWER["required"], "metadata"]},
        metadata={"type": "object", "additionalProperties": _STRING},
        usage={"anyOf": [ref("Usage"), {"type": "null"}]},
    ),
    "StoredCompletionList": _paged(ref("StoredCompletion")),
    "StoredMessageList": _paged(
        _object(id=_STRING, role=_STRING, content=_TEXT, content_parts={"type": ["array", "null"]})
    ),
    "DeletedCompletion": _object(
        object=_const("chat.completion.deleted"), id=_STRING, deleted={"type": "boolean"}
    ),
    "Completion": _object(
        object=_const("text_completion"), **_HEAD, choices=_list(_TEXT_CHOICE), usage=ref("Usage")
    ),
    "Comparison": _object(
        object=_const("comparison"), **_HEAD, a=ref("ChatCompletion"), b=ref("ChatCompletion")
    ),
    "Model": _object(id=_STRING, object=_const("model"), created=_COUNT, owned_by=_STRING),
    "ModelList": _object(object=_const("list"), data=_list(ref("Model"))),
    "Erased": _object(
        object=_const("user.deleted"),
        id=_STRING,
        found={"type": "boolean"},
        deleted={"type": "boolean"},
        had_texts={"type": "boolean"},
        stored_completions=_COUNT,
        policy_versions=_list(_STRING),
        descendants=_list(_STRING),
    ),
    "User": _object(
        object=_const("user"),
        id=_STRING,
        pseudonyms=_list(_STRING),
        found={"type": "boolean"},
        key={"type": "string", "enum": ["present", "erased", "none"]},
        erased_at=_TIME,
        completions=_COUNTED,
        votes=_optional(_COUNTED, kinds={"type": "object", "additionalProperties": _COUNTED}),
        stored_completions=_COUNT,
        policy_versions=_list(_STRING),
        descendants=_list(_STRING),
    ),
    "Status": _object(status=_STRING),
}
