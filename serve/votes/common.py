"""The fields that votes of every kind may have: one table, by which they are checked, logged and described.

To add one, add a row here: it is taken, in the OpenAPI document, and in the vote's event in the log then. Who
reads it from there declares it in `feedback.core.events.Feedback`, and among `WORDS_OF_VOTES` if it holds
people's words: those are sealed. Learner and release see it once `feedback.joining.labels.Label` has it too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

from feedback.core.events import Source
from serve.generation.request_schemas import (
    MAX_NAME_CHARS,
    MAX_PAIRS,
    MAX_USER_CHARS,
    MAX_VALUE_CHARS,
    METADATA,
)
from serve.http.errors import BadRequest
from serve.http.idempotency import MAX_KEY_CHARS
from serve.schemas import fields
from serve.schemas.words import NULL

Json = dict[str, Any]

SOURCES: frozenset[Source] = frozenset(get_args(Source))
REASONS = (
    "incorrect",
    "incomplete",
    "irrelevant",
    "instructions_not_followed",
    "unsafe",
    "too_long",
    "too_short",
    "style",
    "refused",
    "formatting",
    "helpful",
    "accurate",
    "other",
)
"""The reasons that a vote may give unless the service was told others. Which of them speak of safety or of
truth stands in `learner/votes/objectives.py`; the others are kept with the vote."""

PRAISE = frozenset({"helpful", "accurate"})
"""The reasons that speak well of an answer: nobody is offered them after a thumb down."""

MAX_COMMENT_CHARS = 10_000
MAX_TOKEN_CHARS = 4096
FUTURE_SECONDS = 300.0  # how far a client's clock may be ahead
PAST_SECONDS = 90 * 24 * 3600.0
PRINTABLE = r"^[^\u0000-\u001f\u007f]+$"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a vote is checked against: the server's time, the reasons that it knows, the sender's sources."""

    now: float
    reasons: frozenset[str]
    sources: frozenset[Source]


class Field(NamedTuple):
    """A field of a vote. schema: what may be sent, as JSON Schema.

    read(body, name, rules): what is logged of it, None for nothing; raises BadRequest naming the field. A
    field without it is about the request (who sends it, and how), and `serve.votes.vote` reads it.
    """

    schema: Json
    read: Callable[[Json, str, Rules], Any] | None = None


def text_of(most: int, **more: Any) -> Json:
    """The schema of a text."""
    return {"type": "string", "minLength": 1, "maxLength": most, **more}


def closed(required: list[str], properties: Json) -> Json:
    """The schema of an object of these fields only; what may be left out may be null, as many send it."""
    return {
        "type": "object",
        "required": required,
        "properties": {
            name: schema if name in required or schema is NULL else {"anyOf": [schema, NULL]}
            for name, schema in properties.items()
        },
        "additionalProperties": False,
    }


def _words(of: Json) -> Json:
    return {"type": "array", "items": of, "maxItems": 16}


def _source(body: Json, name: str, rules: Rules) -> str:
    source = fields.one_of(body, name, SOURCES) or "end_user"
    if source not in rules.sources:
        raise BadRequest(
            f"source {source!r} may not be claimed here; allowed: {', '.join(sorted(rules.sources))}.",
            param=name,
            code="source_not_allowed",
        )
    return source


def _weight(body: Json, name: str, rules: Rules) -> float | None:
    weight = fields.number(body, name)
    if weight is not None and not 0 < weight <= 1:
        raise BadRequest(f"{name} must be above 0 and at most 1.", param=name)
    return weight


def _moment(body: Json, name: str, rules: Rules) -> float | None:
    moment = fields.moment(body, name)
    if moment is not None and not rules.now - PAST_SECONDS <= moment <= rules.now + FUTURE_SECONDS:
        raise BadRequest(
            f"{name} must lie within the last 90 days of the server's clock, "
            "and at most 5 minutes ahead of it.",
            param=name,
        )
    return moment


def _reasons(body: Json, name: str, rules: Rules) -> list[str]:
    known = rules.reasons

    def complaint(word: str) -> str | None:
        return None if word in known else f"must be one of {', '.join(sorted(known))}, not {word!r:.80}"

    return fields.words(body, name, 16, complaint)


def _tag_complaint(tag: str) -> str | None:
    return None if 0 < len(tag) <= 64 and tag.isprintable() else "must have 1 to 64 printable characters"


COMMON: dict[str, Field] = {
    "user": Field(
        {"type": "string", "maxLength": MAX_USER_CHARS, "description": "Who votes, by your name for them."}
    ),
    "metadata": Field(
        METADATA,
        lambda body, name, rules: fields.pairs(body, name, MAX_PAIRS, MAX_NAME_CHARS, MAX_VALUE_CHARS),
    ),
    "source": Field({"type": "string", "enum": sorted(SOURCES)}, _source),
    "weight": Field({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, _weight),
    "occurred_at": Field(
        {
            "type": ["number", "string"],
            "description": "Unix seconds, or ISO 8601 with its offset: at most 90 days ago, 5 minutes ahead.",
        },
        _moment,
    ),
    "comment": Field(
        text_of(MAX_COMMENT_CHARS),
        lambda body, name, rules: fields.string(body, name, MAX_COMMENT_CHARS),
    ),
    "tags": Field(
        _words(text_of(64, pattern=PRINTABLE)),
        lambda body, name, rules: fields.words(body, name, 16, _tag_complaint),
    ),
    "reasons": Field(_words({"type": "string", "enum": list(REASONS)}), _reasons),
    "dry_run": Field({"type": "boolean"}),
    "from_now_on": Field(
        {"type": "boolean", "description": "The comment is one of the user's preferences, too."}
    ),
    "idempotency_key": Field(text_of(MAX_KEY_CHARS)),
    "token": Field(text_of(MAX_TOKEN_CHARS, description="A feedback token, in place of a key.")),
}
"""Name -> the field. Checked in this order."""


def common_fields(kind: str) -> dict[str, Field]:
    """Those that a vote of a kind may have: a comment by itself has no comment beside it."""
    return {name: field for name, field in COMMON.items() if (kind, name) != ("comment", "comment")}


_LOGGED = [(name, field.read) for name, field in COMMON.items() if field.read is not None]


def read_common(body: Json, event: Json, rules: Rules) -> None:
    """Check a vote's common fields and put into its event what is logged of them. Raises BadRequest."""
    for name, read in _LOGGED:
        if name in body and (said := read(body, name, rules)) is not None:
            event[name] = said
    if "source" not in body and "end_user" not in rules.sources:
        fields.missing("source", f"this key may send {', '.join(sorted(rules.sources))}")
