"""hearken.toml: where it is found, and its values, each with its line.

What is unknown or of a wrong type is refused, with its line and the nearest name.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hearken.base.errors import UsageError
from hearken.config.layers import Given, Layer
from hearken.config.names import nearest
from hearken.config.tables import Tables
from hearken.config.values import read

NAME = "hearken.toml"
VARIABLE = "HEARKEN_CONFIG"

_WORD = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_TABLE = re.compile(r"""\s*\[\s*([\w\s."'-]+?)\s*\]\s*(?:#.*)?$""")
_KEY = re.compile(rf"\s*({_WORD}(?:\s*\.\s*{_WORD})*)\s*=")


def find(asked: Path | None) -> Path | None:
    """The file that holds: the one asked for, else that of $HEARKEN_CONFIG, else ./hearken.toml, else none.

    Raises UsageError when one that was named is not there.
    """
    named = asked or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named is None:
        return Path(NAME).resolve() if Path(NAME).is_file() else None
    file = named.expanduser().resolve()
    if not file.is_file():
        how = "--config" if asked else f"${VARIABLE}"
        raise UsageError(f"{how}: there is no file {file}")
    return file


def load(file: Path, tables: Tables) -> Layer:
    """The file's values. Raises UsageError with every line that is wrong, one a line."""
    try:
        text = file.read_text()
        content = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        raise UsageError(f"{file}{f':{line[1]}' if line else ''}: not TOML: {error}") from error
    reading = _Reading(file, text, tables)
    reading.table("", content)
    if reading.wrong:
        raise UsageError("\nhearken: ".join(reading.wrong))
    return reading.found


class _Reading:
    """One walk through a file's tables."""

    def __init__(self, file: Path, text: str, tables: Tables) -> None:
        self._file, self._lines, self._tables = file, line_numbers(text), tables
        self.found: dict[str, Given] = {}
        self.wrong: list[str] = []

    def table(self, path: str, content: Mapping[str, Any]) -> None:
        for name, value in content.items():
            at = f"{path}.{name}" if path else name
            leaf = self._tables.leaves.get(at)
            if at in self._tables.parts and isinstance(value, dict):
                self.table(at, value)
            elif leaf is not None and not isinstance(value, dict):
                self._value(at, value)
            elif at in self._tables.parts:
                self._refuse(at, f"{name} is a table: write [{at}]")
            else:
                self._unknown(path, name, at)

    def _value(self, at: str, value: Any) -> None:
        try:
            given = read(value, self._tables.leaves[at].setting.kind, self._file.parent)
        except ValueError as error:
            self._refuse(at, f"{at} {error}")
            return
        self.found[at] = Given(given, self._where(at))

    def _unknown(self, path: str, name: str, at: str) -> None:
        known = [each.rpartition(".") for each in (*self._tables.parts, *self._tables.leaves)]
        siblings = {own for parent, _, own in known if parent == path}
        hint = nearest(name, siblings)
        if not hint:  # perhaps it is a setting of another table
            elsewhere = [f"[{parent}]" for parent, _, own in known if own == name and parent]
            hint = f"; there is one in {', '.join(dict.fromkeys(elsewhere))}" if elsewhere else ""
        what = f"[{path}] has no setting {name}" if path else f"there is no table [{name}]"
        self._refuse(at, what + hint)

    def _refuse(self, at: str, why: str) -> None:
        self.wrong.append(f"{self._where(at)}: {why}")

    def _where(self, at: str) -> str:
        while at and at not in self._lines:  # a value inside an inline table stands on its table's line
            at = at.rpartition(".")[0]
        return f"{self._file}:{self._lines[at]}" if at else str(self._file)


def line_numbers(text: str) -> dict[str, int]:
    """Path -> line of every table and key of a TOML text, which tomllib does not tell.

    A line inside a text of several lines may look like a key; its number then goes to a path that nobody asks
    for.
    """
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _TABLE.match(line):
            table = _path(header[1])
            found.setdefault(table, number)
        elif key := _KEY.match(line):
            names = _path(key[1])
            found.setdefault(f"{table}.{names}" if table else names, number)
            for parent in _parents(names):
                found.setdefault(f"{table}.{parent}" if table else parent, number)
    return found


def _path(written: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in written.split("."))


def _parents(names: str) -> list[str]:
    parts = names.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]
