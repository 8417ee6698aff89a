"""Argilla's exports: records of its versions 1 and 2, and the tables that both push to the hub."""

from collections.abc import Iterator, Mapping
from typing import Any

from feedback.dialects.annotated import Response, judged, task_of
from feedback.rows import values
from feedback.rows.said import Misfit, Options, Row, Said

_OTHERS = frozenset({"id", "external_id", "metadata", "vectors", "status", "_server_id"})
_QUESTION = {"user_id", "value", "status"}


def are_records_2(row: Row) -> bool:
    return "fields" in row and isinstance(row.get("responses"), dict)


def records_2(row: Row, options: Options) -> Iterator[Said]:
    """A record of version 2: `responses` by question, each a list of what annotators said."""
    said = []
    for question, given in values.object_of(row["responses"]).items():
        for each in values.list_of(given):
            if each.get("status") in (None, "submitted"):
                said.append(Response(question, each["value"], _rater(each)))
    yield from _all(values.object_of(row["fields"]), said, options)


def are_records_1(row: Row) -> bool:
    return "fields" in row and isinstance(row.get("responses"), list)


def records_1(row: Row, options: Options) -> Iterator[Said]:
    """A record of version 1: `responses` by annotator, each with its `values`."""
    said = []
    for each in values.list_of(row["responses"]):
        if each.get("status") not in (None, "submitted"):
            continue
        at = values.time_of(each.get("updated_at") or each.get("inserted_at"))
        for question, given in (each.get("values") or {}).items():
            value = given["value"] if isinstance(given, dict) else given
            said.append(Response(question, value, _rater(each), at))
    yield from _all(values.object_of(row["fields"]), said, options)


def is_table_2(row: Row) -> bool:
    return any(str(name).endswith(".responses") for name in row)


def table_2(row: Row, options: Options) -> Iterator[Said]:
    """A row of version 2's table: a question's responses, users and states in a column each."""
    said = []
    for column, given in row.items():
        if not column.endswith(".responses") or given is None:
            continue
        answers = values.list_of(values.parsed(given))
        raters = values.list_of(row.get(column + ".users") or [None] * len(answers))
        states = values.list_of(row.get(column + ".status") or ["submitted"] * len(answers))
        for value, rater, state in zip(answers, raters, states, strict=True):
            if state == "submitted":
                said.append(Response(column.removesuffix(".responses"), value, str(rater) if rater else None))
    kinds = (".responses", ".responses.users", ".responses.status")
    fields = {
        name: value
        for name, value in row.items()
        if not name.endswith(kinds) and ".suggestion" not in name and name not in _OTHERS
    }
    yield from _all(fields, said, options)


def is_table_1(row: Row) -> bool:
    """Whether a row has a question of version 1's table: a list of {user_id, value, status}."""
    return any(map(_is_question, row.values()))


def table_1(row: Row, options: Options) -> Iterator[Said]:
    """A row of version 1's table."""
    said, fields = [], {}
    for name, given in row.items():
        if _is_question(given):
            for each in _listed(given):
                if each["status"] == "submitted":
                    said.append(Response(name, each["value"], _rater(each)))
        elif name not in _OTHERS and "-suggestion" not in name:
            fields[name] = given
    yield from _all(fields, said, options)


def _is_question(given: Any) -> bool:
    if isinstance(given, list):
        return bool(given) and all(isinstance(each, dict) and each.keys() >= _QUESTION for each in given)
    return isinstance(given, dict) and given.keys() >= _QUESTION and isinstance(given["value"], list)


def _listed(given: Any) -> list[Mapping[str, Any]]:
    """A list of objects, which a table may hold as an object of lists."""
    if isinstance(given, list):
        return given
    return [dict(zip(given, each, strict=True)) for each in zip(*given.values(), strict=True)]


def _rater(each: Mapping[str, Any]) -> str | None:
    return str(each["user_id"]) if each.get("user_id") else None


def _all(fields: Mapping[str, Any], said: list[Response], options: Options) -> Iterator[Said]:
    if not said:
        raise Misfit("nobody has submitted a response to it")
    yield from judged(task_of(options.renamed(fields)), said, options)
