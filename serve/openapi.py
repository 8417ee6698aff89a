"""GET /openapi.json: the API as an OpenAPI 3.1 document.

Requests are checked against the schemas that are shown here (serve/schemas/validator.py), votes and queries
excepted.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve.apis.openapi import DOOR_SCHEMAS, door_paths
from serve.generation.request_schemas import CHAT, LIST_QUERY, METADATA_CHANGE, TEXT
from serve.http.bodies import json_response
from serve.http.routes import READ, at
from serve.imports.openapi import IMPORT_PATHS, IMPORT_SCHEMAS
from serve.preferences.openapi import PREFERENCE_PATHS, PREFERENCE_SCHEMAS
from serve.releases.openapi import RELEASE_PATHS, RELEASE_SCHEMAS
from serve.schemas.openapi_words import answered, named, operation, parameter, post
from serve.schemas.responses import RESPONSES
from serve.schemas.words import FREE, STRING, word
from serve.votes.openapi import FEEDBACK_PATHS, FEEDBACK_SCHEMAS
from serve.webhooks.openapi import WEBHOOK_PATHS, WEBHOOK_SCHEMAS

Json = dict[str, Any]

_INFO = {
    "title": "hearken",
    "version": "1",
    "description": "OpenAI's and Anthropic's APIs for chats, and votes on the answers. Errors have OpenAI's "
    "shape, those of /v1/messages Anthropic's.",
}
_COMPONENTS: Json = {
    "schemas": RESPONSES
    | DOOR_SCHEMAS
    | FEEDBACK_SCHEMAS
    | IMPORT_SCHEMAS
    | RELEASE_SCHEMAS
    | WEBHOOK_SCHEMAS
    | PREFERENCE_SCHEMAS,
    "securitySchemes": {
        "key": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    },
}
_CHOOSING = "Two answers to choose from"
_SIDE_BY_SIDE = (
    "with `stream: true` server-sent events: the ids of both, then chunks of a chat, each with its `side`, "
    "that a side has `ended`, and `data: [DONE]`, or an Error."
)


def openapi_route(model_name: str) -> Route:
    """GET /openapi.json."""

    async def openapi(_: Request) -> Response:
        return json_response(document(model_name))

    return at("/openapi.json", openapi, *READ)


def document(model_name: str) -> Json:
    """The document of a service whose model has this name."""
    return {
        "openapi": "3.1.0",
        "info": _INFO,
        "paths": {
            **_answers(model_name),
            **_STORED,
            **door_paths(model_name),
            **FEEDBACK_PATHS,
            **WEBHOOK_PATHS,
            **IMPORT_PATHS,
            **RELEASE_PATHS,
            **PREFERENCE_PATHS,
            **_OTHERS,
        },
        "components": _COMPONENTS,
        "security": [{}, {"key": []}, {"header": []}],
    }


def _answers(model_name: str) -> Json:
    """Chats, texts and comparisons of a model."""
    chat, text = named(CHAT, model_name), named(TEXT, model_name)
    streamed = _streamed("ChatCompletionChunk")
    stored = operation(
        "listChatCompletions", "Stored completions", "StoredCompletionList", [400], _LIST_QUERY
    )
    return {
        "/v1/chat/completions": {
            "post": post("createChatCompletion", "A chat completion", chat, "ChatCompletion", streamed),
            "get": stored,
        },
        "/v1/completions": {
            "post": post(
                "createCompletion",
                "Text that goes on from a prompt",
                text,
                "Completion",
                _streamed("Completion"),
            )
        },
        "/v1/comparisons": {
            "post": post("createComparison", _CHOOSING, _of_one_side(chat), "Comparison", _SIDE_BY_SIDE)
        },
    }


def _streamed(event: str) -> str:
    return (
        f"with `stream: true` server-sent events, each `data: ` and a {event}, the last one `data: [DONE]`, "
        "or an Error when the answer broke off. Lines that begin with : are comments."
    )


def _of_one_side(schema: Json) -> Json:
    """The schema of a request for one answer that is not stored."""
    never = {"type": ["boolean", "null"], "enum": [False, None]}
    one = {"type": ["integer", "null"], "enum": [1, None]}
    left_out = ("stream_options", "hearken")
    kept = {name: field for name, field in schema["properties"].items() if name not in left_out}
    return schema | {"properties": kept | {"store": never, "n": one}}


_METADATA = FREE | {"propertyNames": {"pattern": r"^[^\[\]]{1,64}$"}, "additionalProperties": STRING}
_QUERY = LIST_QUERY["properties"]
_PAGE_QUERY = [parameter("query", name, _QUERY[name]) for name in ("limit", "order", "after")]
_LIST_QUERY = [
    *_PAGE_QUERY,
    parameter("query", "model", _QUERY["model"]),
    parameter("query", "metadata", _METADATA) | {"style": "deepObject"},
]
_ONE = "/v1/chat/completions/{completion_id}"
_ID = [parameter("path", "completion_id", STRING)]
_UPDATE = "Replace a stored completion's metadata"
_STORED: Json = {
    _ONE: {
        "parameters": _ID,
        "get": operation("getChatCompletion", "A stored completion", "StoredCompletion", [404]),
        "post": post("updateChatCompletion", _UPDATE, METADATA_CHANGE, "StoredCompletion"),
        "delete": operation("deleteChatCompletion", "Delete a stored completion", "DeletedCompletion", [404]),
    },
    f"{_ONE}/messages": {
        "parameters": _ID,
        "get": operation(
            "listChatCompletionMessages",
            "The messages that a stored completion answers",
            "StoredMessageList",
            [400, 404],
            _PAGE_QUERY,
        ),
    },
}


def _user(name: str, where: Json) -> Json:
    """What is done with a user, who is named somewhere. name: the end of the operations' names."""
    by = parameter("query", "by", word("name", "pseudonym"), "What `user` is, where it could be both.")
    return {
        "parameters": [where, by],
        "get": operation(f"get{name}", "What is kept of a user", "User", [404, 409]),
        "delete": operation(f"erase{name}", "Forget a user", "Erased", [404, 409]),
    }


def _health(summary: str) -> Json:
    return {
        "summary": summary,
        "security": [],
        "responses": {"200": answered("Yes.", "Status"), "503": answered("No, and why.", "Status")},
    }


_OTHERS: Json = {
    "/v1/models": {"get": operation("listModels", "The one model", "ModelList", [])},
    "/v1/models/{model}": {
        "parameters": [parameter("path", "model", STRING)],
        "get": operation("getModel", "A model", "Model", [404]),
    },
    "/v1/users/{user}": _user("User", parameter("path", "user", STRING)),
    "/v1/users": _user("NamedUser", parameter("query", "name", STRING | {"minLength": 1}, required=True)),
    "/livez": {"get": _health("Whether the process works")},
    "/readyz": {"get": _health("Whether an engine can serve everyone")},
}
