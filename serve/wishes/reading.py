"""Form that a person's sentences ask for, as far as a program knows it."""

from collections.abc import Iterable, Iterator

from serve.wishes import lengths, looks, sayings, unwanted
from serve.wishes.form import Form, all_of
from serve.wishes.rules import forms_by
from serve.wishes.sentences import Part, parts

_WANTED = (*sayings.ALL, *lengths.ALL, *looks.ALL)


def form_of(entries: Iterable[str]) -> Form:
    """What the sentences of a list ask for together; `FREE` where nothing of it is known."""
    return all_of(form for entry in entries for part in parts(entry) for form in _forms(part))


def _forms(part: Part) -> Iterator[Form]:
    if part.wanted:
        yield from forms_by(_WANTED, part)
        return
    yield from unwanted.named(part)
    yield from forms_by(unwanted.ALL, part)
