"""The nearest known name to one that is not known."""

import difflib
from collections.abc import Iterable


def nearest(wrong: object, known: Iterable[str]) -> str:
    """ "; did you mean X?", or nothing where no name is near."""
    found = difflib.get_close_matches(str(wrong), list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""
