"""LangSmith: runs with their inputs and outputs, and the feedback on them."""

from collections.abc import Iterator, Mapping
from typing import Any

from feedback.dialects import traced
from feedback.rows import values
from feedback.rows.examples import Example, Kind
from feedback.rows.said import About, Misfit, Options, Row, Said, Shown


def run(row: Row, options: Options) -> Iterator[Said]:
    """A run. What it says of itself (`feedback_stats`) counts where no file has the feedback on it."""
    messages = traced.messages_in(row["inputs"], "inputs")
    shown = Shown((str(row["id"]),), messages, traced.answer_in(row["outputs"], "outputs"))
    stats = values.object_of(row.get("feedback_stats") or {})
    yield Shown(
        shown.names,
        shown.messages,
        shown.answer,
        otherwise=tuple(_stat(name, stat, shown, options) for name, stat in stats.items()),
    )


def _stat(name: str, stat: Mapping[str, Any], shown: Shown, options: Options) -> Example | Misfit:
    """What one person said, of what a run keeps of feedback: how many there were, and their mean."""
    if stat.get("n") != 1 or stat.get("avg") is None:
        return Misfit(
            f"column 'feedback_stats.{name}' has a mean of several people or none; export the "
            "feedback itself "
            "(list_feedback) and import it along with this file"
        )
    try:
        return traced.about(shown, *values.scored(stat["avg"], name, options), {"metadata": {"name": name}})
    except Misfit as misfit:
        return misfit


def feedback(row: Row, options: Options) -> Iterator[Said]:
    """Feedback on a run: a score (on the scale of its configuration, if it has one), a word, a correction."""
    name, names = str(row["key"]), tuple(str(row[each]) for each in ("run_id", "trace_id") if row.get(each))
    if not names:
        raise Misfit("it has no 'run_id': feedback on a whole session is about no answer")
    source = row.get("feedback_source") or {}
    source = values.object_of(source)
    user = source.get("user_id") or source.get("ls_user_id")
    more = {
        "rater": str(user) if user else None,
        "at": values.time_of(row.get("modified_at") or row.get("created_at")),
        "comment": str(row["comment"]) if row.get("comment") else None,
        "metadata": {"name": name},
    }
    said = row.get("score") if row.get("score") is not None else row.get("value")
    if said is not None:
        values.note(said, name, options)
        yield About(names[:1], lambda shown: traced.about(shown, *_place(said, name, row, options), more))
    if row.get("correction"):
        text = traced.answer_in(row["correction"], "correction")
        yield About(names[:1], lambda shown: traced.corrected(shown, text, more))
    if said is None and not row.get("correction"):
        raise Misfit("columns 'score', 'value' and 'correction' are empty: there is no judgement in it")


def _place(said: Any, name: str, row: Row, options: Options) -> tuple[Kind, float]:
    config = row.get("feedback_config") or (row.get("extra") or {}).get("feedback_config") or {}
    low, high = config.get("min"), config.get("max")
    if values.is_thumb(said) or low is None or high is None or low == high:
        return values.scored(said, name, options)
    scale = (float(low), float(high))
    return "rating", values.share(said, name, options, scale, values.direction(name, options))
