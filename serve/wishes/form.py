"""Form of an answer: all that a program can hold it to."""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

Case = Literal["upper", "lower"]
Marks = Literal["bulleted", "numbered"]


@dataclass(frozen=True, slots=True)
class Form:
    """What an answer has to look like. Bounds are counts; None and empty: anything goes."""

    begins: tuple[str, ...] = ()  # one of these
    name: str = ""  # by which it addresses the person
    leads: tuple[str, ...] = ()  # said after these, in their order
    has: tuple[str, ...] = ()  # somewhere near the beginning
    then: str = ""  # begins a sentence after the first or the second one
    ends: str = ""
    closes: str = ""  # its last sentence begins with this
    asks: bool = False  # ends with a question
    heading: bool = False
    bold: bool = False
    emoji: bool = False
    quoted: bool = False
    case: Case | None = None
    items: Marks | None = None
    least_items: int | None = None
    most_items: int | None = None
    least_words: int | None = None
    most_words: int | None = None
    least_sentences: int | None = None
    most_sentences: int | None = None
    sentence_words: int | None = None
    paragraphs: int | None = None
    lines: bool = False  # each sentence on a line of its own
    without: tuple[str, ...] = ()  # words, in any case; one with a star is the beginning of words
    without_chars: str = ""  # as in a regular expression's brackets
    plain: bool = False  # no lists

    def joined(self, other: "Form") -> "Form":
        """Both; where they differ the other one counts, as what was said last."""
        changes: dict[str, Any] = {}
        for field in fields(other):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if theirs == field.default:
                continue
            adds = field.name in _ADDED
            changes[field.name] = mine + tuple(t for t in theirs if t not in mine) if adds else theirs
            if field.name == "without_chars":
                changes[field.name] = mine + theirs
        if other.items:
            changes["plain"] = False
        elif other.plain:
            changes |= {"items": None, "least_items": None, "most_items": None}
        return replace(self, **changes)


_ADDED = ("leads", "has", "without")
FREE = Form()


def all_of(forms: Iterable[Form]) -> Form:
    """All forms in one."""
    found = FREE
    for form in forms:
        found = found.joined(form)
    return found
