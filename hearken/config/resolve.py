"""The settings that hold: flags over the file over the pace over defaults; and the objects made of them."""

import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hearken.base.errors import UsageError
from hearken.config.fields import NEEDED, settings_of
from hearken.config.layers import Given, Layer
from hearken.config.tables import Tables

DEFAULT = "default"


class Config:
    """What was asked for, in layers: of those that have a setting, the first one counts.

    Each layer is asked for the role's own setting and then for that of [service], so a flag for all roles
    goes over a file's line for one. `flags`: the layers over the file, the first first; `below`: the file and
    what is under it. `follows`: values for settings that are None, by path (the model's).
    """

    def __init__(
        self,
        tables: Tables,
        flags: Sequence[Layer] = (),
        below: Sequence[Layer] = (),
        file: Path | None = None,
        follows: Layer | None = None,
    ) -> None:
        self.tables, self.flags, self.below, self.file = tables, tuple(flags), tuple(below), file
        self._follows = follows or {}

    def over(self, layer: Layer) -> "Config":
        """The same with a layer that goes over all others."""
        return Config(self.tables, (layer, *self.flags), self.below, self.file, self._follows)

    def following(self, layer: Layer) -> "Config":
        """The same with values for what is None."""
        return Config(self.tables, self.flags, self.below, self.file, layer)

    def asked(self, path: str) -> Given | None:
        """What somebody said about a setting, None where it has its default."""
        shared = self.tables.shared(path)
        for layer in (*self.flags, *self.below):
            for at in (path, shared):
                if at is not None and at in layer:
                    return layer[at] if at == path else self._taken(path, layer[at])
        return None

    def _taken(self, path: str, shared: Given) -> Given:
        """What a setting makes of [service]'s value; one that takes one of several takes the first."""
        value = shared.value
        if isinstance(value, tuple) and typing.get_origin(self.tables.leaves[path].setting.kind) is not tuple:
            value = value[0] if value else NEEDED
        return Given(value, f"{shared.origin}, [service]")

    def is_shared(self, path: str) -> bool:
        """Whether a setting is that of [service], as nobody gave the role one of its own."""
        own = any(path in layer for layer in (*self.flags, *self.below))
        return self.tables.shared(path) is not None and not own

    def get(self, path: str) -> Given:
        """A setting that holds. Its value is NEEDED where there is none and one is needed."""
        given = self.asked(path) or self._default(path)
        if given.value is None and path in self._follows:
            return self._follows[path]
        return given

    def _default(self, path: str) -> Given:
        default = self.tables.leaves[path].default
        shared = self.tables.shared(path)
        if default is NEEDED and shared is not None:
            value = self.tables.leaves[shared].default
            return Given(NEEDED, DEFAULT) if value is None else self._taken(path, Given(value, DEFAULT))
        return Given(default, DEFAULT)

    def build(self, table: str) -> Any:
        """The settings object of a table. Raises UsageError, with file and line, for what it refuses."""
        missing = [path for path in self._paths(table) if self.get(path).value is NEEDED]
        if missing:
            name = missing[0].partition(".")[2]
            raise UsageError(f"the {table} needs {name}: --{name.replace('_', '-')}, or {name} in [service]")
        try:
            return self._build(table, self.get)
        except ValueError as error:
            raise UsageError(self._blame(table, error)) from error

    def _paths(self, table: str) -> list[str]:
        return [path for path in self.tables.leaves if path.startswith(f"{table}.")]

    def _build(self, path: str, get: Callable[[str], Given]) -> Any:
        kind = self.tables.parts[path]
        values = {}
        for setting in settings_of(kind):
            at = f"{path}.{setting.name}"
            if setting.table is None or (at in self.tables.leaves and get(at).value is None):
                values[setting.name] = get(at).value
            else:
                values[setting.name] = self._build(at, get)
        return kind(**values)

    def _blame(self, table: str, error: ValueError) -> str:
        """An error with the lines that it goes away without, or else with all that were asked for."""
        said = {
            path: given
            for path in self._paths(table)
            if (given := self.asked(path)) is not None and not given.origin.startswith(DEFAULT)
        }
        guilty = [path for path in said if not self._fails_without(table, path)]
        named = guilty or [path for path in said if path.rpartition(".")[2] in str(error)]
        where = dict.fromkeys(said[path].origin for path in named or said)
        return f"{', '.join(where)}: {error}" if where else str(error)

    def _fails_without(self, table: str, left_out: str) -> bool:
        default = self._default(left_out)
        if default.value is NEEDED:
            return True
        try:
            self._build(table, lambda path: default if path == left_out else self.get(path))
        except ValueError:
            return True
        return False
