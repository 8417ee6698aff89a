"""What a vote is about: its targets, checked by hand and turned into those of its event; and the shapes of
votes, by what they are about."""

from typing import Any, NamedTuple

from feedback.core.events import EPISODE, EXTERNAL
from serve.http.errors import BadRequest
from serve.schemas import fields
from serve.schemas.fields import MAX_ID_CHARS
from serve.schemas.words import integer
from serve.votes.common import PRINTABLE, text_of

Json = dict[str, Any]
Place = tuple[str, int]
Targets = tuple[list[Json], list[Place]]

MAX_CHOICE = 1023
FIELDS = ("completion_id", "external_id", "episode_id", "choice")
"""The fields with which a vote about one thing names it, where it has no `targets`."""

_TARGET = frozenset(FIELDS)

COMPLETION_ID = text_of(MAX_ID_CHARS, description="The id of one of our completions.")
_NAME = text_of(
    MAX_ID_CHARS, pattern=PRINTABLE, description="An id of your own, from the request's metadata."
)
_CHOICE = integer(0, MAX_CHOICE)

AN_ANSWER: tuple[Json, ...] = (
    {"completion_id": COMPLETION_ID, "choice": _CHOICE},
    {"external_id": _NAME, "choice": _CHOICE},
)
"""The ways to name an answer, as JSON Schemas of fields of which the first has to be there."""
ANYTHING: tuple[Json, ...] = (*AN_ANSWER, {"episode_id": _NAME})
"""The ways to name an answer, or a whole episode."""


class Shape(NamedTuple):
    """A shape of a kind of vote. needed: fields that have to be there; fields: its own, as JSON Schemas, NULL
    for what has to be left out; about: the ways to name its target, none where its own fields do so."""

    needed: list[str]
    fields: Json
    about: tuple[Json, ...] = ANYTHING


def one_target(body: Json, whole: bool = True) -> Targets:
    """The one target of a vote: by a field of its own or by a list `targets` with one entry.

    whole: whether it may be an episode. Raises BadRequest naming the field.
    """
    listed = body.get("targets")
    if listed is None:
        # by far the most common: a completion id and nothing else
        completion_id = body.get("completion_id")
        others = "external_id" in body or "episode_id" in body
        if completion_id and type(completion_id) is str and not others:
            choice = _choice(body, "") if "choice" in body else 0
            return [{"completion_id": completion_id, "choice": choice}], [(completion_id, choice)]
        target, place = _target(body, "", whole)
        return [target], [place]
    for field in FIELDS:
        if body.get(field) is not None:
            raise BadRequest(f"Send either targets or {field}, not both.", param="targets")
    return target_list(listed, 1, 1, whole)


def target_list(listed: object, least: int, most: int, whole: bool) -> Targets:
    """The targets in a list `targets` of `least` to `most`. whole: see `one_target`."""
    if type(listed) is not list:
        fields.wrong_type("targets", "a list of objects")
    if not least <= len(listed) <= most:
        raise BadRequest(f"This kind of vote has {least} target(s).", param="targets")
    return all_targets(listed, "targets", whole)


def all_targets(listed: list[Any], field: str, whole: bool) -> Targets:
    """The targets in a list, which the body has as `field`; no two are the same. whole: see `one_target`."""
    targets, places = [], []
    for i, item in enumerate(listed):
        at = f"{field}[{i}]"
        if type(item) is str:
            item = {"completion_id": item}
        if type(item) is not dict:
            fields.wrong_type(at, "an object like {'completion_id': 'chatcmpl-..', 'choice': 0}")
        if not item.keys() <= _TARGET:
            unknown = min(item.keys() - _TARGET)
            raise BadRequest(
                f"{at} has no field {unknown!r:.80}.", param=f"{at}.{unknown[:80]}", code="unknown_field"
            )
        target, place = _target(item, at + ".", whole)
        if place in places:
            raise BadRequest(f"{at} names an answer that is there already.", param=at)
        targets.append(target)
        places.append(place)
    return targets, places


def _target(body: Json, at: str, whole: bool) -> tuple[Json, Place]:
    """A target from the fields of an object. `whole`: whether the vote may be about a whole episode."""
    completion_id = fields.name(body, "completion_id", MAX_ID_CHARS, at)
    external_id = fields.name(body, "external_id", MAX_ID_CHARS, at)
    episode_id = fields.name(body, "episode_id", MAX_ID_CHARS, at)
    if (completion_id is not None) + (external_id is not None) + (episode_id is not None) > 1:
        raise BadRequest(
            "Name one target: completion_id, external_id or episode_id.", param=at + "completion_id"
        )
    if episode_id is not None:
        if not whole:
            raise BadRequest(
                "This kind of vote is about answers, not about an episode.", param=at + "episode_id"
            )
        if body.get("choice") is not None:
            raise BadRequest("An episode has no choices.", param=at + "choice")
        return {"completion_id": "", "choice": 0, "episode_id": episode_id}, (EPISODE + episode_id, 0)
    choice = _choice(body, at)
    if external_id is not None:
        target = {"completion_id": "", "choice": choice, "external_id": external_id}
        return target, (EXTERNAL + external_id, choice)
    if completion_id is None:
        fields.missing(at + "completion_id", "name what the vote is about")
    return {"completion_id": completion_id, "choice": choice}, (completion_id, choice)


def _choice(body: Json, at: str) -> int:
    choice = body.get("choice")
    if choice is None:
        return 0
    if type(choice) is not int or not 0 <= choice <= MAX_CHOICE:
        raise BadRequest(f"{at}choice must be an integer from 0 to {MAX_CHOICE}.", param=at + "choice")
    return choice
