"""How much a request may ask of constrained decoding.

vLLM compiles a schema into a grammar, and what that takes can grow with its square: 5,000 optional properties
are minutes of a core and gigabytes of memory, from one request of 100 kB. The bounds are OpenAI's for enums;
for properties a fifth of theirs, because there all of them have to be required.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import orjson

from serve.errors import BadRequest

Json = dict[str, Any]

MAX_PROPERTIES = 1_000
MAX_VALUES = 1_000  # of enums and choices
MAX_PATTERN_CHARS = 4_096  # of regular expressions
MAX_BYTES = 128 * 1024  # written as JSON

_SOURCES = ("response_format", "tools", "structured_outputs")
_AGAINST = ("allowed_token_ids", "bad_words")


def check_grammars(body: Json) -> None:
    """Raises BadRequest, naming the field, where a request needs a grammar that is too large, or fails.

    `body` has passed the check of its schema, in which vLLM's own `structured_outputs` may be anything.
    """
    for field, source in _sources(body):
        if len(orjson.dumps(source)) > MAX_BYTES:
            raise BadRequest(f"{field} may have at most {MAX_BYTES // 1024} kB.", param=field)
        counts = _Counts(source)
        for count, most, what in (
            (counts.properties, MAX_PROPERTIES, "properties"),
            (counts.values, MAX_VALUES, "values to choose from"),
            (counts.pattern_chars, MAX_PATTERN_CHARS, "characters of regular expressions"),
        ):
            if count > most:
                raise BadRequest(f"{field} may have at most {most} {what}, not {count}.", param=field)
    _check_possible(body)


def _check_possible(body: Json) -> None:
    """What vLLM takes, and then has no token to sample: an error of the engine, not of the request."""
    outputs = body.get("structured_outputs")
    if isinstance(outputs, dict) and outputs.get("grammar") is not None:
        raise BadRequest(
            "structured_outputs.grammar is not supported; send json, regex or choice.",
            param="structured_outputs.grammar",
            code="unsupported_parameter",
        )
    against = next((field for field in _AGAINST if body.get(field)), None)
    if against is not None and (forced := _forced_by(body)) is not None:
        raise BadRequest(f"{against} cannot be combined with {forced}.", param=against)


def _forced_by(body: Json) -> str | None:
    """The field that leaves only what fits a grammar to be sampled."""
    if body.get("structured_outputs"):
        return "structured_outputs"
    if (body.get("response_format") or {"type": "text"})["type"] != "text":
        return "response_format"
    return "tool_choice" if body.get("tool_choice") not in (None, "none", "auto") else None


def _sources(body: Json) -> Iterator[tuple[str, Any]]:
    """The fields that vLLM makes a grammar of, where they are there, and what is in them."""
    for field in _SOURCES:
        if body.get(field) is not None:
            yield field, body[field]
    outputs = body.get("structured_outputs")
    if isinstance(outputs, dict) and isinstance(outputs.get("json"), str):  # a schema as text
        with contextlib.suppress(orjson.JSONDecodeError):  # which vLLM refuses
            yield "structured_outputs", orjson.loads(outputs["json"])


class _Counts:
    """How much of what makes grammars large there is in some JSON, however deep."""

    def __init__(self, source: Any) -> None:
        self.properties = self.values = self.pattern_chars = 0
        rest = [source]
        while rest:
            each = rest.pop()
            if isinstance(each, list):
                rest += each
            elif isinstance(each, dict):
                rest += each.values()
                self._add(each)

    def _add(self, schema: Json) -> None:
        if isinstance(schema.get("properties"), dict):
            self.properties += len(schema["properties"])
        self.values += sum(len(v) for name in ("enum", "choice") if isinstance(v := schema.get(name), list))
        self.pattern_chars += sum(
            len(v) for name in ("pattern", "regex") if isinstance(v := schema.get(name), str)
        )
