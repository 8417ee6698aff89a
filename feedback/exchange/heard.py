"""Judgements that an import has heard already: the same again, and the same rater's newer one."""

import hashlib
import json
from dataclasses import replace
from typing import Literal

from feedback.rows.examples import Example

News = Literal["new", "repeated", "changed"]


class Heard:
    """The judgements of the files of one import.

    A rater has one vote of a kind on the same answers, and the newest counts: by its time where both have
    one,
    else the later row. Rows that name nobody are of a file each, and two of them that judge the same answers
    differently are two people's: the second one is given a rater of its own, the same one whenever the
    file is
    imported.
    """

    def __init__(self, files: int) -> None:
        self._unnamed: list[dict[str, list[str]]] = [{} for _ in range(files)]
        self._named: dict[str, tuple[float | None, str]] = {}

    def new(self, file: int, example: Example) -> tuple[Example | None, News]:
        """The example as it counts, or None; and whether it says something new of its answers."""
        if example.rater is None:
            return self._of_nobody(self._unnamed[file], example)
        place, said = _place(example), _said(example)
        before = self._named.get(place)
        if before is None:
            self._named[place] = (example.at, said)
            return example, "new"
        at, last = before
        if at is not None and example.at is not None and example.at < at:
            return None, "repeated" if said == last else "changed"
        self._named[place] = (example.at if example.at is not None else at, said)
        return (None, "repeated") if said == last else (example, "changed")

    def _of_nobody(self, heard: dict[str, list[str]], example: Example) -> tuple[Example | None, News]:
        values, said = heard.setdefault(example.identity, []), _said(example)
        if said in values:
            return None, "repeated"
        values.append(said)
        if len(values) == 1:
            return example, "new"
        return replace(example, rater=f"{example.identity}#{len(values)}"), "new"


def _place(example: Example) -> str:
    """What makes two judgements one vote: who judges what (see `feedback.core.ids.vote_id`)."""
    kind = "correction" if example.kind == "demonstration" else example.kind
    judged = sorted(example.answers[1:] if example.kind == "correction" else example.answers)
    return _digest([example.rater, kind, example.about, list(example.messages), judged])


def _said(example: Example) -> str:
    """What a judgement says of its answers, whichever of them is named first."""
    if example.kind == "comparison":
        first, second = example.answers
        return _digest([example.value if first <= second else 1.0 - example.value])
    groups = [sorted(example.answers[i] for i in group) for group in example.groups]
    text = example.answers[0] if example.kind in ("correction", "demonstration") else ""
    return _digest([example.value, groups, text])


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
