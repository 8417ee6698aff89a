"""Every error that a client can see, in OpenAI's shape: {"error": {message, type, param, code}}."""

import math
import re
from collections.abc import Collection
from typing import Any

import orjson

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


class Unauthorized(BadRequest):
    """401: no API key, or one that is not, or no longer, in force."""

    status = 401

    @property
    def headers(self) -> dict[str, str]:
        return {"www-authenticate": "Bearer"}


class Forbidden(BadRequest):
    """403: the key is in force, but does not have the scope."""

    status = 403


class NotFound(BadRequest):
    """404: no such model, completion or route."""

    status = 404


class MethodNotAllowed(BadRequest):
    """405."""

    status = 405


class TooSlow(BadRequest):
    """408: the request did not come to its end in time."""

    status = 408


class BodyTooLarge(BadRequest):
    """413."""

    status = 413


class UnsupportedMediaType(BadRequest):
    """415: the body's content type is none that is understood."""

    status = 415


class Misdirected(BadRequest):
    """421: the Host header names a host that this service is not."""

    status = 421


class HeadersTooLarge(BadRequest):
    """431."""

    status = 431


class StillRunning(BadRequest):
    """409: the same request is being answered at this moment."""

    status = 409

    @property
    def headers(self) -> dict[str, str]:
        return {"retry-after": str(RETRY_AFTER_SECONDS)}


class Conflict(BadRequest):
    """409: the request means two things, and must say which."""

    status = 409


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


class TooManyRequests(ApiError):
    """429 with Retry-After: a limit is used up. `kind` is what there were too many of, requests or tokens."""

    status = 429

    def __init__(self, message: str, kind: str, wait_seconds: float) -> None:
        super().__init__(message, code="rate_limit_exceeded")
        self.type = kind
        self.wait_seconds = wait_seconds

    @property
    def headers(self) -> dict[str, str]:
        milliseconds = max(1, math.ceil(self.wait_seconds * 1000))
        # Whole seconds for everyone, and milliseconds for OpenAI's clients, which look for them first.
        return {"retry-after": str(math.ceil(milliseconds / 1000)), "retry-after-ms": str(milliseconds)}


class ClientGone(ApiError):
    """The client closed the connection; nobody reads this answer (499 is what proxies log for it)."""

    status = 499

    def __init__(self) -> None:
        super().__init__("The client closed the connection.", code="client_closed_request")


def engine_unavailable() -> Unavailable:
    """What a client hears while the model cannot be reached. Says nothing of arms and versions."""
    return Unavailable(
        "The model is not available at the moment. Try again shortly.", code="engine_unavailable"
    )


def overloaded() -> Unavailable:
    """What a client hears whose request waited in the queue for as long as any may."""
    return Unavailable("The service is busy: no place came free in time. Try again.", code="overloaded")


def queue_full() -> Unavailable:
    """What a client hears for whose request there is no room even to wait."""
    return Unavailable("Too many requests are waiting already. Try again shortly.", code="queue_full")


def from_upstream(
    status: int,
    body: bytes,
    version: str,
    public_name: str,
    sent: Collection[str] = (),
    prompt: str = "messages",
) -> ApiError:
    """What a client hears when vLLM refused a request with `status` and `body`.

    vLLM's codes are numbers and its validation messages are dumps; clients get words and one sentence,
    and never the policy version, which the message may name. `sent`: the fields of the client's request,
    `prompt` the one that may be too long.
    """
    if status == 404 or status >= 500 or status in (401, 403, 408, 429):
        return engine_unavailable()  # a missing adapter (404) is loaded again by the release controller
    message, param = said_by_engine(body)
    message = message.replace(version, public_name)
    if "context length" in message:
        return BadRequest(message, param=prompt, code="context_length_exceeded")
    return BadRequest(message, param=_blamed(message, param, sent, prompt), code="invalid_value")


# What a message without a parameter is about, and the fields that may have asked for it.
_ABOUT = (
    (
        re.compile("grammar|JSON schema|structured output|Choice '"),
        ("structured_outputs", "response_format", "tools"),
    ),
    (re.compile("multimodal|content part|Token id"), ("messages", "prompt")),
)


def _blamed(message: str, param: str | None, sent: Collection[str], prompt: str) -> str | None:
    """The client's own field that a refusal is about, if that can be told.

    vLLM has one name for both limits of length, calls a part of a message "type", and often names nothing,
    but begins its sentence with the field.
    """
    field = (param or message).partition(".")[0].partition("[")[0].partition(" ")[0].partition("=")[0]
    if field == "max_tokens" and "max_completion_tokens" in sent:
        return "max_completion_tokens"
    if field in sent:
        return param or field
    fields = next((fields for words, fields in _ABOUT if words.search(message)), ())
    return next((name for name in fields if name in sent), prompt if param == "type" else param)


# vLLM shows pydantic's errors in two ways: as a list of dicts, and as pydantic's own text.
# and adds what its own parameter was, which is not always the client's.
_SUFFIX = re.compile(r" \(parameter=[^()]*\)$")
_VALIDATION_MESSAGE = re.compile(r"""'msg': (?:'([^']*)'|"([^"]*)")|\n +([^\n]+) \[type=""")


def said_by_engine(body: bytes) -> tuple[str, str | None]:
    """The message and the parameter of a vLLM error body."""
    try:
        error = orjson.loads(body)["error"]
        message, param = str(error["message"]), error.get("param")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return "The model server refused the request.", None
    if isinstance(param, str):
        param = param.removeprefix("body.")
    message = _SUFFIX.sub("", message)
    found = _VALIDATION_MESSAGE.search(message)
    if found is not None:
        reason = (found[1] or found[2] or found[3]).removeprefix("Value error, ")
        message = f"{param}: {reason}" if param else reason
    return message, param if isinstance(param, str) else None
