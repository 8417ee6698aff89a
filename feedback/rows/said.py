"""Meanings that a row of a file can turn out to have, and what the importing person said about rows."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from feedback.core.events import Direction
from feedback.rows.directions import words
from feedback.rows.examples import Example, Message

Row = Mapping[str, Any]


class Misfit(ValueError):
    """A row, or a judgement in it, that cannot be used: which column, why, and what would be right."""


@dataclass(frozen=True, slots=True)
class Shown:
    """An answer that other rows judge: a run, a trace, an inference.

    names: what they call it. within: what it is a part of, like an episode; a judgement of that is of this
    answer where it is the only one. otherwise: what its own row says of it, used where no other row does.
    """

    names: tuple[str, ...]
    messages: tuple[Message, ...]
    answer: str
    rater: str | None = None
    within: tuple[str, ...] = ()
    otherwise: tuple["Example | Misfit", ...] = ()


@dataclass(frozen=True, slots=True)
class About:
    """A judgement of an answer in another row, the first of `names` that is shown.

    make: the example, given the messages and the answer; without them (None) that of a completion of this
    service, whose name it is given instead. Raises Misfit.
    """

    names: tuple[str, ...]
    make: Callable[["Shown | str"], Example]

    def of(self, shown: Shown) -> Example | Misfit:
        """The example that the judgement of an answer is, or why it is none."""
        try:
            return self.make(shown)
        except Misfit as misfit:
            return misfit


Said = Example | Shown | About | Misfit
"""One thing that a row says; a Misfit says which part of it is left out."""

Reader = Callable[[Row, "Options"], Iterable[Said]]


@dataclass(slots=True)
class Range:
    """The numbers of a column, as far as a scale can be told from them."""

    low: float
    high: float
    fractions: bool = False  # is any of them between 0 and 1
    signed: bool = False  # is 0 one of them, and -1 another

    def add(self, number: float) -> None:
        self.signed = (
            self.signed or (number == 0 and self.low < 0) or (number < 0 and self.low <= 0 <= self.high)
        )
        self.low, self.high = min(self.low, number), max(self.high, number)
        self.fractions = self.fractions or 0 < number < 1


class Numbers:
    """The ranges of a file's columns: noted while the file is read once, and used when it is read again."""

    def __init__(self) -> None:
        self._ranges: dict[str, Range] = {}
        self.complete = False

    def note(self, column: str, number: float) -> Range:
        """The range of a column, with this number in it."""
        found = self._ranges.get(column)
        if found is None:
            found = self._ranges[column] = Range(number, number, 0 < number < 1)
        elif not self.complete:
            found.add(number)
        return found


@dataclass(frozen=True, slots=True)
class Options:
    """What the importing person said about rows.

    scales: name of a column or score -> (lowest, highest) of its numbers; "" stands for all others.
    columns: column -> the field that it is, or "ignore"; "a.b" is the column b of the column a.
    directions: name of a column or score -> which way is better. used: the columns that rows had.
    origins: of the row that is read, field -> what its column was called before `columns` named it.
    """

    layout: str = "auto"
    scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    directions: Mapping[str, Direction] = field(default_factory=dict)
    numbers: Numbers = field(default_factory=Numbers)
    used: set[str] = field(default_factory=set)
    origins: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for low, high in self.scales.values():
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError("a scale is LOWEST:HIGHEST, like 1:5")
        for named in self.columns.values():
            if named not in FIELDS:
                raise ValueError(f"{named!r} is no field; one of {', '.join(sorted(FIELDS))} is")

    def of_a_file(self) -> "Options":
        """The same, with numbers of its own."""
        return replace(self, numbers=Numbers())

    def of_a_row(self, row: Row) -> "Options":
        """The same, with the origins of a row's fields."""
        if not self.columns:
            return self
        had = {named: column for column, named in self.columns.items() if _holder(row, column)[0] is not None}
        return replace(self, origins=had)

    def scale_of(self, column: str) -> tuple[float, float] | None:
        return self.scales.get(column) or self.scales.get("")

    def renamed(self, row: Row) -> Row:
        """A row with its columns named as fields. Raises Misfit where two are one field."""
        for column, named in self.columns.items():
            holder, last = _holder(row, column)
            if holder is None:
                continue
            self.used.add(column)
            row = _without(row, column)
            if named == "ignore":
                continue
            if named in row and named != column:
                raise Misfit(
                    f"columns {column!r} and {named!r} are both {named!r}; leave one out with =ignore"
                )
            row = {**row, named: holder[last]}
        return row

    def ignores(self, name: str) -> bool:
        """Whether a question inside a row is to be left out."""
        if self.columns.get(name) == "ignore":
            self.used.add(name)
            return True
        return False

    def named(self, column: str) -> str:
        """What a field was called before `columns` named it."""
        return self.origins.get(column, column)


FIELDS = words(
    """
    prompt completion messages conversations system history chosen rejected label rating rater at comment
    tags reasons response response_a response_b ignore
    """
)
"""What --map can call a column."""


def _holder(row: Row, column: str) -> tuple[Row | None, str]:
    """The object that has a column, and the column's name in it."""
    if column in row:
        return row, column
    first, dot, rest = column.partition(".")
    if dot and isinstance(row.get(first), Mapping):
        return _holder(row[first], rest)
    return None, column


def _without(row: Row, column: str) -> dict[str, Any]:
    if column in row:
        return {name: said for name, said in row.items() if name != column}
    first, _, rest = column.partition(".")
    return {**row, first: _without(row[first], rest)}
