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


def of(**properties: Schema) -> Schema:
    """An object that has all of these."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def listed(items: Schema) -> Schema:
    """A list of these."""
    return {"type": "array", "items": items}


def const(word: str) -> Schema:
    """This one string."""
    return {"type": "string", "enum": [word]}


def _paged(items: Schema) -> Schema:
    return of(
        object=const("list"), data=listed(items), first_id=_TEXT, last_id=_TEXT, has_more={"type": "boolean"}
    )


def optional(schema: Schema, **properties: Schema) -> Schema:
    """An object's schema with properties that it may have besides."""
    return schema | {"properties": schema["properties"] | properties}


_TOKEN = of(token=_STRING, logprob={"type": "number"}, bytes={"type": ["array", "null"], "items": _COUNT})
_LOGPROBS: Schema = {
    "type": ["object", "null"],
    "properties": {
        "content": {"type": ["array", "null"], "items": optional(_TOKEN, top_logprobs=listed(_TOKEN))}
    },
}
_CALL = of(id=_STRING, type=const("function"), function=of(name=_STRING, arguments=_STRING))
_THOUGHT: dict[str, Schema] = {"reasoning": _STRING, "reasoning_content": _STRING}
_MESSAGE = optional(
    of(role=const("assistant"), content=_TEXT), tool_calls=listed(_CALL), refusal=_TEXT, **_THOUGHT
)
_CHOICE = of(index=_COUNT, message=_MESSAGE, logprobs=_LOGPROBS, finish_reason=_FINISH)
_CALL_DELTA = {"type": "object", "properties": {"index": _COUNT}, "required": ["index"]}
_DELTA: Schema = {
    "type": "object",
    "properties": {
        "role": const("assistant"),
        "content": _TEXT,
        "tool_calls": listed(_CALL_DELTA),
        **_THOUGHT,
    },
}
_HEAD = {"id": _STRING, "created": _COUNT, "model": _STRING}
_TEXT_LOGPROBS: Schema = {
    "type": ["object", "null"],
    "properties": {
        "tokens": listed(_STRING),
        "token_logprobs": listed({"type": ["number", "null"]}),
        "top_logprobs": listed({"type": ["object", "null"]}),
        "text_offset": listed(_COUNT),
    },
}
_TEXT_CHOICE = of(index=_COUNT, text=_STRING, logprobs=_TEXT_LOGPROBS, finish_reason=_FINISH)
_ANSWER = of(
    object=const("chat.completion"), **_HEAD, choices=listed(_CHOICE), usage={"anyOf": [ref("Usage")]}
)
HEARKEN: Schema = {
    "type": "object",
    "description": "A token to vote with; of a response its id again, of a comparison the ids of its sides.",
    "properties": {
        "feedback_token": _STRING,
        "feedback_token_expires_at": _COUNT,
        "completion_id": _STRING,
        "comparison": of(comparison_id=_STRING, a=_STRING, b=_STRING),
    },
}

_TIME = {"type": ["number", "null"]}
_COUNTED = of(count=_COUNT, first_at=_TIME, last_at=_TIME)

RESPONSES: dict[str, Schema] = {
    "Error": of(error=of(message=_STRING, type=_STRING, param=_TEXT, code=_STRING)),
    "Usage": optional(
        of(prompt_tokens=_COUNT, completion_tokens=_COUNT, total_tokens=_COUNT),
        prompt_tokens_details=of(cached_tokens=_COUNT),
    ),
    "ChatCompletion": optional(_ANSWER, hearken=HEARKEN),
    "ChatCompletionChunk": of(
        object=const("chat.completion.chunk"),
        **_HEAD,
        choices=listed({"type": "object", "properties": {"index": _COUNT, "delta": _DELTA}}),
    ),
    "StoredCompletion": optional(
        _ANSWER | {"required": [*_ANSWER["required"], "metadata"]},
        metadata={"type": "object", "additionalProperties": _STRING},
        usage={"anyOf": [ref("Usage"), {"type": "null"}]},
    ),
    "StoredCompletionList": _paged(ref("StoredCompletion")),
    "StoredMessageList": _paged(
        of(id=_STRING, role=_STRING, content=_TEXT, content_parts={"type": ["array", "null"]})
    ),
    "DeletedCompletion": of(object=const("chat.completion.deleted"), id=_STRING, deleted={"type": "boolean"}),
    "Completion": of(
        object=const("text_completion"), **_HEAD, choices=listed(_TEXT_CHOICE), usage=ref("Usage")
    ),
    "Comparison": of(object=const("comparison"), **_HEAD, a=ref("ChatCompletion"), b=ref("ChatCompletion")),
    "Model": optional(
        of(id=_STRING, object=const("model"), created=_COUNT, owned_by=_STRING), consent=const("asked")
    ),
    "ModelList": of(object=const("list"), data=listed(ref("Model"))),
    "Erased": of(
        object=const("user.deleted"),
        id=_STRING,
        found={"type": "boolean"},
        deleted={"type": "boolean"},
        had_texts={"type": "boolean"},
        stored_completions=_COUNT,
        preferences=_COUNT,
        policy_versions=listed(_STRING),
        descendants=listed(_STRING),
    ),
    "User": of(
        object=const("user"),
        id=_STRING,
        pseudonyms=listed(_STRING),
        found={"type": "boolean"},
        key={"type": "string", "enum": ["present", "erased", "none"]},
        erased_at=_TIME,
        completions=_COUNTED,
        votes=optional(_COUNTED, kinds={"type": "object", "additionalProperties": _COUNTED}),
        stored_completions=_COUNT,
        preferences=_COUNT,
        policy_versions=listed(_STRING),
        descendants=listed(_STRING),
    ),
    "Status": optional(of(status=_STRING), reasons=listed(_STRING), warnings=listed(_STRING)),
}
