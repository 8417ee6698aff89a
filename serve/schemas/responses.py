"""What clients get, as JSON Schemas for /openapi.json. Objects may have more fields than are shown."""

from serve.schemas.words import (
    COUNT,
    FLAG,
    FREE,
    NULL,
    NUMBER,
    STRING,
    TEXT,
    Schema,
    list_of,
    of,
    optional,
    or_null,
    record,
    ref,
    word,
)

_FINISH: Schema = {"enum": ["stop", "length", "tool_calls", "abort", "error", "repetition", None]}


def _paged(items: Schema) -> Schema:
    return of(object=word("list"), data=list_of(items), first_id=TEXT, last_id=TEXT, has_more=FLAG)


_TOKEN = of(token=STRING, logprob=NUMBER, bytes=or_null(list_of(COUNT)))
_LOGPROBS = or_null(record([], content=or_null(list_of(optional(_TOKEN, top_logprobs=list_of(_TOKEN))))))
_CALL = of(id=STRING, type=word("function"), function=of(name=STRING, arguments=STRING))
_THOUGHT: dict[str, Schema] = {"reasoning": STRING, "reasoning_content": STRING}
_MESSAGE = optional(
    of(role=word("assistant"), content=TEXT), tool_calls=list_of(_CALL), refusal=TEXT, **_THOUGHT
)
_CHOICE = of(index=COUNT, message=_MESSAGE, logprobs=_LOGPROBS, finish_reason=_FINISH)
_DELTA = record([], role=word("assistant"), content=TEXT, tool_calls=list_of(of(index=COUNT)), **_THOUGHT)
_HEAD = {"id": STRING, "created": COUNT, "model": STRING}
_TEXT_LOGPROBS = or_null(
    record(
        [],
        tokens=list_of(STRING),
        token_logprobs=list_of(or_null(NUMBER)),
        top_logprobs=list_of(or_null(FREE)),
        text_offset=list_of(COUNT),
    )
)
_TEXT_CHOICE = of(index=COUNT, text=STRING, logprobs=_TEXT_LOGPROBS, finish_reason=_FINISH)
_ANSWER = of(
    object=word("chat.completion"), **_HEAD, choices=list_of(_CHOICE), usage={"anyOf": [ref("Usage")]}
)
HEARKEN = record(
    [],
    feedback_token=STRING,
    feedback_token_expires_at=COUNT,
    completion_id=STRING,
    comparison=of(comparison_id=STRING, a=STRING, b=STRING),
) | {"description": "A token to vote with; of a response its id again, of a comparison the ids of its sides."}

_TIME = or_null(NUMBER)
_LEFT: dict[str, Schema] = {
    "stored_completions": COUNT,
    "preferences": COUNT,
    "policy_versions": list_of(STRING),
    "descendants": list_of(STRING),
}
_COUNTED = of(count=COUNT, first_at=_TIME, last_at=_TIME)

RESPONSES: dict[str, Schema] = {
    "Error": of(error=of(message=STRING, type=STRING, param=TEXT, code=STRING)),
    "Usage": optional(
        of(prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT),
        prompt_tokens_details=of(cached_tokens=COUNT),
    ),
    "ChatCompletion": optional(_ANSWER, hearken=HEARKEN),
    "ChatCompletionChunk": of(
        object=word("chat.completion.chunk"),
        **_HEAD,
        choices=list_of(record([], index=COUNT, delta=_DELTA)),
    ),
    "StoredCompletion": optional(
        _ANSWER | {"required": [*_ANSWER["required"], "metadata"]},
        metadata=FREE | {"additionalProperties": STRING},
        usage={"anyOf": [ref("Usage"), NULL]},
    ),
    "StoredCompletionList": _paged(ref("StoredCompletion")),
    "StoredMessageList": _paged(
        of(id=STRING, role=STRING, content=TEXT, content_parts=or_null({"type": "array"}))
    ),
    "DeletedCompletion": of(object=word("chat.completion.deleted"), id=STRING, deleted=FLAG),
    "Completion": of(
        object=word("text_completion"), **_HEAD, choices=list_of(_TEXT_CHOICE), usage=ref("Usage")
    ),
    "Comparison": of(object=word("comparison"), **_HEAD, a=ref("ChatCompletion"), b=ref("ChatCompletion")),
    "Model": optional(
        of(id=STRING, object=word("model"), created=COUNT, owned_by=STRING), consent=word("asked")
    ),
    "ModelList": of(object=word("list"), data=list_of(ref("Model"))),
    "Erased": of(
        object=word("user.deleted"),
        id=STRING,
        found=FLAG,
        deleted=FLAG,
        had_texts=FLAG,
        **_LEFT,
    ),
    "User": of(
        object=word("user"),
        id=STRING,
        pseudonyms=list_of(STRING),
        found=FLAG,
        key=word("present", "erased", "none"),
        erased_at=_TIME,
        completions=_COUNTED,
        votes=optional(_COUNTED, kinds=FREE | {"additionalProperties": _COUNTED}),
        **_LEFT,
    ),
    "Status": optional(of(status=STRING), reasons=list_of(STRING), warnings=list_of(STRING)),
}
