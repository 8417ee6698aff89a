"""The words that the OpenAPI document is written with."""

from collections.abc import Mapping
from typing import Any

from serve.schemas.words import ref, word

Json = dict[str, Any]

_WORDS = {
    400: "The request is wrong; `param` names the field.",
    401: "No API key, or one that is not in force.",
    403: "The key does not have the scope that is needed.",
    404: "There is no such thing.",
    409: "It is the name of one user and the pseudonym of another; `by` says which is meant. Or the user was "
    "erased while the request was under way.",
    413: "The body is too large.",
    415: "The body does not say that it is JSON.",
    421: "The Host header is no name of this service.",
    429: "A limit is used up; Retry-After says when it is not.",
    503: "Not at the moment; Retry-After says when to try again.",
}
_ALWAYS = (400, 401, 403, 413, 415, 421, 429, 503)


def named(schema: Json, model_name: str) -> Json:
    """A request's schema, with the one name that `model` may have."""
    return schema | {"properties": schema["properties"] | {"model": word(model_name)}}


def post(
    operation_id: str,
    summary: str,
    body: Json,
    answer: str,
    streamed: str | None = None,
    error: str = "Error",
) -> Json:
    """A POST of JSON. `streamed`: what is said of its stream, if any; `error`: the schema of its errors."""
    good = answered("The answer.", answer)
    if streamed is not None:
        good["description"] = f"The answer; {streamed}"
        good["content"]["text/event-stream"] = {}
    responses = {"200": good, **refused(404, error=error)}
    return with_body({"operationId": operation_id, "summary": summary, "responses": responses}, body)


def operation(
    operation_id: str, summary: str, answer: str, errors: list[int], parameters: list[Json] | None = None
) -> Json:
    """An operation without a body."""
    made: Json = {
        "operationId": operation_id,
        "summary": summary,
        "responses": {"200": answered("The answer.", answer), **refused(*errors)},
    }
    return made if parameters is None else made | {"parameters": parameters}


def with_body(operation: Json, body: Json) -> Json:
    """The operation, with a body of JSON."""
    return operation | {"requestBody": {"required": True, "content": {"application/json": {"schema": body}}}}


def parameter(where: str, name: str, schema: Json, description: str = "", required: bool = False) -> Json:
    """A parameter of a path, a query or a header; one of a path is always there."""
    found: Json = {"in": where, "name": name, "schema": schema}
    if required or where == "path":
        found["required"] = True
    return found | ({"description": description} if description else {})


def answered(description: str, schema: str) -> Json:
    """An answer of JSON."""
    return {"description": description, "content": {"application/json": {"schema": ref(schema)}}}


def refused(
    *more: int, words: Mapping[int, str] | None = None, but: tuple[int, ...] = (), error: str = "Error"
) -> Json:
    """The errors that every operation has, `but` these, and those that it has besides; `words` of its own."""
    texts = {status: _WORDS[status] for status in {*_ALWAYS, *more} - {*but}} | dict(words or {})
    return {str(status): answered(text, error) for status, text in sorted(texts.items())}
