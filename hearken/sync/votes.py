"""What other services say about answers, as votes: their rows in, votes out, nothing guessed.

A row is known by its id there (`Given.item`), and its vote by the `slot` that it takes here: a rater's
thumb, or rating, on an answer. What says nothing that can be meant is a `Misfit`, whose words say what would
be right.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feedback.core.ids import MESSAGE_PREFIX, RESPONSE_PREFIX
from feedback.dialects import Options
from feedback.dialects.open_webui import REASONS
from feedback.rows import values
from feedback.rows.said import Misfit, Row

Vote = dict[str, Any]

MOST_COMMENT = 10_000
MOST_TAG, MOST_TAGS = 64, 16
_OURS = ("chatcmpl-", "cmpl-", RESPONSE_PREFIX, MESSAGE_PREFIX)
_SOURCES = {"EVAL": "model", "ANNOTATION": "annotator", "API": "end_user"}  # Langfuse's
_KINDS = {"model": "model", "auto_eval": "model", "app": "annotator", "api": "end_user"}  # LangSmith's


@dataclass(frozen=True, slots=True)
class Given:
    """One vote that was given elsewhere. at: when it was given (Unix seconds), which changes do not move."""

    item: str
    at: float
    vote: Vote

    @property
    def slot(self) -> str:
        """What the vote is, whatever it says: of two in one slot the newer one counts."""
        said = self.vote
        about = said.get("completion_id") or said["external_id"]
        return json.dumps([said["kind"], said["user"], about])

    @property
    def digest(self) -> str:
        """A sum of what the vote says."""
        said = {name: value for name, value in self.vote.items() if name != "occurred_at"}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


Read = Callable[[Row, Options], Given]
"""A row's vote. Raises Misfit."""


def open_webui(row: Row, options: Options) -> Given:
    """A thumb of Open WebUI, on the message that its filter named as `external_id`."""
    data, meta = values.object_of(row["data"]), values.object_of(row.get("meta") or {})
    if meta.get("arena"):
        raise Misfit(
            "it is a vote between models of Open WebUI's arena, and none on an answer of one service"
        )
    if not meta.get("message_id"):
        raise Misfit("it names no message ('meta.message_id')")
    rating = str(data.get("rating"))
    if rating not in ("1", "-1"):
        raise Misfit(f"'data.rating' is {data.get('rating')!r}; 1 and -1 are thumbs")
    reason = str(data.get("reason") or "")
    ours = REASONS.get(reason)
    tags = [*map(str, data.get("tags") or ()), *([reason] if reason and not ours else [])]
    vote = {
        "kind": "thumbs",
        "value": "up" if rating == "1" else "down",
        **_about(str(meta["message_id"])),
        "user": str(row["user_id"]),
        **({"reasons": [ours]} if ours else {}),
        **_words(data.get("comment"), tags),
    }
    return _given(row, row.get("created_at"), row.get("updated_at"), vote)


def langfuse(row: Row, options: Options) -> Given:
    """A score of Langfuse on the trace or observation that the chat named as `external_id`."""
    subject = row.get("subject") or {}
    if subject:
        if subject.get("kind") not in ("trace", "observation"):
            raise Misfit(f"it scores a {subject.get('kind')}, and no answer: only traces and observations do")
        about = subject["id"]
    else:
        about = row.get("observationId") or row.get("traceId")
        if not about:
            raise Misfit("it scores a session, and no answer: only traces and observations do")
    kind = str(row.get("dataType") or "NUMERIC").upper()
    value = row.get("value")
    if kind == "BOOLEAN":
        value = str(value).lower() in ("1", "1.0", "true")
    elif kind == "CATEGORICAL":
        value = row.get("stringValue") or value
    elif kind != "NUMERIC":
        raise Misfit(
            f"the score {row['name']!r} is a {kind.lower()}: numbers, booleans and categories are read"
        )
    author = row.get("authorUserId") or (row.get("trace") or {}).get("userId")
    vote = {
        **scored(value, str(row["name"]), options),
        **_about(str(about)),
        "user": str(author or f"langfuse-{about}"),
        "source": _SOURCES.get(str(row.get("source")), "end_user"),
        **_words(row.get("comment"), ()),
    }
    given = row.get("timestamp") or row.get("createdAt")
    return _given(row, given, row.get("updatedAt"), vote)


def langsmith(row: Row, options: Options) -> Given:
    """Feedback of LangSmith on the run that the chat named as `external_id`."""
    if not row.get("run_id"):
        raise Misfit("it has no 'run_id': feedback on a whole session is about no answer")
    value = row["score"] if row.get("score") is not None else row.get("value")
    if value is None:
        raise Misfit("'score' and 'value' are empty: there is no judgement in it")
    config = row.get("feedback_config") or (row.get("extra") or {}).get("feedback_config") or {}
    scale = None
    if config.get("min") is not None and config.get("max") is not None and config["min"] < config["max"]:
        scale = (float(config["min"]), float(config["max"]))
    source = row.get("feedback_source") or {}
    author = source.get("user_id") or source.get("ls_user_id")
    vote = {
        **scored(value, str(row["key"]), options, scale),
        **_about(str(row["run_id"])),
        "user": str(author or f"langsmith-{row['run_id']}"),
        "source": _KINDS.get(str(source.get("type")), "end_user"),
        **_words(row.get("comment"), ()),
    }
    return _given(row, row.get("created_at"), row.get("modified_at"), vote)


def scored(
    value: Any, name: str, options: Options, scale: tuple[float, float] | None = None
) -> dict[str, Any]:
    """A score by its name as the kind and the value of a vote. scale: the one that the row brings along.

    A number without a scale is no vote: 1 may be the best of 0 to 1, or the worst of five stars. Raises
    Misfit.
    """
    if values.is_thumb(value):
        judged = isinstance(value, bool) or str(value).strip().lower() in ("true", "false", "yes", "no")
        way = values.direction(name, options) if judged else "higher"
        return {"kind": "thumbs", "value": "up" if values.thumb(value, name, options, way) else "down"}
    scale = options.scale_of(name) or scale
    if scale is None:
        raise Misfit(
            f"the score {name!r} is a number, and nothing says what its best and its worst are: say its "
            f"scale, like --scale {name}=0:1"
        )
    place = values.share(value, name, options, scale, values.direction(name, options))
    return {"kind": "rating", "value": place, "scale": [0.0, 1.0]}


def _given(row: Row, given: Any, changed: Any, vote: Vote) -> Given:
    at = values.time_of(given)
    if at is None:
        raise Misfit("it does not say when it was given")
    return Given(str(row["id"]), at, {**vote, "occurred_at": values.time_of(changed) or at})


def _about(name: str) -> dict[str, str]:
    return {"completion_id" if name.startswith(_OURS) else "external_id": name}


def _words(comment: Any, tags: Sequence[str]) -> Mapping[str, Any]:
    """The comment and the tags, as far as a vote can have them."""
    kept = [tag for tag in dict.fromkeys(tags) if 0 < len(tag) <= MOST_TAG and tag.isprintable()][:MOST_TAGS]
    words: dict[str, Any] = {"tags": kept} if kept else {}
    if comment:
        words["comment"] = str(comment)[:MOST_COMMENT]
    return words
