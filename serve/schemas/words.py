"""The words that schemas of requests and of answers are written with."""

from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
NAME: Schema = {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"}  # of a function
FREE: Schema = {"type": "object"}
NULL: Schema = {"type": "null"}
TEXT: Schema = {"type": ["string", "null"]}  # where there may be none


def or_null(schema: Schema) -> Schema:
    """The schema, and null besides."""
    return (
        schema
        | {"type": [schema["type"], "null"]}
        | ({"enum": [*schema["enum"], None]} if "enum" in schema else {})
    )


def record(required: list[str], **properties: Schema) -> Schema:
    """An object with these properties; it may have others."""
    return {"type": "object", "properties": properties, "required": required}


def word(*words: str) -> Schema:
    """One of a few strings."""
    return {"type": "string", "enum": list(words)}


def list_of(items: Schema, at_least: int = 0) -> Schema:
    """A list, of so many entries at least."""
    return {"type": "array", "items": items} | ({"minItems": at_least} if at_least else {})


def number(low: float, high: float) -> Schema:
    """A number within bounds."""
    return {"type": "number", "minimum": low, "maximum": high}


def integer(low: int, high: int | None = None) -> Schema:
    """An integer within bounds."""
    return {"type": "integer", "minimum": low} | ({} if high is None else {"maximum": high})


COUNT = integer(0)


def of(**properties: Schema) -> Schema:
    """An object that has all of these; it may have others."""
    return record(list(properties), **properties)


def optional(schema: Schema, **properties: Schema) -> Schema:
    """An object's schema with properties that it may have besides."""
    return schema | {"properties": schema["properties"] | properties}


def ref(name: str) -> Schema:
    """A schema of the document's components."""
    return {"$ref": f"#/components/schemas/{name}"}
