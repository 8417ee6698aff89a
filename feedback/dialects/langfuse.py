"""Langfuse: scores, traces and observations, as its API, its blob exports and its tables have them."""

from collections.abc import Iterator
from typing import Any

from feedback.dialects import traced
from feedback.rows import values
from feedback.rows.directions import words
from feedback.rows.said import About, Misfit, Options, Row, Said, Shown

_TRACE = words(
    """
    id timestamp name input output sessionId session_id userId user_id metadata tags release version public
    bookmarked environment projectId project_id createdAt created_at updatedAt updated_at htmlPath totalCost
    latency observations observationCount level inputTokens outputTokens totalTokens inputCost outputCost
    usage externalId event_ts is_deleted errorCount warningCount defaultCount debugCount scores
    """
)
"""The columns of traces; of a table's export, every other one is a score with a list of its values."""

# ---- scores


def is_score(row: Row) -> bool:
    return (
        bool(row.keys() & {"traceId", "trace_id", "sessionId", "session_id"})
        and "name" in row
        and bool(row.keys() & {"value", "stringValue", "string_value", "dataType", "data_type"})
    )


def score(row: Row, options: Options) -> Iterator[Said]:
    """A score of a trace or of an observation: of another row, of `trace` in its own, or of a completion of
    this service."""
    trace = row["trace"] if isinstance(row.get("trace"), dict) else {}
    names = tuple(
        str(_of(row, *both))
        for both in (("observationId", "observation_id"), ("traceId", "trace_id"))
        if _of(row, *both)
    )
    if not names:
        raise Misfit("it scores a session ('sessionId') and no answer: only traces and observations are read")
    found = _about(row, names, options, rater=trace.get("userId"))
    if trace.get("input") is not None and trace.get("output") is not None:
        yield found.make(_shown(trace, names))
    else:
        yield found


def _about(row: Row, names: tuple[str, ...], options: Options, rater: Any = None) -> About:
    """The judgement that a score is, whatever it is of."""
    name, kind = str(row["name"]), str(_of(row, "dataType", "data_type") or "NUMERIC").upper()
    value = _of(row, "value")
    if kind == "CATEGORICAL":
        value = _of(row, "stringValue", "string_value") or value
        if not values.is_thumb(value):
            raise Misfit(
                f"the score {name!r} is categorical and has {value!r:.40}; numbers, booleans and "
                "words for yes and "
                "no are read"
            )
    elif kind == "BOOLEAN":
        value = str(value).lower() in ("1", "1.0", "true")
    elif kind != "NUMERIC":
        raise Misfit(
            f"the score {name!r} is a {kind.lower()}; numbers, booleans and words for yes and no are read"
        )
    values.note(value, name, options)
    author = _of(row, "authorUserId", "author_user_id", "userId", "user_id") or rater
    more = {
        "rater": str(author) if author else None,
        "at": values.time_of(_of(row, "updatedAt", "updated_at", "timestamp", "createdAt")),
        "comment": str(row["comment"]) if row.get("comment") else None,
        "metadata": {"name": name},
    }
    return About(names, lambda shown: traced.about(shown, *values.scored(value, name, options), more))


# ---- traces and observations


def is_trace(row: Row) -> bool:
    """Whether a row is a trace: with the scores of it and of its observations, as API and exports have it."""
    return (
        {"id", "input", "output"} <= row.keys()
        and not is_observation(row)
        and bool(row.keys() & {"sessionId", "session_id", "bookmarked", "htmlPath", "observations", "scores"})
    )


def trace(row: Row, options: Options) -> Iterator[Said]:
    """A trace; what is inside is judged by scores in its own row, or in those of other files."""
    own = [each for each in values.parsed(row.get("scores")) or () if isinstance(each, dict)]
    for each in own:
        if not _of(each, "observationId", "observation_id"):
            yield _own(each, (str(row["id"]),), _user(row), options)
        else:
            yield _own(each, (str(_of(each, "observationId", "observation_id")),), _user(row), options)
    inside = [each for each in values.parsed(row.get("observations")) or () if isinstance(each, dict)]
    for each in inside:
        try:
            yield _shown(each, (str(each["id"]),), _user(row))
        except (Misfit, KeyError):
            continue  # a span without texts; a score of it says that they are missing
    columns = list(_columns(row, options)) if not own else []
    try:
        shown = _shown(row, (str(row["id"]),))
    except Misfit as misfit:
        if columns or not inside:
            yield misfit
        return
    for found in columns:
        yield found if isinstance(found, Misfit) else found.of(shown)
    if not columns:
        yield shown


def _own(each: Row, names: tuple[str, ...], user: str | None, options: Options) -> About | Misfit:
    try:
        return _about(each, names, options, rater=user)
    except Misfit as misfit:
        return misfit


def _columns(row: Row, options: Options) -> Iterator[About | Misfit]:
    """The scores of a table's export: columns of their names, with a list of values."""
    for name, cell in row.items():
        found = values.parsed(cell)
        if name in _TRACE or found in (None, "", []):
            continue
        if not isinstance(found, list):
            yield Misfit(
                f"column {name!r} may be a judgement that is not understood: scores have a list of "
                "values; leave "
                f"it out with --map {name}=ignore"
            )
            continue
        for value in found:
            word = isinstance(value, str) and not _is_number(value)
            kind = "CATEGORICAL" if word else "NUMERIC"
            yield _own({"name": name, "value": value, "dataType": kind}, (), _user(row), options)


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def is_observation(row: Row) -> bool:
    return (
        {"id", "type", "input", "output"} <= row.keys()
        and bool(row.keys() & {"traceId", "trace_id"})
        and not is_score(row)
    )


def observation(row: Row, options: Options) -> Iterator[Said]:
    """An observation, like a generation; a trace whose only root it is means it, too."""
    root = not _of(row, "parentObservationId", "parent_observation_id")
    within = (str(_of(row, "traceId", "trace_id")),) if root else ()
    yield _shown(row, (str(row["id"]),), within=within)


def _shown(row: Row, names: tuple[str, ...], user: str | None = None, within: tuple[str, ...] = ()) -> Shown:
    if row.get("input") is None or row.get("output") is None:
        raise Misfit("columns 'input' and 'output' are empty: nothing in it can be judged")
    messages = traced.messages_in(row["input"], "input")
    answer = traced.answer_in(row["output"], "output")
    return Shown(names, messages, answer, rater=user or _user(row), within=within)


def _user(row: Row) -> str | None:
    user = _of(row, "userId", "user_id")
    return str(user) if user else None


def _of(row: Row, *names: str) -> Any:
    """What a row has under the first of some names that says something."""
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)
