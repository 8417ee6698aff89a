"""Rules by which sentences are read: a pattern, and the form that does what it asks for."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from serve.wishes.form import Form
from serve.wishes.sentences import Part, is_sayable

Make = Callable[[re.Match[str], Part], Form | None]

_BEFORE = re.compile(r"^(?:(?:the|a) )?(?:words?|phrase|expression|sentence|greeting)\b:? *", re.I)
_AFTER = re.compile(
    r",? (?:please|always|in|at|to|each|every|as|for|when|from|and|somewhere|once|often)\b|[,;:]", re.I
)
_GREETINGS = ("sure", "yes", "no", "hello", "hi", "ok", "okay", "well", "dear", "cheers", "thanks")


class Rule(NamedTuple):
    """A way to ask for something. make: its form, None where a sentence turns out to mean something else."""

    pattern: re.Pattern[str]
    make: Make


def rule(pattern: str, make: Make | Form) -> Rule:
    """A rule for sentences in which a pattern occurs, in any case."""
    compiled = re.compile(pattern, re.I)
    if isinstance(make, Form):
        form = make
        return Rule(compiled, lambda _match, _part: form)
    return Rule(compiled, make)


def forms_by(groups: Iterable[tuple[Rule, ...]], part: Part) -> Iterator[Form]:
    """The forms that a part asks for: of each group of rules the first one that has any."""
    for group in groups:
        made = (one.make(match, part) for one in group if (match := one.pattern.search(part.text)))
        form = next((form for form in made if form is not None), None)
        if form is not None:
            yield form


def quoted_after(match: re.Match[str], part: Part) -> tuple[str, ...]:
    """What a part quotes after a match."""
    return part.quoted[part.text[: match.end()].count('"') :]


def said_after(match: re.Match[str], part: Part) -> str | None:
    """The words that an answer is to say, named at the end of a match: in quotes, or plainly meant.

    "Begin with the main point" names no words to begin with; "Begin with Hello" does.
    """
    rest = part.text[match.end() :].strip()
    after = _BEFORE.sub("", rest)
    if after.startswith('"'):
        return quoted_after(match, part)[0]
    phrase = _AFTER.split(after)[0].rstrip(".! ").strip()
    meant = phrase[:1].isupper() or phrase.lower() in _GREETINGS or after != rest
    return phrase if meant and is_sayable(phrase) and len(phrase.split()) <= 4 else None
