"""What a settings class can be told: its fields with their types, documentation and defaults."""

import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any

NEEDED: Any = dataclasses.MISSING
"""The default of a field that has none."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One field. `kind`: its type without annotations; `doc`: "" where the class has forgotten it."""

    name: str
    kind: Any
    doc: str
    default: Any

    @property
    def table(self) -> type | None:
        """The settings class that the field holds, if it holds one."""
        inner = without_none(self.kind)
        return inner if dataclasses.is_dataclass(inner) and isinstance(inner, type) else None


def settings_of(kind: type) -> tuple[Setting, ...]:
    """The fields of a settings class, in its order."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return tuple(_setting(field, hints[field.name]) for field in dataclasses.fields(kind) if field.init)


def _setting(field: "dataclasses.Field[Any]", hint: Any) -> Setting:
    doc = ""
    if typing.get_origin(hint) is Annotated:
        hint, *notes = typing.get_args(hint)
        doc = next((note for note in notes if isinstance(note, str)), "")
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return Setting(field.name, hint, doc, default)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A setting by its place in the file, such as learner.ppo.clip. The default is that of its owner."""

    path: str
    setting: Setting
    default: Any


def leaves(table: str, kind: type, owner: Any = NEEDED) -> tuple[Leaf, ...]:
    """Every setting below a table, depth first. A table that may be left out is a leaf of its own, too.

    owner: an object of the class whose values are the defaults, where they are not the class's own.
    """
    found: list[Leaf] = []
    for setting in settings_of(kind):
        path = f"{table}.{setting.name}"
        default = setting.default if owner is NEEDED else getattr(owner, setting.name)
        if setting.table is None or is_optional(setting.kind):
            found.append(Leaf(path, setting, default))
        if setting.table is not None:
            found += leaves(path, setting.table, default if default is not None else NEEDED)
    return tuple(found)


def is_optional(kind: Any) -> bool:
    """Whether None is among a type's values."""
    return type(None) in _options(kind)


def without_none(kind: Any) -> Any:
    """`X` of `X | None`, and any other type as it is."""
    rest = [option for option in _options(kind) if option is not type(None)]
    return rest[0] if len(rest) == 1 else kind


def _options(kind: Any) -> tuple[Any, ...]:
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if union else (kind,)
