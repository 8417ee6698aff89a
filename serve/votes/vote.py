"""What a vote may look like: one JSON object, checked by hand and turned into the fields of its event.

pydantic's union takes 15 us for a thumb, this takes 3, and a batch has a thousand votes.
"""

from collections.abc import Callable
from typing import Any, get_args

import msgspec

from feedback.core.events import VoteKind
from feedback.rows.directions import HOW, direction_of
from serve.generation.requests import MAX_USER_CHARS
from serve.http.errors import BadRequest
from serve.http.idempotency import MAX_KEY_CHARS
from serve.schemas import fields
from serve.schemas.fields import MAX_ID_CHARS
from serve.votes.common import COMMON, MAX_COMMENT_CHARS, MAX_TOKEN_CHARS, Rules, read_common
from serve.votes.signals import read_signal
from serve.votes.targets import Place, all_targets, one_target, target_list

Json = dict[str, Any]

KINDS: tuple[VoteKind, ...] = get_args(VoteKind)
MAX_TEXT_CHARS = 100_000
MAX_RANKED = 16

_COMMON = frozenset({"kind", *COMMON})
_ONE = frozenset({"completion_id", "choice", "external_id", "targets"})
_WHOLE = _ONE | {"episode_id"}
_SERVERS = frozenset(
    [
        "policy_version",
        "version",
        "arm",
        "prompt_hash",
        "revision",
        "event_id",
        "id",
        "rater",
        "key_id",
        "tenant",
        "at",
        "label",
    ]
)
_PREFERENCE = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}
_PREFERRED = frozenset(_PREFERENCE)
_DIRECTIONS = frozenset({"higher", "lower"})
_NAMED = ("metric", "signal")


class Vote(msgspec.Struct):
    """A vote that passed the checks. `event` holds what goes into its event as the client said it."""

    kind: str
    identity: str  # the kind as part of the vote's id: a metric's and a signal's have their names
    places: list[Place]
    event: Json
    user: str | None
    key: str | None
    token: str | None
    dry_run: bool
    from_now_on: bool  # its comment is to be one of the user's preferences


def parse_vote(body: object, rules: Rules) -> Vote:
    """Check one vote. Raises BadRequest naming the field."""
    if type(body) is not dict:
        raise BadRequest("A vote must be a JSON object.", code="invalid_json")
    kind: Any = body.get("kind")
    reader = _READERS.get(kind) if type(kind) is str else None
    if reader is None:
        if kind is None:
            fields.missing("kind", f"send one of {', '.join(KINDS)}")
        raise BadRequest(f"kind must be one of {', '.join(KINDS)}, not {kind!r:.80}.", param="kind")
    read, allowed = reader
    if not body.keys() <= allowed:
        _refuse_unknown(body, kind, allowed)
    targets, places, said = read(body)
    event: Json = {"kind": kind, "targets": targets, "source": "end_user", "metadata": {}, **said}
    user = body.get("user")
    if user is not None:
        if type(user) is not str:
            fields.wrong_type("user", "a string")
        if len(user) > MAX_USER_CHARS:
            raise BadRequest(f"user is longer than {MAX_USER_CHARS} characters.", param="user")
    read_common(body, event, rules)
    return Vote(
        kind,
        f"{kind}:{said['name']}" if kind in _NAMED else kind,
        places,
        event,
        user or None,
        fields.string(body, "idempotency_key", MAX_KEY_CHARS),
        fields.string(body, "token", MAX_TOKEN_CHARS),
        fields.flag(body, "dry_run"),
        fields.flag(body, "from_now_on"),
    )


def _refuse_unknown(body: Json, kind: str, allowed: frozenset[str]) -> None:
    field = min(body.keys() - allowed)
    if field in _SERVERS:
        raise BadRequest(f"{field} is set by the server; leave it out.", param=field, code="unknown_field")
    raise BadRequest(
        f"{field:.80} is no field of a {kind} vote; it has {', '.join(sorted(allowed))}.",
        param=field[:80],
        code="unknown_field",
    )


# ---- the kinds

Read = tuple[list[Json], list[Place], Json]


def _thumbs(body: Json) -> Read:
    targets, places = one_target(body)
    value = body.get("value")
    if value is None:
        fields.missing("value", "send 'up' or 'down'")
    if value == "up" or value is True or (type(value) is int and value == 1):
        return targets, places, {"value": 1.0, "label": "up"}
    if value == "down" or value is False or (type(value) is int and value == 0):
        return targets, places, {"value": 0.0, "label": "down"}
    raise BadRequest(f"value must be 'up' or 'down', not {value!r:.80}.", param="value")


def _rating(body: Json) -> Read:
    targets, places = one_target(body)
    low, high = fields.span(body, "scale") or (1.0, 5.0)
    amount = fields.number(body, "value")
    if amount is None:
        fields.missing("value", f"send a number from {low:g} to {high:g}")
    if not low <= amount <= high:
        raise BadRequest(f"value must lie on the scale from {low:g} to {high:g}.", param="value")
    said = {"value": (amount - low) / (high - low), "label": "rated", "amount": amount, "scale": [low, high]}
    return targets, places, said


