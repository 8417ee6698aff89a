"""What the names of signals mean: those that every product has, and those of a file of the product's own.

A signals file is TOML, with a table for each name::

    [checkout_completed]
    direction = "higher"      # the better the answer, the more often it happens; "lower"; or "learned"
    objective = "helpful"     # when absent; or "safe", "truthful"

    [seconds_read]
    direction = "learned"     # nobody is sure what it means: votes say which way it goes
    range = [0, 60]           # a number counts by its place between the two; at_least = 20: by whether it is
    most = 0.5                # it never weighs more than so much of a thumb; 0 switches a name off

A name's table replaces all that is built in about the name.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args

from learner.votes.objectives import OBJECTIVES, Objective

Direction = Literal["higher", "lower", "learned"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)

KEPT = "/kept"
"""Behind a name: those of its signals that say which of two answers was kept."""


class BadMeanings(ValueError):
    """A signals file that cannot be used; the message says what is wrong and what would be right."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What signals of a name say. A number is put on the scale from 0 to 1 by `range`, or by whether it is
    `at_least` so much; without both, by whether it is above 0. most: of a thumb's weight that it may have."""

    direction: Direction
    objective: Objective = "helpful"
    at_least: float | None = None
    range: tuple[float, float] | None = None
    most: float = 1.0

    def share(self, amount: float) -> float:
        """An amount as a share in [0, 1]."""
        if self.range is not None:
            low, high = self.range
            return min(max((amount - low) / (high - low), 0.0), 1.0)
        return float(amount > 0 if self.at_least is None else amount >= self.at_least)


Meanings = Mapping[str, Meaning]

BUILTIN: Meanings = MappingProxyType(
    {
        "copied": Meaning("higher"),
        "accepted": Meaning("higher"),
        "rejected": Meaning("lower"),
        "regenerated": Meaning("lower"),
        "resolved": Meaning("higher"),
        "escalated": Meaning("lower"),
        "thanked": Meaning("higher"),
        "complained": Meaning("lower"),
        # A good answer is worth an edit, another question and some time; so is a bad one.
        "edited": Meaning("learned"),
        "follow_up": Meaning("learned"),
        "abandoned": Meaning("learned"),
        "dwell": Meaning("learned", range=(0.0, 60.0)),
    }
)
"""Dwell is in seconds."""


def read_meanings(file: Path | None) -> Meanings:
    """What is built in, and what a file says of its names. Raises BadMeanings."""
    if file is None:
        return BUILTIN
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadMeanings(f"the signals file {file} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise BadMeanings(f"the signals file {file} is not TOML: {error}") from error
    found = dict(BUILTIN)
    for name, table in content.items():
        try:
            found[name] = _meaning(name, table)
        except BadMeanings as error:
            raise BadMeanings(f"the signals file {file}: {error}") from error
    return found


_FIELDS = ("direction", "objective", "at_least", "range", "most")


def _meaning(name: str, table: Any) -> Meaning:
    """The meaning that a table of the file says."""
    if not isinstance(table, dict):
        raise BadMeanings(f"{name} is no table; write [{name}] and its fields below")
    if not 0 < len(name) <= 64 or not name.isprintable() or name.endswith(KEPT):
        raise BadMeanings(f"{name!r} is no name: 1 to 64 printable characters that do not end in {KEPT}")
    unknown = [field for field in table if field not in _FIELDS]
    if unknown:
        raise BadMeanings(f"[{name}] has no field {unknown[0]}; there are {', '.join(_FIELDS)}")
    if "at_least" in table and "range" in table:
        raise BadMeanings(f"[{name}] has at_least and range; one of them says what a number means")
    low_high = table.get("range")
    return Meaning(
        _one_of(name, "direction", table.get("direction"), DIRECTIONS),
        _one_of(name, "objective", table.get("objective", "helpful"), OBJECTIVES),
        _number(name, "at_least", table["at_least"]) if "at_least" in table else None,
        None if low_high is None else _range(name, low_high),
        _most(name, table.get("most", 1.0)),
    )


Word = TypeVar("Word", bound=str)


def _one_of(name: str, field: str, value: Any, known: tuple[Word, ...]) -> Word:
    for word in known:
        if value == word:
            return word
    raise BadMeanings(f"[{name}] {field} must be one of {', '.join(known)}, not {value!r}")


def _number(name: str, field: str, value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
        return float(value)
    raise BadMeanings(f"[{name}] {field} must be a number, not {value!r}")


def _range(name: str, value: Any) -> tuple[float, float]:
    if isinstance(value, list) and len(value) == 2:
        low, high = (_number(name, "range", each) for each in value)
        if low < high:
            return low, high
    raise BadMeanings(f"[{name}] range must be [lowest, highest], not {value!r}")


def _most(name: str, value: Any) -> float:
    most = _number(name, "most", value)
    if 0 <= most <= 1:
        return most
    raise BadMeanings(f"[{name}] most must lie between 0 and 1, not {value!r}")
