"""Rows of other tools' files, read as what they say: a shape for each layout, and a table that lists them.

A row is of the one shape whose recogniser knows its columns; of two that do, neither is taken. Nothing is
guessed: what fits no shape is refused with the columns that it has, and what looks like a judgement and is
not understood is refused with the column and what to do about it.
"""

from feedback.dialects.reading import LAYOUTS, detect, parse, read
from feedback.rows.said import About, Misfit, Numbers, Options, Row, Said, Shown

__all__ = [
    "LAYOUTS",
    "About",
    "Misfit",
    "Numbers",
    "Options",
    "Row",
    "Said",
    "Shown",
    "detect",
    "parse",
    "read",
]
