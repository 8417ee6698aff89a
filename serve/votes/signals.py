"""What somebody did with an answer, as a vote of the kind `signal`, checked field by field.

The event keeps what was said. What it means, and whether it means anything, the learner finds out.
"""

from typing import Any

from serve.http.errors import BadRequest
from serve.schemas import fields
from serve.schemas.fields import MAX_ID_CHARS
from serve.schemas.words import NULL
from serve.votes.common import PRINTABLE, text_of
from serve.votes.targets import COMPLETION_ID, FIELDS, Json, Place, Shape, Targets, one_target

REGENERATED = "regenerated"
"""The name of the signal that may link the answer that was generated anew with the one before it."""

_KEPT = {"new": 1.0, "old": 0.0}
_SIDES = frozenset(_KEPT)

_ALONE: Json = {
    "name": text_of(64, pattern=PRINTABLE, description="What happened, as copied, regenerated or dwell."),
    "regeneration_of": NULL,
    "kept": NULL,
}
SIGNALS = [
    Shape(
        ["name"],
        _ALONE
        | {
            "value": {
                "type": ["boolean", "number"],
                "description": "true (when absent) or false: whether it happened; or how much, as seconds.",
            },
            "shown": {"const": True},
        },
    ),
    Shape(
        ["name", "shown"],
        _ALONE
        | {
            "value": {"enum": [False, 0]},
            "shown": {"const": False, "description": "It was not shown: nothing follows from that."},
        },
    ),
    Shape(
        ["name", "completion_id", "regeneration_of"],
        {
            "name": {"const": REGENERATED},
            "completion_id": COMPLETION_ID,
            "regeneration_of": COMPLETION_ID
            | {"description": "The answer that completion_id's was to replace."},
            "kept": {"enum": ["new", "old"], "description": "Which of both the person went on with."},
            **dict.fromkeys((*FIELDS[1:], "value", "shown"), NULL),
        },
        about=(),
    ),
]
"""What was done with one answer or episode; that it was not shown; and two answers, one for the other."""


def read_signal(body: Json) -> tuple[list[Json], list[Place], Json]:
    """The targets of a signal, their places, and what is said. Raises BadRequest naming the field."""
    name = fields.name(body, "name", 64)
    if name is None:
        fields.missing("name", "say what happened, as 'copied' or 'regenerated'")
    if body.get("regeneration_of") is not None:
        targets, places = _both(body, name)
        return targets, places, _kept(body, name)
    if body.get("kept") is not None:
        raise BadRequest("kept is for a signal with regeneration_of, the answer before.", param="kept")
    targets, places = one_target(body)
    return targets, places, _happened(body, name)


def _happened(body: Json, name: str) -> Json:
    """What was done with one answer or episode, or not done; how much of it, where that is a number."""
    value: Any = body.get("value")
    shown = body.get("shown")
    if shown is not None and type(shown) is not bool:
        fields.wrong_type("shown", "true or false")
    amount = float(value) if type(value) is bool else fields.number(body, "value")
    if shown is False:
        if amount:
            raise BadRequest(
                "What was not shown cannot have led to anything: leave value out, or shown.", param="shown"
            )
        return {"value": 0.5, "label": "not_shown", "name": name, "shown": False}
    label = "yes" if value is None or value is True else "no" if value is False else "amount"
    amount = 1.0 if amount is None else amount
    return {"value": 0.5, "label": label, "name": name, "amount": amount, "shown": True}


def _both(body: Json, name: str) -> Targets:
    """The new answer and the one before it."""
    if name != REGENERATED:
        raise BadRequest(f"regeneration_of is for the signal {REGENERATED!r}.", param="regeneration_of")
    for field in ("targets", *FIELDS[1:], "value", "shown"):
        if body.get(field) is not None:
            raise BadRequest(
                f"With regeneration_of, the new answer is named by completion_id alone; leave {field} out.",
                param=field,
            )
    new = fields.string(body, "completion_id", MAX_ID_CHARS)
    if new is None:
        fields.missing("completion_id", "name the new answer")
    old = fields.string(body, "regeneration_of", MAX_ID_CHARS)
    if old is None or old == new:
        raise BadRequest(
            "regeneration_of must be another answer, the one before completion_id's.", param="regeneration_of"
        )
    places = [(new, 0), (old, 0)]
    return [{"completion_id": place[0], "choice": 0} for place in places], places


def _kept(body: Json, name: str) -> Json:
    """Which of the two the person went on with, where that is known."""
    kept = fields.one_of(body, "kept", _SIDES)
    if kept is None:
        return {"value": 0.5, "label": "regenerated", "name": name, "shown": True}
    return {"value": _KEPT[kept], "label": f"kept_{kept}", "name": name, "shown": True}
