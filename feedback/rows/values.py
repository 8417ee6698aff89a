"""Cells as values: thumbs, numbers on their scales, times, lists."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from feedback.core.events import Direction
from feedback.rows.directions import direction_of, words
from feedback.rows.examples import Kind
from feedback.rows.said import Misfit, Options, Row

_UP = words("up thumbs_up thumbsup thumbs-up 👍 positive good great like liked upvote")
_DOWN = words("down thumbs_down thumbsdown thumbs-down 👎 negative bad dislike disliked downvote")
_TRUE, _FALSE = frozenset({"true", "yes"}), frozenset({"false", "no"})


def share(
    value: object,
    column: str,
    options: Options,
    known: tuple[float, float] | None = None,
    direction: Direction = "higher",
) -> float:
    """A number as its place on its scale, 1 the best. `known`: the scale that the layout says.

    Without a scale a 1 may be the best of 0..1 or the worst of five stars. The other numbers of the column
    tell: fractions are from 0 to 1. Raises Misfit where they do not.
    """
    number = number_of(value, column)
    scale = known or options.scale_of(column)
    if scale is None:
        found = options.numbers.note(column, number)
        if not options.numbers.complete:
            return 0.5
        if found.low < 0 or found.high > 1:
            raise Misfit(
                f"column {column!r} goes from {found.low:g} to {found.high:g}, and nothing says what "
                "its best "
                "and its worst are: say its scale, like --scale 1:5"
            )
        if not found.fractions:
            raise Misfit(
                f"column {column!r} has nothing but 0 and 1, which may be the ends of a scale or one "
                "end of a "
                "longer one: say its scale, like --scale 0:1 or --scale 1:5"
            )
        scale = (0.0, 1.0)
    low, high = scale
    if not low <= number <= high:
        raise Misfit(f"column {column!r} has {number:g}, which is not on its scale from {low:g} to {high:g}")
    place = (number - low) / (high - low)
    return place if direction == "higher" else 1.0 - place


def thumb(value: Any, column: str, options: Options, direction: Direction = "higher") -> float:
    """1 for a thumb up, 0 for one down. What is true or false is turned around where the column is better
    lower; what is good or bad is not. Raises Misfit."""
    word = _word(value)
    if word in _UP or word in _DOWN:
        return float(word in _UP)
    true = word in _TRUE if word in _TRUE | _FALSE else _signed(value, column, options)
    return float(true == (direction == "higher"))


def _word(value: Any) -> str:
    return str(value).strip().lower().replace(" ", "_")


def _signed(value: Any, column: str, options: Options) -> bool:
    """Whether a number means up: 1 and not 0 or -1, in a column that has no others."""
    remedy = f"say what it is, like --map {options.named(column)}=rating with --scale LOWEST:HIGHEST"
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise Misfit(
            f"column {column!r} has {value!r:.40}, which is neither true nor false (nor up, down, 1, "
            f"0); {remedy}"
        ) from None
    found = options.numbers.note(column, number)
    if number not in (-1.0, 0.0, 1.0) or found.low < -1 or found.high > 1 or found.fractions:
        raise Misfit(
            f"column {column!r} has {number:g} and goes from {found.low:g} to {found.high:g}, which "
            "is neither "
            f"true nor false; {remedy}"
        )
    if found.signed:
        raise Misfit(
            f"column {column!r} has -1, 0 and 1, so that nobody knows whether 0 is a thumb down; {remedy}"
        )
    return number == 1.0


def is_thumb(value: Any) -> bool:
    """Whether a cell says a thumb in a word, whatever the other rows say."""
    return _word(value) in _UP | _DOWN | _TRUE | _FALSE


def scored(value: Any, column: str, options: Options) -> tuple[Kind, float]:
    """A score by its name: a thumb where it is a word, a rating where it is a number. Raises Misfit."""
    if _word(value) in _UP | _DOWN:
        return "thumbs", thumb(value, column, options)
    if is_thumb(value):
        return "thumbs", thumb(value, column, options, direction(column, options))
    return "rating", share(value, column, options, direction=direction(column, options))


def note(value: Any, column: str, options: Options) -> None:
    """Keep a score's number for the range of its column, where the score itself is read later."""
    if not options.numbers.complete:
        with suppress(Misfit):
            scored(value, column, options)


def number_of(value: object, column: str) -> float:
    """A finite number. Raises Misfit."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise Misfit(
            f"column {column!r} has {value!r:.40}, which is no number; say what the column is, like "
            f"--map {column}=label, or leave it out with --map {column}=ignore"
        ) from None
    except OverflowError as error:
        raise Misfit(f"column {column!r} has a number that is too large: {error}") from error
    if not math.isfinite(number):
        raise Misfit(f"column {column!r} has {value!r}, which is not finite; leave such rows out")
    return number


def direction(name: str, options: Options, default: Direction | None = None) -> Direction:
    """Which way a score is better, by its name or by the one that --map took it from. Raises Misfit where
    nobody said."""
    before = options.named(name)
    if name in ("label", "rating"):
        default = "higher"  # as they are called whose name says nothing
    found = options.directions.get(before) or options.directions.get(name) or direction_of(before) or default
    if found is None:
        raise Misfit(
            f"the score {name!r} does not tell which way is better; say it with --direction "
            f"{name}=higher or --direction {name}=lower"
        )
    return found


def time_of(value: Any) -> float | None:
    """Unix seconds of a time in seconds, milliseconds, microseconds, nanoseconds or ISO 8601 (UTC)."""
    if value in (None, ""):
        return None
    if isinstance(value, datetime):  # of a Parquet file
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        moment = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(seconds):
        raise Misfit(f"the time {value!r} is not finite")
    for bound, unit in ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3)):
        if seconds > bound:
            return seconds / unit
    return seconds


def common(row: Row) -> dict[str, Any]:
    """What every layout may carry; our own exports do."""
    return {
        "rater": str(row["rater"]) if row.get("rater") not in (None, "") else None,
        "at": time_of(row.get("at")),
        "comment": str(row["comment"]) if row.get("comment") else None,
        "tags": tuple(str(tag) for tag in list_of(row.get("tags") or [])),
        "reasons": tuple(str(reason) for reason in list_of(row.get("reasons") or [])),
    }


def list_of(content: Any) -> list[Any]:
    """A list; a table's cell holds it as JSON, or as words with commas between them."""
    if isinstance(content, str):
        content = json.loads(content) if content.startswith("[") else content.split(",")
    if not isinstance(content, list):
        raise Misfit(f"{content!r:.80} is no list")
    return content


def object_of(content: Any) -> Mapping[str, Any]:
    """An object; a table's cell holds it as JSON."""
    content = json.loads(content) if isinstance(content, str) else content
    if not isinstance(content, dict):
        raise Misfit(f"{content!r:.80} is no object")
    return content


def parsed(content: Any) -> Any:
    """What a cell holds: JSON as what it says, any other text as it is."""
    if isinstance(content, str) and content[:1] in ('"', "[", "{"):
        try:
            return json.loads(content)
        except (json.JSONDecodeError, RecursionError):
            return content
    return content
