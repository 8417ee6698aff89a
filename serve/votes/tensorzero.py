"""POST /feedback in the shape of TensorZero's API, for teams that send it already.

    {"metric_name": "resolved", "inference_id": "chatcmpl-..", "value": true, "tags": {"page": "help"}}

becomes a vote of ours: a comment, a correction (`demonstration`), or a metric of any other name. Whether more
of a metric is better, theirs say in a configuration that is not ours: a name that does not tell (see
`feedback.rows.directions`) needs the field `direction`, or the tag of that name, which their clients can
send.
"""

from typing import Any

from feedback.core.ids import PREFIXES
from serve.http.errors import BadRequest
from serve.schemas.fields import MAX_ID_CHARS

Json = dict[str, Any]

_ID: Json = {"type": ["string", "null"], "maxLength": MAX_ID_CHARS}

TENSORZERO: Json = {
    "type": "object",
    "required": ["metric_name", "value"],
    "additionalProperties": False,
    "properties": {
        "metric_name": {"type": "string", "minLength": 1, "maxLength": 64},
        "value": {"type": ["string", "number", "boolean"]},
        "inference_id": _ID,
        "episode_id": _ID,
        "tags": {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
        "dryrun": {"type": ["boolean", "null"]},
        "direction": {"enum": ["higher", "lower", None]},
    },
}
"""What the API's document says of a body."""

_TEXTS = {"comment": "comment", "demonstration": "correction"}


def translate(body: Json) -> Json:
    """The vote that a body means; what that lacks is refused by its own checks. Raises BadRequest."""
    unknown = body.keys() - TENSORZERO["properties"].keys()
    if unknown:
        field = min(unknown)
        raise BadRequest(f"{field:.80} is no field of this request.", param=field[:80], code="unknown_field")
    name: Any = body.get("metric_name")
    value: Any = body.get("value")
    if type(name) is not str or not name:
        raise BadRequest("metric_name must be a string, like 'resolved'.", param="metric_name")
    vote: Json = {**_about(body), "dry_run": body.get("dryrun")}
    if body.get("tags") is not None:
        vote["metadata"] = body["tags"]
    if vote["dry_run"] not in (None, True, False) or type(vote["dry_run"]) is int:
        raise BadRequest("dryrun must be true or false.", param="dryrun", code="invalid_type")
    kind = _TEXTS.get(name)
    if kind is None:
        if type(value) not in (bool, int, float):
            raise BadRequest(f"value of {name!r:.80} must be a number, true or false.", param="value")
        return {**vote, "kind": "metric", "name": name, "value": value, "direction": _direction(body)}
    if body.get("direction") is not None:
        raise BadRequest(f"A {name} has no direction.", param="direction")
    if type(value) is not str:
        raise BadRequest(f"value of a {name} must be a text.", param="value")
    return {**vote, "kind": kind, "text": value}


def _direction(body: Json) -> Any:
    tags = body.get("tags")
    tagged = tags.get("direction") if type(tags) is dict else None
    return body.get("direction") or tagged


def _about(body: Json) -> Json:
    """An inference is a completion of ours, or the team's own name for one; or the whole episode is meant."""
    inference, episode = body.get("inference_id"), body.get("episode_id")
    if (inference is None) == (episode is None):
        raise BadRequest("Send either inference_id or episode_id.", param="inference_id")
    if inference is None:
        return {"episode_id": episode}
    ours = isinstance(inference, str) and inference.startswith(PREFIXES)
    return {"completion_id" if ours else "external_id": inference}
