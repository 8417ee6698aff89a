"""Labels as JSON types, and back."""

import dataclasses
from typing import Any

from feedback.joining.labels import Answer, Label

_LABEL_FIELDS = tuple(field.name for field in dataclasses.fields(Label))
_ANSWER_FIELDS = tuple(field.name for field in dataclasses.fields(Answer))


def row_of(label: Label) -> dict[str, Any]:
    """A label as JSON types; `dataclasses.asdict` copies every token, which takes twenty times as long."""
    row = {name: getattr(label, name) for name in _LABEL_FIELDS}
    row["answers"] = [{name: getattr(answer, name) for name in _ANSWER_FIELDS} for answer in label.answers]
    return row


def label_of(row: dict[str, Any]) -> Label:
    """A label from what `row_of` made of it."""
    answers = tuple(
        Answer(
            **{
                **answer,
                "prompt_token_ids": tuple(answer["prompt_token_ids"]),
                "token_ids": tuple(answer["token_ids"]),
            }
        )
        for answer in row["answers"]
    )
    lists: dict[str, Any] = {name: tuple(row.get(name, ())) for name in ("presented", "reasons", "tags")}
    scale = row.get("scale")
    return Label(
        **{
            **row,
            **lists,
            "answers": answers,
            "scale": None if scale is None else tuple(scale),
            "groups": tuple(tuple(group) for group in row.get("groups", ())),
        }
    )
