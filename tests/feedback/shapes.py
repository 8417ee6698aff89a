"""Small files in the shapes that tools and data sets have, and what each of them says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from feedback.core.events import Direction
from feedback.rows.examples import Example, Message

Rows = Sequence[dict[str, Any]]

Q, GOOD, BAD = "Where do bees sleep?", "In the hive, mostly.", "Bees never sleep."
ASKED: tuple[Message, ...] = ({"role": "user", "content": Q},)
SYSTEM: Message = {"role": "system", "content": "Be brief."}
BEFORE: tuple[Message, ...] = (
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": "Hello. What can I do?"},
)


def said(text: str) -> Message:
    return {"role": "assistant", "content": text}


@dataclass(frozen=True)
class Shape:
    """Rows of one file, the layout of the first, and their examples. files: rows of further files."""

    layout: str
    rows: Rows
    expected: Sequence[Example]
    scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    directions: Mapping[str, Direction] = field(default_factory=dict)
    files: Sequence[Rows] = ()


def pair(messages: tuple[Message, ...] = ASKED, value: float = 1.0, **more: Any) -> Example:
    return Example("comparison", messages, (GOOD, BAD), value, **more)


def rating(value: float, answer: str = GOOD, messages: tuple[Message, ...] = ASKED, **more: Any) -> Example:
    return Example("rating", messages, (answer,), value, **more)


def thumb(value: float, answer: str = GOOD, messages: tuple[Message, ...] = ASKED, **more: Any) -> Example:
    return Example("thumbs", messages, (answer,), value, **more)
