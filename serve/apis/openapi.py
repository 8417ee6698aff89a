"""What /openapi.json says of the doors that are not OpenAI's chats: responses, messages and tokens."""

from typing import Any

from serve.apis.messages_schema import COUNT_TOKENS, MESSAGE
from serve.apis.responses_schema import RESPONSE
from serve.completions.tokenizing import PATH as TOKENIZE_PATH
from serve.completions.tokenizing import TOKENIZE
from serve.schemas.openapi_words import named, operation, parameter, post
from serve.schemas.responses import HEARKEN
from serve.schemas.words import COUNT, FLAG, FREE, STRING, TEXT, list_of, of, optional, or_null, word

Json = dict[str, Any]

_KIND = of(type=STRING)
_STREAMED = (
    "with `stream: true` server-sent events, each with its `type` as its name. Lines that begin with : are "
    "comments."
)

DOOR_SCHEMAS: Json = {
    "Response": optional(
        of(
            id=STRING,
            object=word("response"),
            created_at=COUNT,
            status=word("completed", "incomplete"),
            model=STRING,
            output=list_of(of(id=STRING, type=STRING, status=STRING)),
            usage=of(input_tokens=COUNT, output_tokens=COUNT, total_tokens=COUNT),
            incomplete_details=or_null(FREE),
        ),
        hearken=HEARKEN,
    ),
    "DeletedResponse": of(object=word("response"), id=STRING, deleted=FLAG),
    "Message": optional(
        of(
            id=STRING,
            type=word("message"),
            role=word("assistant"),
            model=STRING,
            content=list_of(_KIND),
            stop_reason=TEXT,
            stop_sequence=TEXT,
            usage=of(input_tokens=COUNT, output_tokens=COUNT),
        ),
        hearken=HEARKEN,
    ),
    "MessageError": of(type=word("error"), error=of(type=STRING, message=STRING)),
    "TokenCount": of(input_tokens=COUNT),
    "Tokens": of(
        count=COUNT, max_model_len=COUNT, tokens=list_of(COUNT), token_strs=or_null({"type": "array"})
    ),
}


def door_paths(model_name: str) -> Json:
    """The paths of a service whose model has this name."""
    response_id = parameter("path", "response_id", STRING)
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
                named(COUNT_TOKENS, model_name),
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
