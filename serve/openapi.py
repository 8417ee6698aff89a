"""GET /openapi.json: the API as an OpenAPI 3.1 document.

Requests are checked against the schemas that are shown here (serve/schema.py), votes and queries excepted.
"""

from typing import Any

from serve.feedback_openapi import FEEDBACK_PATHS, FEEDBACK_SCHEMAS
from serve.import_openapi import IMPORT_PATHS, IMPORT_SCHEMAS
from serve.releases_openapi import RELEASE_PATHS, RELEASE_SCHEMAS
from serve.request_schemas import CHAT, LIST_QUERY, METADATA_CHANGE, TEXT
from serve.response_schemas import RESPONSES, ref

Json = dict[str, Any]

_WORDS = {
    400: "The request is wrong; `param` names the field.",
    401: "No API key, or one that is not in force.",
    403: "The key does not have the scope that is needed.",
    404: "There is no such thing.",
    409: "It is the name of one user and the pseudonym of another; `by` says which is meant.",
    413: "The body is too large.",
    415: "The body does not say that it is JSON.",
    421: "The Host header is no name of this service.",
    429: "A limit is used up; Retry-After says when it is not.",
    503: "Not at the moment; Retry-After says when to try again.",
}
_BY: Json = {
    "in": "query",
    "name": "by",
    "description": "What `user` is, where it could be both.",
    "schema": {"type": "string", "enum": ["name", "pseudonym"]},
}
_NAME: Json = {"type": "string", "minLength": 1}
_ALWAYS = (400, 401, 403, 413, 415, 421, 429, 503)


def document(model_name: str) -> Json:
    """The document of a service whose model has this name."""
    chat, text = _named(CHAT, model_name), _named(TEXT, model_name)
    stored = {"in": "path", "name": "completion_id", "required": True, "schema": {"type": "string"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "hearken",
            "version": "1",
            "description": "OpenAI's API for chats, and votes on the answers. Errors have OpenAI's shape.",
        },
        "paths": {
            "/v1/chat/completions": {
                "post": _post(
                    "createChatCompletion", "A chat completion", chat, "ChatCompletion", "ChatCompletionChunk"
                ),
                "get": _operation(
                    "listChatCompletions", "Stored completions", "StoredCompletionList", [400], _list_query()
                ),
            },
            "/v1/chat/completions/{completion_id}": {
                "parameters": [stored],
                "get": _operation("getChatCompletion", "A stored completion", "StoredCompletion", [404]),
                "post": _post(
                    "updateChatCompletion",
                    "Replace a stored completion's metadata",
                    METADATA_CHANGE,
                    "StoredCompletion",
                ),
                "delete": _operation(
                    "deleteChatCompletion", "Delete a stored completion", "DeletedCompletion", [404]
                ),
            },
            "/v1/chat/completions/{completion_id}/messages": {
                "parameters": [stored],
                "get": _operation(
                    "listChatCompletionMessages",
                    "The messages that a stored completion answers",
                    "StoredMessageList",
                    [400, 404],
                    _page_query(),
                ),
            },
            "/v1/completions": {
                "post": _post(
                    "createCompletion", "Text that goes on from a prompt", text, "Completion", "Completion"
                )
            },
            "/v1/comparisons": {
                "post": _post("createComparison", "Two answers to choose from", _whole(chat), "Comparison")
            },
            **FEEDBACK_PATHS,
            **IMPORT_PATHS,
            **RELEASE_PATHS,
            "/v1/models": {"get": _operation("listModels", "The one model", "ModelList", [])},
            "/v1/models/{model}": {
                "parameters": [
                    {"in": "path", "name": "model", "required": True, "schema": {"type": "string"}}
                ],
                "get": _operation("getModel", "A model", "Model", [404]),
            },
            "/v1/users/{user}": {
                "parameters": [stored | {"name": "user"}, _BY],
                "get": _operation("getUser", "What is kept of a user", "User", [404, 409]),
                "delete": _operation("eraseUser", "Forget a user", "Erased", [404, 409]),
            },
            "/v1/users": {
                "parameters": [{"in": "query", "name": "name", "required": True, "schema": _NAME}, _BY],
                "get": _operation("getNamedUser", "What is kept of a user", "User", [404, 409]),
                "delete": _operation("eraseNamedUser", "Forget a user", "Erased", [404, 409]),
            },
            "/livez": {"get": _health("Whether the process works")},
            "/readyz": {"get": _health("Whether an engine can serve everyone")},
        },
        "components": {
            "schemas": RESPONSES | FEEDBACK_SCHEMAS | IMPORT_SCHEMAS | RELEASE_SCHEMAS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _named(schema: Json, model_name: str) -> Json:
    """A request's schema, with the one name that `model` may have."""
    model = {"type": "string", "enum": [model_name]}
    return schema | {"properties": schema["properties"] | {"model": model}}


def _whole(schema: Json) -> Json:
    """The schema of a request for one answer that is not streamed and not stored."""
    never = {"type": ["boolean", "null"], "enum": [False, None]}
    one = {"type": ["integer", "null"], "enum": [1, None]}
    left_out = ("stream_options", "hearken")
    kept = {name: field for name, field in schema["properties"].items() if name not in left_out}
    return schema | {"properties": kept | {"stream": never, "store": never, "n": one}}


def _post(operation_id: str, summary: str, body: Json, answer: str, event: str | None = None) -> Json:
    content: Json = {"application/json": {"schema": ref(answer)}}
    description = "The answer."
    if event is not None:
        content["text/event-stream"] = {}
        description = (
            f"The answer; with `stream: true` server-sent events, each `data: ` and a {event}, the last "
            "one `data: [DONE]`, or an Error when the answer broke off. Lines that begin with : are comments."
        )
    return {
        "operationId": operation_id,
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": {"description": description, "content": content}, **_errors(404)},
    }


def _operation(
    operation_id: str, summary: str, answer: str, errors: list[int], parameters: list[Json] | None = None
) -> Json:
    made: Json = {
        "operationId": operation_id,
        "summary": summary,
        "responses": {"200": _json("The answer.", answer), **_errors(*errors)},
    }
    return made if parameters is None else made | {"parameters": parameters}


def _health(summary: str) -> Json:
    return {
        "summary": summary,
        "security": [],
        "responses": {"200": _json("Yes.", "Status"), "503": _json("No, and why.", "Status")},
    }


def _json(description: str, schema: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": ref(schema)}}}


def _errors(*more: int) -> Json:
    return {str(status): _json(_WORDS[status], "Error") for status in sorted({*_ALWAYS, *more})}


def _page_query() -> list[Json]:
    fields = LIST_QUERY["properties"]
    return [{"in": "query", "name": name, "schema": fields[name]} for name in ("limit", "order", "after")]


def _list_query() -> list[Json]:
    names = {"pattern": r"^[^\[\]]{1,64}$"}
    pairs = {"type": "object", "propertyNames": names, "additionalProperties": {"type": "string"}}
    return [
        *_page_query(),
        {"in": "query", "name": "model", "schema": LIST_QUERY["properties"]["model"]},
        {"in": "query", "name": "metadata", "style": "deepObject", "schema": pairs},
    ]
