"""Checks JSON against a JSON Schema, and says what is wrong the way OpenAI does: one field, one sentence.

The schemas that requests are checked against are the ones that /openapi.json shows, so it cannot be wrong
about them. This knows the part of JSON Schema that they use: type, enum, bounds of numbers, lengths,
pattern, properties, required, additionalProperties, propertyNames, items and anyOf. Of the alternatives of an
anyOf, the JSON type, then the one value that their `type` or `role` allows, says which is meant.

Most requests are in order. That they are, `serve.schemas.types` sees at a tenth of the time.
"""

import re
from functools import lru_cache
from typing import Any

from serve.http.errors import BadRequest
from serve.schemas.types import EXACT, TAGS, passes

Schema = dict[str, Any]

_JSON_TYPES: dict[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
    type(None): "null",
}
_WORDS = {
    "string": "a string",
    "boolean": "true or false",
    "integer": "an integer",
    "number": "a number",
    "array": "a list",
    "object": "an object",
}


def check(value: Any, schema: Schema) -> None:
    """Raises BadRequest with the field at fault and what would be right. `schema` is a constant."""
    if not passes(value, schema):
        find_fault(value, schema)


def find_fault(value: Any, schema: Schema, path: str = "") -> None:
    """What `check` does, without haste; `path` is where `value` stands."""
    alternatives = schema.get("anyOf")
    if alternatives is not None:
        _check_any(value, alternatives, path)
        return
    kind = _kind(value, schema, path)
    allowed = schema.get("enum")
    if allowed is not None and value not in allowed:
        raise _invalid(path, f"must be {_either(allowed)}, not {value!r:.60}")
    if kind == "string":
        _check_string(value, schema, path)
    elif kind in ("integer", "number"):
        _check_number(value, schema, path)
    elif kind == "array":
        _check_array(value, schema, path)
    elif kind == "object":
        _check_object(value, schema, path)


def _types(schema: Schema) -> tuple[str, ...]:
    wanted = schema.get("type", ())
    return (wanted,) if isinstance(wanted, str) else tuple(wanted)


def _kind(value: Any, schema: Schema, path: str) -> str:
    """The JSON type of a value, which must be one that the schema allows."""
    kind = _JSON_TYPES[type(value)]
    wanted = _types(schema)
    if not wanted or kind in wanted:
        return kind
    if kind == "integer" and "number" in wanted:
        return "number"
    if kind == "number" and "integer" in wanted and value.is_integer():
        if abs(value) > EXACT:
            raise _invalid(path, f"must be an integer of 64 bits, written without a point, not {value}")
        return "integer"
    raise _wrong_type(path, wanted)


def _check_any(value: Any, alternatives: list[Schema], path: str) -> None:
    fitting = [each for each in alternatives if _fits(value, each)]
    if not fitting:
        raise _wrong_type(path, tuple(kind for each in alternatives for kind in _types(each)))
    if len(fitting) == 1:
        find_fault(value, fitting[0], path)
        return
    if isinstance(value, dict):
        find_fault(value, _tagged(value, fitting, path), path)
        return
    for each in fitting[:-1]:
        try:
            find_fault(value, each, path)
            return
        except BadRequest:
            continue
    find_fault(value, fitting[-1], path)


def _fits(value: Any, schema: Schema) -> bool:
    try:
        _kind(value, schema, "")
    except BadRequest:
        return False
    return True


def _tagged(value: dict[str, Any], alternatives: list[Schema], path: str) -> Schema:
    """The one of several kinds of object that a value's `role` or `type` says it is."""
    tag = next(tag for tag in TAGS if all(tag in each["properties"] for each in alternatives))
    if tag not in value:
        optional = [each for each in alternatives if tag not in each["required"]]
        if len(optional) == 1:
            return optional[0]
    if value.get(tag) is None:
        raise _missing(_join(path, tag))
    for each in alternatives:
        if value[tag] in each["properties"][tag]["enum"]:
            return each
    if not isinstance(value[tag], str):
        raise _wrong_type(_join(path, tag), ("string",))
    known = [word for each in alternatives for word in each["properties"][tag]["enum"]]
    raise _invalid(_join(path, tag), f"must be {_either(known)}, not {value[tag]!r:.60}")


