"""Every error that a client can see, in OpenAI's shape: {"error": {message, type, param, code}}."""

import re
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Response

RETRY_AFTER_SECONDS = 1


class ApiError(Exception):
    """An answer that is not a 2xx. `code` is a stable word for programs, `message` a sentence for people."""

    status = 500
    type = "server_error"

    def __init__(self, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param

    @property
    def headers(self) -> dict[str, str]:
        return {}

    def as_dict(self) -> dict[str, Any]:
        """The JSON body, which is also what a stream carries when it fails half-way."""
        fields = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": fields}


class BadRequest(ApiError):
    """400: the request cannot be served as it is; `param` names the field at fault."""

    status = 400
    type = "invalid_request_error"

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message, code=code, param=param)


class NotFound(BadRequest):
    """404: no such model, completion or route."""

    status = 404


class MethodNotAllowed(BadRequest):
    """405."""

    status = 405


class BodyTooLarge(BadRequest):
    """413."""

    status = 413


class IdempotencyConflict(BadRequest):
    """422: an Idempotency-Key was used again with another body."""

    status = 422


class Unavailable(ApiError):
    """503 with Retry-After: nothing is wrong with the request, it can be sent again."""

    status = 503
    type = "service_unavailable"

    @property
    def headers(self) -> dict[str, str]:
        return {"retry-after": str(RETRY_AFTER_SECONDS)}


class ClientGone(ApiError):
    """The client closed the connection; nobody reads this answer (499 is what proxies log for it)."""

    status = 499

    def __init__(self) -> None:
        super().__init__("The client closed the connection.", code="client_closed_request")


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def error_response(error: ApiError) -> Response:
    """The HTTP answer for an error."""
    return json_response(error.as_dict(), error.status, error.headers)


def engine_unavailable() -> Unavailable:
    """What a client hears while the model cannot be reached. Says nothing of arms and versions."""
    return Unavailable(
        "The model is not available at the moment. Try again shortly.", code="engine_unavailable"
    )


def from_upstream(status: int, body: bytes, version: str, public_name: str) -> ApiError:
    """What a client hears when vLLM refused a request with `status` and `body`.

    vLLM's codes are numbers and its validation messages are dumps; clients get words and one sentence,
    and never the policy version, which the message may name.
    """
    if status == 404 or status >= 500 or status in (401, 403, 408, 429):
        return engine_unavailable()  # a missing adapter (404) is loaded again by the release controller
    message, param = _said(body)
    message = message.replace(version, public_name)
    if "context length" in message:
        return BadRequest(message, param="messages", code="context_length_exceeded")
    return BadRequest(message, param=param, code="invalid_value")


# vLLM shows pydantic's errors in two ways: as a list of dicts, and as pydantic's own text.
_VALIDATION_MESSAGE = re.compile(r"""'msg': (?:'([^']*)'|"([^"]*)")|\n +([^\n]+) \[type=""")


def _said(body: bytes) -> tuple[str, str | None]:
    """The message and the parameter of a vLLM error body."""
    try:
        error = orjson.loads(body)["error"]
        message, param = str(error["message"]), error.get("param")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return "The model server refused the request.", None
    if isinstance(param, str):
        param = param.removeprefix("body.")
    found = _VALIDATION_MESSAGE.search(message)
    if found is not None:
        reason = (found[1] or found[2] or found[3]).removeprefix("Value error, ")
        message = f"{param}: {reason}" if param else reason
    return message, param if isinstance(param, str) else None
