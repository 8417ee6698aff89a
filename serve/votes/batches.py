"""How votes come in a request's body: one JSON object, a JSON array of them, or one on each line."""

from collections.abc import Iterator
from typing import Any

import orjson

from serve.http.errors import BadRequest, BodyTooLarge, UnsupportedMediaType
from serve.http.media import JSON_LINES, is_json, unsupported
from serve.votes.thumbs import thumb_of, thumbs_of

MAX_ITEMS = 1000
_PLAIN = "text/plain"  # what a browser may send to another origin without asking first


def is_batch(raw: bytes, kind: str) -> bool:
    """Whether a body holds several votes. kind: its media type.

    Raises UnsupportedMediaType for what is not JSON.
    """
    if kind in JSON_LINES:
        return True
    if kind != _PLAIN and not is_json(kind):
        raise _unsupported(kind)
    return raw.lstrip()[:1] == b"["


def check_plain_text(kind: str, token: str | None) -> None:
    """Plain text is for a page that leaves (`navigator.sendBeacon`), and then each vote brings a token.

    Otherwise any web page could send votes in the name of whoever looks at it. Raises UnsupportedMediaType.
    """
    if kind == _PLAIN and token is None:
        raise _unsupported(kind)


def _unsupported(kind: str) -> UnsupportedMediaType:
    right = "send application/json, or application/x-ndjson for one vote on each line"
    return unsupported(kind, right)


def split(raw: bytes, kind: str) -> list[Any]:
    """The items of a batch: parsed ones of an array, or unparsed lines (bytes) without the empty ones.

    Where there is nothing else in an array, thumbs are `Thumb`s.

    Raises BadRequest when the body is no array or empty, BodyTooLarge for more than `MAX_ITEMS`.
    """
    if kind in JSON_LINES:
        items: list[Any] = [line for line in raw.split(b"\n") if line and not line.isspace()]
    else:
        items = thumbs_of(raw) or _array(raw)
    if not items:
        raise BadRequest("The batch is empty; send at least one vote.", code="empty_batch")
    if len(items) > MAX_ITEMS:
        raise BodyTooLarge(
            f"The batch has {len(items)} votes; at most {MAX_ITEMS} are taken at once.",
            code="batch_too_large",
        )
    return items


def _array(raw: bytes) -> list[Any]:
    try:
        items: list[Any] = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from error
    return items


def slices(items: list[Any], size: int) -> Iterator[list[Any]]:
    """`items` in pieces of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def parsed(item: Any) -> Any:
    """A line of NDJSON as a `Thumb` or as JSON; an item of an array is that already."""
    if type(item) is not bytes:
        return item
    try:
        return thumb_of(item) or orjson.loads(item)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"This line is not valid JSON: {error}.", code="invalid_json") from error
