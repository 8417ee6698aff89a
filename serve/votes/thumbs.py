"""Thumbs, by far the most common votes, read at a third of the time that other votes take.

A thumb of the usual fields is decoded from its bytes into a struct that is checked on the way. Whatever does
not fit the struct is for `serve.votes.vote`, which says what is wrong or finds that nothing is: so a struct
may be stricter than the checks there, and must never be laxer.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from feedback.core.events import Source
from serve.generation.requests import MAX_USER_CHARS
from serve.http.idempotency import MAX_KEY_CHARS
from serve.votes.common import MAX_COMMENT_CHARS, MAX_TOKEN_CHARS, Rules
from serve.votes.targets import MAX_CHOICE
from serve.votes.vote import Vote, parse_vote

_Name = Annotated[str, Meta(min_length=1, max_length=64)]
_Value = Annotated[str, Meta(max_length=512)]
_SAID = {"up": (1.0, "up"), "down": (0.0, "down"), True: (1.0, "up"), False: (0.0, "down")}


class Thumb(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A vote of the kind `thumbs` on one answer, as it was sent."""

    kind: Literal["thumbs"]
    completion_id: Annotated[str, Meta(min_length=1)]
    value: Literal["up", "down"] | bool
    choice: Annotated[int, Meta(ge=0, le=MAX_CHOICE)] | UnsetType | None = UNSET
    user: Annotated[str, Meta(max_length=MAX_USER_CHARS)] | UnsetType | None = UNSET
    source: Source | UnsetType | None = UNSET
    metadata: Annotated[dict[_Name, _Value], Meta(max_length=16)] | UnsetType | None = UNSET
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
