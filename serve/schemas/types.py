"""JSON Schemas as msgspec types: what passes them passes the schema, at a tenth of the time.

`serve.schemas.validator` asks here first, and looks for the fault itself where something does not pass. So a
type may be stricter than its schema, and must never be laxer. It is stricter where the two do not count
alike: JSON's 7.0 is an integer for a schema, and none here; the kinds of an object are told apart by their
`type` or `role` alone.
"""

import re
from typing import Annotated, Any, Literal, Union

import msgspec
from msgspec import Meta

Schema = dict[str, Any]
Type = Any  # what msgspec takes for one: a class, a union or an annotation

EXACT = 2**53
"""Up to here a float is the integer that was sent; JSON's integers beyond 64 bits are read as floats, too."""
TAGS = ("role", "type")
"""The fields that say which of several kinds of object one is."""

_SIMPLE: dict[str, Type] = {"boolean": bool, "null": None}
_known: dict[int, tuple[Schema, Type | None]] = {}


class _Never:
    """What no JSON value is."""


class Unsupported(Exception):
    """The schema says something that no type here can say."""


def passes(value: Any, schema: Schema) -> bool:
    """Whether a JSON value surely fits a schema; False where that is to be found out.

    The type of each schema is made once: schemas are constants.
    """
    known = _known.get(id(schema))
    if known is None:
        known = _known[id(schema)] = (schema, _made(schema))
    if known[1] is None:
        return False
    try:
        msgspec.convert(value, known[1])
    except msgspec.ValidationError:
        return False
    return True


def _made(schema: Schema) -> Type | None:
    try:
        made = type_of(schema)
        msgspec.json.Decoder(made)  # raises TypeError for unions that msgspec cannot tell apart
    except (Unsupported, TypeError):
        return None
    return made


def type_of(schema: Schema) -> Type:
    """The type of what fits a schema. Raises Unsupported."""
    alternatives = schema.get("anyOf")
    if alternatives is None:
        return _union([_of_kind(schema, kind) for kind in _kinds(schema)])
    objects = [each for each in alternatives if "object" in _kinds(each)]
    others = [each for each in alternatives if "object" not in _kinds(each)]
    made = [type_of(each) for each in others]
    return _union(made + ([type_of(objects[0])] if len(objects) == 1 else _tagged(objects)))


def _kinds(schema: Schema) -> list[str]:
    """The JSON types that a schema allows."""
    kinds = schema.get("type")
    if kinds is None:
        raise Unsupported
    return [kinds] if isinstance(kinds, str) else list(kinds)


def _of_kind(schema: Schema, kind: str) -> Type:
    """The type of what fits a schema and is of one JSON type."""
    words = schema.get("enum")
    if words is not None and kind != "null":
        words = [word for word in words if word is not None]
        if kind != "string" or not all(isinstance(word, str) for word in words):
            return _Never
        return Literal[tuple(words)]
    if words is not None and None not in words:
        return _Never
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    if kind == "string":
        return _string(schema)
    if kind in ("integer", "number"):
        return _number(schema, kind)
    if kind == "array":
        items = schema.get("items")
        lengths = Meta(min_length=schema.get("minItems"), max_length=schema.get("maxItems"))
        return Annotated[list[Any if items is None else type_of(items)], lengths]  # type: ignore[misc]
    return _object(schema)


def _string(schema: Schema) -> Type:
    pattern = schema.get("pattern")
    if pattern is not None:  # as `serve.schemas.validator` reads it
        pattern = "(?a)" + re.sub(r"\$$", r"\\Z", pattern)
    return Annotated[
        str, Meta(min_length=schema.get("minLength"), max_length=schema.get("maxLength"), pattern=pattern)
    ]


def _number(schema: Schema, kind: str) -> Type:
    low, high, above = schema.get("minimum"), schema.get("maximum"), schema.get("exclusiveMinimum")
    if above is not None:
        if low is not None or kind == "integer":
            raise Unsupported
        return Annotated[float, Meta(gt=above, le=high)]
    if kind == "number":
        return Annotated[float, Meta(ge=low, le=high)]
    low = -EXACT if low is None else max(low, -EXACT)
    high = EXACT if high is None else min(high, EXACT)
    return Annotated[int, Meta(ge=low, le=high)]


def _object(schema: Schema) -> Type:
    properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    if properties:
        return _record(schema)
    if schema.get("required") or others is False:
        raise Unsupported
    names = type_of(schema["propertyNames"]) if "propertyNames" in schema else str
    values = Any if others is True else type_of(others)
    if names is str and values is Any:
        return Annotated[dict, Meta(max_length=schema.get("maxProperties"))]
    return Annotated[dict[names, values], Meta(max_length=schema.get("maxProperties"))]  # type: ignore[valid-type]


def _record(schema: Schema, tag: str | None = None, word: str | None = None) -> Type:
    """A struct for an object with properties; of a union, the one whose `tag` is a `word`."""
    properties, required = schema["properties"], schema.get("required", ())
    others = schema.get("additionalProperties", True)
    counted = "maxProperties" in schema or "propertyNames" in schema
    if counted or isinstance(others, dict) or not properties.keys() >= set(required):
        raise Unsupported
    fields: list[tuple[str, Type] | tuple[str, Type, None]] = []
    names: dict[str, str] = {}
    for name, each in properties.items():
        if name == tag:
            continue
        field = f"field{len(names)}"
        names[field] = name
        # A default is not checked: the field may be left out, and null is still what the type says.
        fields.append((field, type_of(each)) if name in required else (field, type_of(each), None))
    return msgspec.defstruct(
        "Record",
        fields,
        kw_only=True,
        rename=names,
        tag_field=tag,
        tag=word,
        forbid_unknown_fields=others is False,
    )


def _tagged(alternatives: list[Schema]) -> list[Type]:
    """Structs for several kinds of object, one for each word with which a kind says what it is."""
    if not alternatives:
        return []
    tag = next((tag for tag in TAGS if all(tag in each.get("properties", {}) for each in alternatives)), None)
    if tag is None:
        raise Unsupported
    found: dict[str, Type] = {}
    for each in alternatives:
        for word in each["properties"][tag].get("enum", (None,)):
            if not isinstance(word, str):
                raise Unsupported
            if word not in found:
                found[word] = _record(each, tag, word)
    return list(found.values())


def _union(types: list[Type]) -> Type:
    possible = [each for each in types if each is not _Never]
    return Union[tuple(possible)] if possible else _Never  # noqa: UP007
