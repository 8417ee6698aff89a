"""Label Studio's exports: tasks with their annotations (JSON), and a row an annotation (JSON-MIN, CSV)."""

from collections.abc import Iterator, Mapping
from typing import Any

from feedback.dialects.annotated import Response, Task, judged, tail, task_of
from feedback.rows import values
from feedback.rows.directions import words
from feedback.rows.judging import judging
from feedback.rows.said import Misfit, Options, Row, Said

_META = words(
    """
    id annotation_id annotator lead_time created_at updated_at annotations predictions meta project inner_id
    """
)
_TEXTS = frozenset({"chosen", "rejected"})


def tasks(row: Row, options: Options) -> Iterator[Said]:
    """A task with its annotations; those that were skipped are none."""
    data = options.renamed(values.object_of(row["data"]))
    done = [each for each in values.list_of(row["annotations"]) if not each.get("was_cancelled")]
    if not any(each.get("result") for each in done):
        raise Misfit("it has no annotation that was submitted")
    for annotation in done:
        rater = _rater(annotation.get("completed_by"))
        at = values.time_of(annotation.get("updated_at") or annotation.get("created_at"))
        said = [
            Response(str(result["from_name"]), _value(result), rater, at) for result in annotation["result"]
        ]
        yield from judged(_task(data, annotation["result"]), said, options)


def _task(data: Mapping[str, Any], results: list[Mapping[str, Any]]) -> Task:
    """The task; of a ranker its items by their ids, of a pair the order that its control names."""
    for result in results:
        if result.get("type") == "ranker" and isinstance(data.get("items"), list):
            items = {str(item["id"]): str(item.get("body") or item.get("text")) for item in data["items"]}
            rest = {name: said for name, said in data.items() if name != "items"}
            return Task(task_of({**rest, "answer": "?"}).messages, items)
    task = task_of(data)
    for result in results:
        shown = [name.strip() for name in str(result.get("to_name", "")).split(",")]
        if result.get("type") == "pairwise" and len(shown) == 2 and len(task.answers) == 2:
            order = [_field(name, task.answers) for name in shown]
            if None not in order and len(set(order)) == 2:
                return Task(
                    task.messages, {str(name): task.answers[str(name)] for name in order}, ordered=True
                )
    return task


def _field(shown: str, answers: Mapping[str, str]) -> str | None:
    """The field that a text's tag shows: of its name, or the only one that ends like it (txt-1: text1)."""
    if shown in answers:
        return shown
    alike = [name for name in answers if tail(name) == tail(shown)]
    return alike[0] if len(alike) == 1 else None


def _value(result: Mapping[str, Any]) -> Any:
    """What a result says: a word, a number, or names in their order."""
    kind, value = result.get("type"), result["value"]
    if kind == "pairwise":
        return value["selected"]
    if kind in ("rating", "number"):
        return value[kind]
    if kind == "choices":
        chosen = value["choices"]
        return chosen[0] if len(chosen) == 1 else {"choices": chosen}
    if kind == "textarea":
        written = value["text"]
        return written if isinstance(written, str) else "\n".join(written)
    if kind == "ranker":
        buckets = value["ranker"]
        return list(next(iter(buckets.values()))) if len(buckets) == 1 else {"ranker": buckets}
    return {str(kind): value}


def rows(row: Row, options: Options) -> Iterator[Said]:
    """An annotation as a flat row: the task's fields, and a column for each control."""
    controls = [name for name in judging(row) if name not in _META | _TEXTS]
    if not controls:
        raise Misfit("none of its columns looks like a control; name it with --map COLUMN=rating, or label")
    fields = {name: said for name, said in row.items() if name not in _META and name not in controls}
    rater, at = _rater(row.get("annotator")), values.time_of(row.get("updated_at") or row.get("created_at"))
    said = [Response(name, _flat(values.parsed(row[name])), rater, at) for name in controls]
    yield from judged(task_of(fields), said, options)


def _flat(value: Any) -> Any:
    """A control's value in a row: `[{"rating": 4}]`, `{"choices": ["Good"]}`, or it by itself."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict) and len(value) == 1:
        (inner,) = value.values()
        return inner[0] if isinstance(inner, list) and len(inner) == 1 else inner
    if isinstance(value, str):
        try:
            return float(value)  # a table's cell
        except ValueError:
            return value
    return value


def _rater(who: Any) -> str | None:
    """An annotator: a number, or an object with an id or an email."""
    if isinstance(who, dict):
        who = who.get("email") or who.get("id")
    return str(who) if who not in (None, "") else None
