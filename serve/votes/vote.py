"""What a vote may look like: one JSON object, checked by hand and turned into the fields of its event.

pydantic's union takes 15 us for a thumb, this takes 3, and a batch has a thousand votes.
"""

from typing import Any, get_args

import msgspec

from feedback.core.events import VoteKind
from serve.generation.requests import MAX_USER_CHARS
from serve.http.errors import BadRequest
from serve.http.idempotency import MAX_KEY_CHARS
from serve.schemas import fields
from serve.votes.common import MAX_TOKEN_CHARS, Rules, read_common
from serve.votes.kinds import FORMS
from serve.votes.targets import Place

Json = dict[str, Any]

KINDS: tuple[VoteKind, ...] = get_args(VoteKind)

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
_NAMED = ("metric", "signal")
_READERS = {kind: (form.read, form.fields(kind)) for kind, form in FORMS.items()}


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
