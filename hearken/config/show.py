"""`hearken config show`: the settings that hold, and where each comes from, as a file that can be used."""

from collections.abc import Iterator

from hearken.config.fields import NEEDED, settings_of
from hearken.config.resolve import Config
from hearken.config.values import write

WIDTH = 44
"""Columns that a setting has before its origin."""


def show(config: Config, tables: tuple[str, ...], *, docs: bool = False) -> str:
    """TOML of some tables. docs: with every setting's documentation above it."""
    blocks = [block for table in tables for block in _blocks(config, table, docs)]
    return "\n\n".join(blocks) + "\n"


def _blocks(config: Config, path: str, docs: bool) -> Iterator[str]:
    """One text for a table, and one for each table in it."""
    lines, inner = [f"[{path}]"], []
    for setting in settings_of(config.tables.parts[path]):
        at = f"{path}.{setting.name}"
        if setting.table is not None and not _left_out(config, at):
            inner.append(at)
            continue
        if docs:
            lines.append(f"# {setting.doc}")
        given = config.get(at)
        if given.value is NEEDED:
            lines.append(f"# {setting.name} is needed")
            continue
        # What comes from [service] is not repeated, or a change there would have no effect.
        line = f"{'# ' if config.is_shared(at) else ''}{setting.name} = {write(given.value)}"
        origin = given.origin if "[service]" in given.origin or not config.is_shared(at) else "[service]"
        lines.append(f"{line:<{WIDTH}}  # {origin}")
    yield "\n".join(lines)
    for at in inner:
        yield from _blocks(config, at, docs)


def _left_out(config: Config, at: str) -> bool:
    """Whether a table that may be left out is."""
    return at in config.tables.leaves and config.get(at).value is None
