"""The kinds of values that a setting can have: read from TOML or a flag, written, described, as a schema.

Known are bool, int, float, str, Path, Literal, tuples of these, `X | None` and settings classes (tables). In
TOML, which has no word for nothing, "none" stands for None.
"""

import json
import math
import tomllib
import typing
from pathlib import Path
from typing import Any, Literal

from hearken.config.fields import is_optional, settings_of, without_none
from hearken.config.names import nearest

NONE = "none"


def read(value: Any, kind: Any, folder: Path | None = None) -> Any:
    """A value from TOML as a setting's type. Paths are relative to `folder`.

    Raises ValueError with what it must be ("must be a whole number, not 'x'").
    """
    if is_optional(kind) and value == NONE:
        return None
    inner = without_none(kind)
    if typing.get_origin(inner) is tuple:
        return _read_tuple(value, inner, folder)
    if typing.get_origin(inner) is Literal:
        known = typing.get_args(inner)
        if value not in known:
            raise ValueError(f"must be {describe(inner)}, not {_shown(value)}{nearest(value, known)}")
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if inner is float and number:
        return float(value)
    if inner is float and value in ("inf", "-inf"):  # the files of charts have no word for it
        return float(value)
    if inner is int and number and value == value // 1:  # 8.0 too: charts know no whole numbers
        return int(value)
    if inner is bool and isinstance(value, bool):
        return value
    if inner is str and isinstance(value, str):
        return value
    if inner is Path and isinstance(value, str):
        return (folder or Path()) / Path(value).expanduser()
    raise ValueError(f"must be {describe(kind)}, not {_shown(value)}")


def _read_tuple(value: Any, kind: Any, folder: Path | None) -> tuple[Any, ...]:
    parts = typing.get_args(kind)
    if not isinstance(value, list):
        raise ValueError(f"must be {describe(kind)}, not {_shown(value)}")
    if parts[-1] is Ellipsis:
        return tuple(read(each, parts[0], folder) for each in value)
    if len(value) != len(parts):
        raise ValueError(f"must be {describe(kind)}, not {_shown(value)}")
    return tuple(read(each, part, folder) for each, part in zip(value, parts, strict=True))


def from_text(text: str, kind: Any) -> Any:
    """A value from a flag: texts as they are, all else as in TOML. Raises ValueError as `read` does."""
    inner = without_none(kind)
    plain = inner in (str, Path) or typing.get_origin(inner) is Literal
    if plain and not text.startswith('"'):
        return read(text, kind)
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    return read(value, kind)


def write(value: Any) -> str:
    """A setting's value as TOML."""
    if value is None:
        return f'"{NONE}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)  # TOML's inf and nan
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return f"[{', '.join(write(each) for each in value)}]"
    raise TypeError(f"{value!r} is no setting's value")


def describe(kind: Any) -> str:
    """What a type is called to people: "a whole number", "a list of texts"."""
    if is_optional(kind):
        return f'{describe(without_none(kind))} or "{NONE}"'
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(json.dumps(each) for each in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        parts = typing.get_args(kind)
        if parts[-1] is Ellipsis:
            return "a list, each " + describe(parts[0])
        return f"[{', '.join(describe(part) for part in parts)}]"
    names = {
        bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path",
    }  # fmt: skip
    return names.get(kind, "a table")


def schema(kind: Any) -> dict[str, Any]:
    """A type as a JSON schema (draft 7)."""
    if is_optional(kind):
        return {"anyOf": [schema(without_none(kind)), {"const": NONE}]}
    if typing.get_origin(kind) is Literal:
        return {"enum": list(typing.get_args(kind))}
    if typing.get_origin(kind) is tuple:
        parts = typing.get_args(kind)
        if parts[-1] is Ellipsis:
            return {"type": "array", "items": schema(parts[0])}
        size = len(parts)
        return {"type": "array", "items": [schema(p) for p in parts], "minItems": size, "maxItems": size}
    if kind is float:
        return {"type": ["number", "string"], "pattern": "^-?inf$"}
    names = {bool: "boolean", int: "integer", str: "string", Path: "string"}
    if kind in names:
        return {"type": names[kind]}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            each.name: schema(each.kind) | {"description": each.doc} for each in settings_of(kind)
        },
    }


def _shown(value: Any) -> str:
    return "a table" if isinstance(value, dict) else repr(value)
