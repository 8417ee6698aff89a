"""The kinds of votes: how each looks, and what is read from it.

To add one, add its word to `VoteKind` and a row to `FORMS`: it is taken and in the OpenAPI document then.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from feedback.rows.directions import HOW, direction_of
from serve.http.errors import BadRequest
from serve.schemas import fields
from serve.schemas.fields import MAX_ID_CHARS
from serve.schemas.words import NUMBER, list_of
from serve.votes.common import MAX_COMMENT_CHARS, PRINTABLE, closed, common_fields, text_of
from serve.votes.signals import SIGNALS, read_signal
from serve.votes.targets import AN_ANSWER, COMPLETION_ID, Place, Shape, all_targets, one_target, target_list

Json = dict[str, Any]

MAX_TEXT_CHARS = 100_000
MAX_RANKED = 16

_PREFERENCE = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}
_PREFERRED = frozenset(_PREFERENCE)
_DIRECTIONS = frozenset({"higher", "lower"})

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


class Form(NamedTuple):
    """How votes of a kind look. read: checks one and gives its targets, their places, and what is said.

    others: fields that are taken as well.
    """

    read: Callable[[Json], Read]
    shapes: list[Shape]
    others: frozenset[str] = frozenset({"targets"})

    def fields(self, kind: str) -> frozenset[str]:
        """Everything that a vote of the kind may have."""
        own = {name for shape in self.shapes for part in (shape.fields, *shape.about) for name in part}
        return self.others | own | {"kind", *common_fields(kind)}


_SPAN = list_of(NUMBER) | {"minItems": 2, "maxItems": 2, "description": "[lowest, highest]"}
_ANSWER: Json = {"anyOf": [COMPLETION_ID, *(closed([next(iter(way))], way) for way in AN_ANSWER)]}
DIRECTION: Json = {
    "enum": ["higher", "lower"],
    "description": "Which way is better. Needed unless the name tells, as latency (lower) and accuracy do.",
}

FORMS: dict[str, Form] = {
    "thumbs": Form(_thumbs, [Shape(["value"], {"value": {"enum": ["up", "down", True, False, 1, 0]}})]),
    "rating": Form(
        _rating,
        [
            Shape(
                ["value"],
                {"value": NUMBER | {"description": "On the scale, 1 to 5 by itself."}, "scale": _SPAN},
            )
        ],
    ),
    "comparison": Form(
        _comparison,
        [
            Shape(
                ["a", "b", "preferred"],
                {
                    "a": COMPLETION_ID,
                    "b": COMPLETION_ID,
                    "preferred": {"enum": list(_PREFERENCE)},
                    "presented": {"enum": [["a", "b"], ["b", "a"]]},
                },
                about=(),
            )
        ],
    ),
    "ranking": Form(
        _ranking,
        [
            Shape(
                ["groups"],
                {
                    "groups": list_of(list_of(_ANSWER, at_least=1), at_least=1)
                    | {"description": f"The best first, ties in one group; 2 to {MAX_RANKED} answers in all."}
                },
                about=(),
            )
        ],
        others=frozenset(),
    ),
    "correction": Form(_correction, [Shape(["text"], {"text": text_of(MAX_TEXT_CHARS)}, about=AN_ANSWER)]),
    "comment": Form(_comment, [Shape(["text"], {"text": text_of(MAX_COMMENT_CHARS)})]),
    "metric": Form(
        _metric,
        [
            Shape(
                ["name", "value"],
                {
                    "name": text_of(64, pattern=PRINTABLE),
                    "value": {"type": ["number", "boolean"]},
                    "range": _SPAN,
                    "direction": DIRECTION,
                },
            )
        ],
    ),
    "signal": Form(read_signal, SIGNALS),
}
"""Kind -> how its votes look: by this they are checked, and described in the OpenAPI document."""
