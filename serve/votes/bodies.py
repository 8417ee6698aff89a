"""How votes come in a request's body: one JSON object, a JSON array of them, or one on each line.

Thumbs are by far the most common votes, and are read at a third of the time that other votes take. A thumb
of the usual fields is decoded from its bytes into a struct that is checked on the way. Whatever does not fit
the struct is for `serve.votes.vote`, which says what is wrong or finds that nothing is: so a struct may be
stricter than the checks there, and must never be laxer.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
import orjson
from msgspec import UNSET, Meta, UnsetType

from feedback.core.events import Source
from serve.generation.request_schemas import MAX_NAME_CHARS, MAX_PAIRS, MAX_USER_CHARS, MAX_VALUE_CHARS
from serve.http.bodies import JSON_LINES, is_json, unsupported
from serve.http.errors import BadRequest, BodyTooLarge, UnsupportedMediaType
from serve.http.idempotency import MAX_KEY_CHARS
from serve.votes.common import MAX_COMMENT_CHARS, MAX_TOKEN_CHARS, Rules
from serve.votes.targets import MAX_CHOICE
from serve.votes.vote import Vote, parse_vote

MAX_ITEMS = 1000
"""Votes of one batch."""
PLAIN = "text/plain"
"""What a browser may send to another origin without asking first."""

_Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
_Value = Annotated[str, Meta(max_length=MAX_VALUE_CHARS)]
_SAID = {"up": (1.0, "up"), "down": (0.0, "down"), True: (1.0, "up"), False: (0.0, "down")}


class Thumb(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A vote of the kind `thumbs` on one answer, as it was sent."""

    kind: Literal["thumbs"]
    completion_id: Annotated[str, Meta(min_length=1)]
    value: Literal["up", "down"] | bool
    choice: Annotated[int, Meta(ge=0, le=MAX_CHOICE)] | UnsetType | None = UNSET
    user: Annotated[str, Meta(max_length=MAX_USER_CHARS)] | UnsetType | None = UNSET
    source: Source | UnsetType | None = UNSET
    metadata: Annotated[dict[_Name, _Value], Meta(max_length=MAX_PAIRS)] | UnsetType | None = UNSET
    comment: Annotated[str, Meta(min_length=1, max_length=MAX_COMMENT_CHARS)] | UnsetType | None = UNSET
    idempotency_key: Annotated[str, Meta(min_length=1, max_length=MAX_KEY_CHARS)] | UnsetType | None = UNSET
    token: Annotated[str, Meta(min_length=1, max_length=MAX_TOKEN_CHARS)] | UnsetType | None = UNSET
    dry_run: bool | UnsetType | None = UNSET


_one = msgspec.json.Decoder(Thumb)
_several = msgspec.json.Decoder(list[Thumb])
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)  # the second: a string that is not UTF-8


def thumb_of(raw: bytes) -> Thumb | None:
    """The thumb in a vote's body, None for every other body."""
    try:
        return _one.decode(raw)
    except _UNREADABLE:
        return None


def thumbs_of(raw: bytes) -> list[Thumb] | None:
    """The thumbs in the array of a batch, None for one that holds anything else."""
    try:
        return _several.decode(raw)
    except _UNREADABLE:
        return None


# ---- a body


def is_batch(raw: bytes, kind: str) -> bool:
    """Whether a body holds several votes. kind: its media type.

    Raises UnsupportedMediaType for what is not JSON.
    """
    if kind in JSON_LINES:
        return True
    if kind != PLAIN and not is_json(kind):
        raise no_votes(kind)
    return raw.lstrip()[:1] == b"["


def no_votes(kind: str) -> UnsupportedMediaType:
    """The refusal of a body of a media type in which no votes come."""
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


# ---- one of its votes


def as_json(item: Any) -> Any:
    """A vote as `orjson.loads` gives it, whether it is a thumb by now or not."""
    return msgspec.to_builtins(item) if type(item) is Thumb else item


def read_vote(item: Any, rules: Rules) -> Vote:
    """Check one vote, a thumb or any JSON. Raises as `parse_vote`."""
    if type(item) is Thumb:
        vote = _vote(item, rules)
        if vote is not None:
            return vote
    return parse_vote(as_json(item), rules)


def _vote(thumb: Thumb, rules: Rules) -> Vote | None:
    """What `parse_vote` makes of a thumb, None where it raises."""
    source = thumb.source or "end_user"
    if source not in rules.sources:
        return None
    completion_id, choice = thumb.completion_id, thumb.choice or 0
    value, label = _SAID[thumb.value]
    event = {
        "kind": "thumbs",
        "targets": [{"completion_id": completion_id, "choice": choice}],
        "source": source,
        "metadata": thumb.metadata or {},
        "value": value,
        "label": label,
    }
    if thumb.comment:
        event["comment"] = thumb.comment
    places = [(completion_id, choice)]
    user, key, token = thumb.user or None, thumb.idempotency_key or None, thumb.token or None
    return Vote("thumbs", "thumbs", places, event, user, key, token, bool(thumb.dry_run), from_now_on=False)
