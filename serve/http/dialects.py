"""Errors as the clients of a route expect them: in its shape, and with the names that its fields have there.

What /v1/responses and /v1/messages take is translated into a chat, and some faults are found only then.
"""

import re
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from serve.http.bodies import json_response
from serve.http.errors import ApiError, BadRequest

Json = dict[str, Any]

RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"

_NAMES: dict[str, dict[str, str]] = {
    RESPONSES: {
        "messages": "input",
        "max_completion_tokens": "max_output_tokens",
        "max_tokens": "max_output_tokens",
        "response_format": "text.format",
        "reasoning_effort": "reasoning.effort",
        "logprobs": "include",
    },
    MESSAGES: {
        "max_completion_tokens": "max_tokens",
        "response_format": "output_config.format",
        "reasoning_effort": "output_config.effort",
        "stop": "stop_sequences",
        "user": "metadata.user_id",
    },
}
_FIRST = re.compile(r"[a-z_]+")
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}


class Foreign(BadRequest):
    """400: what no request to this route may have; the field is called what the client called it."""


def dialect_of(path: str) -> str | None:
    """The API whose errors a path has; None for OpenAI's chats and all that has their errors."""
    return next((api for api in _NAMES if path == api or path.startswith(api + "/")), None)


def error_at(path: str, error: ApiError) -> Response:
    """The HTTP answer for an error of a request to a path."""
    api = dialect_of(path)
    if api is not None and not isinstance(error, Foreign):
        _rename(error, _NAMES[api])
    if api == MESSAGES:
        return json_response(as_message_error(error), error.status, error.headers)
    return error_response(error)


def error_response(error: ApiError) -> Response:
    """The HTTP answer for an error."""
    return json_response(error.as_dict(), error.status, error.headers)


def as_message_error(error: ApiError) -> Json:
    """An error in the shape of Anthropic's Messages API, which is also what ends a stream there."""
    if error.status >= 500:
        kind = "overloaded_error" if error.code in ("overloaded", "queue_full") else "api_error"
    else:
        kind = _TYPES.get(error.status, "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}}


def _rename(error: ApiError, names: Mapping[str, str]) -> None:
    """Call the field at fault what the client calls it, in place: where it is named, and in the sentence."""
    first = _FIRST.match(error.param or "")
    if first is None or first[0] not in names:
        return
    new = names[first[0]]
    assert error.param is not None
    error.param = new + error.param[first.end() :]
    error.message = re.sub(rf"(?<![\w.]){first[0]}(?![\w])", new, error.message)
