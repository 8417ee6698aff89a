"""What /openapi.json says of the doors that are not OpenAI's chats: responses, messages and tokens."""

from typing import Any

from serve.apis.messages_schema import COUNT, MESSAGE
from serve.apis.responses_schema import RESPONSE
from serve.completions.tokenizing import PATH as TOKENIZE_PATH
from serve.completions.tokenizing import TOKENIZE
from serve.schemas.openapi_words import named, operation, post
from serve.schemas.responses import HEARKEN, const, listed, of, optional

Json = dict[str, Any]

_STRING: Json = {"type": "string"}
_TEXT: Json = {"type": ["string", "null"]}
_COUNT: Json = {"type": "integer", "minimum": 0}
_KIND = of(type=_STRING)
_STREAMED = (
    "with `stream: true` server-sent events, each with its `type` as its name. Lines that begin with : are "
    "comments."
)

DOOR_SCHEMAS: Json = {
    "Response": optional(
        of(
            id=_STRING,
            object=const("response"),
            created_at=_COUNT,
            status={"type": "string", "enum": ["completed", "incomplete"]},
            model=_STRING,
            output=listed(of(id=_STRING, type=_STRING, status=_STRING)),
            usage=of(input_tokens=_COUNT, output_tokens=_COUNT, total_tokens=_COUNT),
            incomplete_details={"type": ["object", "null"]},
        ),
        hearken=HEARKEN,
    ),
    "DeletedResponse": of(object=const("response"), id=_STRING, deleted={"type": "boolean"}),
    "Message": optional(
        of(
            id=_STRING,
            type=const("message"),
            role=const("assistant"),
            model=_STRING,
            content=listed(_KIND),
            stop_reason=_TEXT,
            stop_sequence=_TEXT,
            usage=of(input_tokens=_COUNT, output_tokens=_COUNT),
        ),
        hearken=HEARKEN,
    ),
    "MessageError": of(type=const("error"), error=of(type=_STRING, message=_STRING)),
    "TokenCount": of(input_tokens=_COUNT),
    "Tokens": of(
        count=_COUNT, max_model_len=_COUNT, tokens=listed(_COUNT), token_strs={"type": ["array", "null"]}
    ),
}


def door_paths(model_name: str) -> Json:
    """The paths of a service whose model has this name."""
    response_id = {"in": "path", "name": "response_id", "required": True, "schema": _STRING}
    response, message = named(RESPONSE, model_name), named(MESSAGE, model_name)
    return {
        "/v1/responses": {"post": post("createResponse", "A response", response, "Response", _STREAMED)},
        "/v1/responses/{response_id}": {
            "parameters": [response_id],
            "get": operation("getResponse", "A stored response", "Response", [404]),
            "delete": operation("deleteResponse", "Delete a stored response", "DeletedResponse", [404]),
        },
        "/v1/messages": {
            "post": post("createMessage", "A message", message, "Message", _STREAMED, "MessageError")
        },
        "/v1/messages/count_tokens": {
            "post": post(
                "countMessageTokens",
                "How many tokens a message's prompt has",
                named(COUNT, model_name),
                "TokenCount",
                error="MessageError",
            )
        },
        TOKENIZE_PATH: {
            "post": post(
                "tokenize", "The tokens of a prompt, or of a chat", named(TOKENIZE, model_name), "Tokens"
            )
        },
    }