def _comparison(body: Json) -> Read:
    listed = body.get("targets")
    if listed is None:
        for side in ("a", "b"):
            if fields.string(body, side, MAX_ID_CHARS) is None:
                fields.missing(side)
        if body["a"] == body["b"]:
            raise BadRequest("a and b are the same answer; a comparison needs two.", param="b")
        places = [(body["a"], 0), (body["b"], 0)]
        targets: list[Json] = [{"completion_id": place[0], "choice": 0} for place in places]
    else:
        if body.get("a") is not None or body.get("b") is not None:
            raise BadRequest("Send either targets or a and b, not both.", param="targets")
        targets, places = target_list(listed, 2, 2, whole=False)
    preferred = fields.one_of(body, "preferred", _PREFERRED)
    if preferred is None:
        fields.missing("preferred", "send 'a', 'b', 'tie' or 'both_bad'")
    said: Json = {"value": _PREFERENCE[preferred], "label": preferred}
    presented = body.get("presented")
    if presented is not None:
        if presented not in (["a", "b"], ["b", "a"]):
            raise BadRequest(
                'presented must be ["a", "b"] or ["b", "a"], in the order shown.', param="presented"
            )
        said["presented"] = [0, 1] if presented[0] == "a" else [1, 0]
    return targets, places, said


def _ranking(body: Json) -> Read:
    groups = body.get("groups")
    if groups is None:
        fields.missing("groups", 'send the best first, like [["chatcmpl-1"], ["chatcmpl-2", "chatcmpl-3"]]')
    if type(groups) is not list or not all(type(group) is list and group for group in groups):
        fields.wrong_type("groups", "a list of lists of answers, none of them empty")
    flat = [item for group in groups for item in group]
    if not 2 <= len(flat) <= MAX_RANKED:
        raise BadRequest(f"A ranking has 2 to {MAX_RANKED} answers, not {len(flat)}.", param="groups")
    targets, places = all_targets(flat, "groups", whole=False)
    indices, start = [], 0
    for group in groups:
        indices.append(list(range(start, start + len(group))))
        start += len(group)
    return targets, places, {"value": 0.5, "label": "ranked", "groups": indices}


def _correction(body: Json) -> Read:
    targets, places = one_target(body, whole=False)
    text = fields.string(body, "text", MAX_TEXT_CHARS)
    if text is None:
        fields.missing("text", "send what the answer should have been")
    return targets, places, {"value": 0.5, "label": "corrected", "text": text}


def _comment(body: Json) -> Read:
    targets, places = one_target(body)
    text = fields.string(body, "text", MAX_COMMENT_CHARS)
    if text is None:
        fields.missing("text")
    return targets, places, {"value": 0.5, "label": "commented", "text": text}


def _metric(body: Json) -> Read:
    targets, places = one_target(body)
    name = fields.name(body, "name", 64)
    if name is None:
        fields.missing("name", "say which outcome was measured")
    value = body.get("value")
    amount = float(value) if type(value) is bool else fields.number(body, "value")
    if amount is None:
        fields.missing("value", "send a number")
    scale = fields.span(body, "range") or ((0.0, 1.0) if type(value) is bool else None)
    direction = fields.one_of(body, "direction", _DIRECTIONS) or direction_of(name)
    if direction is None:
        fields.missing("direction", f"the name {name!r} does not tell; {HOW}")
    said: Json = {"value": 0.5, "label": "measured", "name": name, "amount": amount, "direction": direction}
    if scale is not None:
        low, high = scale
        if not low <= amount <= high:
            raise BadRequest(f"value must lie in the range from {low:g} to {high:g}.", param="value")
        share = (amount - low) / (high - low)
        said |= {"value": share if direction == "higher" else 1.0 - share, "scale": [low, high]}
    return targets, places, said


_Reader = Callable[[Json], Read]
_READERS: dict[str, tuple[_Reader, frozenset[str]]] = {
    "thumbs": (_thumbs, _COMMON | _WHOLE | {"value"}),
    "rating": (_rating, _COMMON | _WHOLE | {"value", "scale"}),
    "comparison": (_comparison, _COMMON | {"a", "b", "targets", "preferred", "presented"}),
    "ranking": (_ranking, _COMMON | {"groups"}),
    "correction": (_correction, _COMMON | _ONE | {"text"}),
    "comment": (_comment, (_COMMON | _WHOLE | {"text"}) - {"comment"}),
    "metric": (_metric, _COMMON | _WHOLE | {"name", "value", "range", "direction"}),
    "signal": (read_signal, _COMMON | _WHOLE | {"name", "value", "shown", "regeneration_of", "kept"}),
}
