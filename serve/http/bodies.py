"""Bodies of requests and of answers: their type, their bytes, and the JSON in them.

Requests are JSON and say so. A web page may send a form, plain text, or a body without a type to any address
without asking first. For JSON its browser asks whether the page's origin may (CORS).
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from serve.http.errors import BadRequest, BodyTooLarge, UnsupportedMediaType

JSON_LINES = frozenset(
    {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"}
)
_MAX_LEVELS = 100
"""Of a body; far more than chats need. What reads and writes JSON here and in vLLM ends at some 250."""
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
"""An escape in a JSON string: both halves of a character, one half by itself (the group), or another."""


def media_type(headers: Mapping[str, str]) -> str:
    """The type of a request's body, without its parameters; "" where it does not say any."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json(kind: str) -> bool:
    """Whether a body of this media type is JSON."""
    return kind in ("application/json", "text/json") or kind.endswith("+json")


def unsupported(kind: str, right: str) -> UnsupportedMediaType:
    """The refusal of a body of a media type, with what would be right."""
    said = f"The content type {kind[:80]!r} is not understood" if kind else "The body has no content type"
    return UnsupportedMediaType(f"{said}; {right}.", code="unsupported_media_type")


async def read_json(request: Request, limit: int) -> bytes:
    """A whole body that says that it is JSON. Raises UnsupportedMediaType, and as `read_body`."""
    kind = media_type(request.headers)
    if not is_json(kind):
        raise unsupported(kind, "send application/json")
    return await read_body(request, limit)


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body; raises BodyTooLarge as soon as it is known to exceed `limit` bytes."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
    return b"".join(parts)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request body exceeds {limit} bytes.", code="request_too_large")


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in a body; raises BadRequest for anything else."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        try:
            body = orjson.loads(_without_half_characters(raw))
        except orjson.JSONDecodeError:
            raise BadRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from error
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.", code="invalid_json")
    nested = raw.count(b"{") + raw.count(b"[") > _MAX_LEVELS  # else it cannot be deeper
    if nested and _is_deeper(body, _MAX_LEVELS):
        raise BadRequest(f"The body is nested more than {_MAX_LEVELS} levels deep.", code="invalid_json")
    return body


def _without_half_characters(raw: bytes) -> bytes:
    """JSON with U+FFFD in place of each half of a character: JavaScript cuts emojis in two."""
    return _ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], raw)


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether a JSON value has lists and objects inside each other more than so many levels deep."""
    level = [value]
    for _ in range(levels):
        inside: list[Any] = []
        for each in level:
            inside += each.values() if type(each) is dict else each
        level = [child for child in inside if type(child) is dict or type(child) is list]
        if not level:
            return False
    return True


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(content), status, headers, media_type="application/json")