def _check_string(value: str, schema: Schema, path: str) -> None:
    length = len(value)
    if length < schema.get("minLength", 0):
        raise _invalid(path, "must not be empty")
    if length > schema.get("maxLength", length):
        raise _invalid(path, f"must have at most {schema['maxLength']} characters, not {length}")
    pattern = schema.get("pattern")
    if pattern is not None and not _compiled(pattern).search(value):
        raise _invalid(path, f"must match {pattern}")


def _check_number(value: float, schema: Schema, path: str) -> None:
    low, high, above = schema.get("minimum"), schema.get("maximum"), schema.get("exclusiveMinimum")
    if (low is not None and value < low) or (high is not None and value > high):
        if low is None or high is None:
            side = f"at least {low}" if high is None else f"at most {high}"
            raise _invalid(path, f"must be {side}, not {value}")
        raise _invalid(path, f"must be from {low} to {high}, not {value}")
    if above is not None and value <= above:
        raise _invalid(path, f"must be above {above}, not {value}")


def _check_array(value: list[Any], schema: Schema, path: str) -> None:
    count = len(value)
    if count < schema.get("minItems", 0):
        raise _invalid(path, "is empty; it needs at least one entry")
    if count > schema.get("maxItems", count):
        raise _invalid(path, f"may have at most {schema['maxItems']} entries, not {count}")
    items = schema.get("items")
    if items is not None:
        for i, item in enumerate(value):
            find_fault(item, items, f"{path}[{i}]")


def _check_object(value: dict[str, Any], schema: Schema, path: str) -> None:
    properties: dict[str, Schema] = schema.get("properties", {})
    for tag in TAGS:  # first: what else is needed depends on what kind of thing it is
        if tag in properties and tag in value:
            find_fault(value[tag], properties[tag], _join(path, tag))
    for name in schema.get("required", ()):
        if value.get(name) is None and not (name in value and _fits(None, properties[name])):
            raise _missing(_join(path, name))
    if len(value) > schema.get("maxProperties", len(value)):
        raise _invalid(path, f"may have at most {schema['maxProperties']} entries, not {len(value)}")
    names, others = schema.get("propertyNames"), schema.get("additionalProperties", True)
    for name, item in value.items():
        known = properties.get(name)
        if known is not None:
            find_fault(item, known, _join(path, name))
        elif others is False:
            raise BadRequest(
                f"{_join(path, name)} is not known here; known are {_either(list(properties))}.",
                param=_join(path, name),
                code="unknown_parameter",
            )
        else:
            if names is not None:
                find_fault(name, names, path)
            if others is not True:
                find_fault(item, others, _join(path, name))


@lru_cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """A JSON Schema's pattern: there $ is the end and nothing else, in Python also before a last newline."""
    return re.compile(re.sub(r"\$$", r"\\Z", pattern), re.ASCII)


def _join(path: str, name: str) -> str:
    return f"{path}.{name[:64]}" if path else name[:64]


def _either(words: list[Any]) -> str:
    return " or ".join(repr(word) for word in words if word is not None)


def _invalid(path: str, complaint: str) -> BadRequest:
    return BadRequest(f"{path} {complaint}.", param=path)


def _wrong_type(path: str, wanted: tuple[str, ...]) -> BadRequest:
    words = dict.fromkeys(_WORDS[kind] for kind in wanted if kind != "null")
    return BadRequest(f"{path} must be {' or '.join(words)}.", param=path, code="invalid_type")


def _missing(path: str) -> BadRequest:
    return BadRequest(f"{path} is missing.", param=path, code="missing_required_parameter")
