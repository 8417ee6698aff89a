"""How much a request may ask of constrained decoding.

vLLM compiles a schema into a grammar, and what that takes can grow with its square: 5,000 optional properties
are minutes of a core and gigabytes of memory, from one request of 100 kB. The bounds are OpenAI's for enums;
for properties a fifth of theirs, and because there all of them have to be required, fewer of optional ones.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import unquote

import orjson

from serve.generation.patterns import MAX_DEPTH, MAX_REPEATS, work_of
from serve.http.errors import BadRequest

Json = dict[str, Any]

MAX_PROPERTIES = 1_000
MAX_OPTIONAL = 300  # properties that may be left out of one object; of several, by the sum of their squares
MAX_LENGTHS = 20  # different pairs of minLength and maxLength: each is up to a tenth of a second of a core
MAX_KINDS = 300  # in one anyOf or oneOf
MAX_VALUES = 1_000  # of enums and choices
MAX_PATTERN_CHARS = 4_096  # of regular expressions
MAX_PATTERN_WORK = 2**18  # of the patterns of schemas: their lengths written out, squared, summed up
MAX_BYTES = 128 * 1024  # written as JSON

_SOURCES = ("response_format", "tools", "structured_outputs")
_AGAINST = ("allowed_token_ids", "bad_words")
_GRAMMARS = ("grammar", "structural_tag")  # the latter can have the former in it
_ANY = frozenset({*_SOURCES, *_AGAINST, "tool_choice"})


def check_grammars(body: Json) -> None:
    """Raises BadRequest, naming the field, where a request needs a grammar that is too large, or fails.

    `body` has passed the check of its schema, in which vLLM's own `structured_outputs` may be anything.
    """
    if _ANY.isdisjoint(body):  # most requests
        return
    for field, source in _sources(body):
        if len(orjson.dumps(source)) > MAX_BYTES:
            raise BadRequest(f"{field} may have at most {MAX_BYTES // 1024} kB.", param=field)
        if any(_is_circular(schema) for schema in _schemas(field, source)):
            raise BadRequest(
                f"A schema in {field} refers to itself and to nothing else, so no value fits it.", param=field
            )
        counts = _Counts(source)
        _check_patterns(field, counts)
        if counts.optional > MAX_OPTIONAL**2:
            raise BadRequest(
                f"An object in {field} may have at most {MAX_OPTIONAL} properties that are not required, and "
                f"several objects fewer each, such as 100 objects with {MAX_OPTIONAL // 10}.",
                param=field,
            )
        for count, most, what in (
            (counts.properties, MAX_PROPERTIES, "properties"),
            (counts.values, MAX_VALUES, "values to choose from"),
            (len(counts.lengths), MAX_LENGTHS, "different pairs of minLength and maxLength"),
            (counts.kinds, MAX_KINDS, "schemas in one anyOf or oneOf"),
            (counts.pattern_chars, MAX_PATTERN_CHARS, "characters of regular expressions"),
        ):
            if count > most:
                raise BadRequest(f"{field} may have at most {most} {what}, not {count}.", param=field)
    _check_possible(body)


def _check_patterns(field: str, counts: "_Counts") -> None:
    """Raises BadRequest where a schema's regular expressions fail in an engine, or take it long."""
    schemas = [work_of(pattern) for pattern in counts.patterns]
    works = [*schemas, *(work_of(regex, unrolled=False) for regex in counts.regexes)]
    if any(work.loops or work.depth > MAX_DEPTH for work in works):
        raise BadRequest(
            f"A regular expression in {field} repeats a group that may be empty, as (a*)* does, or has "
            f"repetitions without a bound in more than {MAX_DEPTH} levels, as ((a+)+)+ does; the model "
            "server takes ever longer with those. Write it with fewer: a* and a+ say the same.",
            param=field,
        )
    times = max((work.times for work in schemas), default=0)
    if times > MAX_REPEATS:
        raise BadRequest(
            f"A regular expression of a schema in {field} repeats something {times} times; the model server "
            f"can compile at most {MAX_REPEATS}. For the length of a string use maxLength.",
            param=field,
        )
    if sum(work.repeated**2 for work in works) > MAX_PATTERN_WORK:
        longest = max(work.repeated for work in works)
        raise BadRequest(
            f"The {len(works)} regular expressions in {field} take too long to compile: with its "
            f"repetitions written out the longest has {longest} characters, one outside of ASCII counted as "
            f"four. Squared and summed up that may be {MAX_PATTERN_WORK}, as much as one of 512 or 64 of 64.",
            param=field,
        )


def _check_possible(body: Json) -> None:
    """What vLLM takes, and then has no token to sample: an error of the engine, not of the request."""
    outputs = body.get("structured_outputs")
    for name in _GRAMMARS:
        if isinstance(outputs, dict) and outputs.get(name) is not None:
            raise BadRequest(
                f"structured_outputs.{name} is not supported; send json, regex or choice.",
                param=f"structured_outputs.{name}",
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


def _schemas(field: str, source: Any) -> Iterator[Any]:
    """The JSON Schemas in a field of `_SOURCES`."""
    if field == "tools":
        yield from (tool["function"].get("parameters") for tool in source)
    elif field == "response_format":
        yield (source.get("json_schema") or {}).get("schema")
    elif isinstance(source, dict):
        yield source.get("json", source)


def _is_circular(root: Any) -> bool:
    """Whether some schema of a document has to be what it is itself before anything is said of a value.

    No value fits {"$ref": "#"}, and vLLM finds out when there is no token to sample. What is followed are
    references and allOf; a schema that has itself inside of a value ({"items": {"$ref": "#"}}) is none.
    """
    done: set[int] = set()
    within: set[int] = set()  # the schemas on the way to the one that is looked at
    for schema in _objects(root):
        way = [(schema, iter((schema,)))]
        while way:
            child = next(way[-1][1], None)
            if child is None:
                left = id(way.pop()[0])
                within.discard(left)
                done.add(left)
            elif id(child) in within:
                return True
            elif id(child) not in done:
                within.add(id(child))
                way.append((child, iter(_musts(child, root))))
    return False


def _musts(schema: Json, root: Any) -> list[Json]:
    """The schemas that a value has to fit as well when it fits a schema."""
    parts = schema.get("allOf")
    found = [_referred(schema.get("$ref"), root), *(parts if isinstance(parts, list) else ())]
    return [each for each in found if isinstance(each, dict)]


def _objects(source: Any) -> Iterator[Json]:
    """The objects in some JSON, however deep."""
    rest = [source]
    while rest:
        each = rest.pop()
        if isinstance(each, list):
            rest += each
        elif isinstance(each, dict):
            rest += each.values()
            yield each


def _referred(reference: Any, root: Any) -> Any:
    """What a JSON pointer into a document means, None when there is no such thing."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        return None
    found = root
    for step in unquote(reference[1:]).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict):
            found = found.get(name)
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found


class _Counts:
    """How much of what makes grammars large there is in some JSON, however deep."""

    def __init__(self, source: Any) -> None:
        self.properties = self.values = self.pattern_chars = 0
        self.optional = 0  # the sum of squares
        self.kinds = 0  # of the longest anyOf or oneOf
        self.lengths: set[tuple[str, str]] = set()
        self.patterns: list[str] = []  # of schemas
        self.regexes: list[str] = []  # which are compiled in another way
        for each in _objects(source):
            self._add(each)

    def _add(self, schema: Json) -> None:
        if isinstance(schema.get("properties"), dict):
            self.properties += len(schema["properties"])
            self.optional += _optional(schema) ** 2
        self.values += sum(len(v) for name in ("enum", "choice") if isinstance(v := schema.get(name), list))
        self.kinds = max(
            [self.kinds, *(len(v) for name in ("anyOf", "oneOf") if isinstance(v := schema.get(name), list))]
        )
        bounds = (schema.get("minLength"), schema.get("maxLength"))
        if any(isinstance(bound, int | float) for bound in bounds):
            self.lengths.add((str(bounds[0]), str(bounds[1])))
        here = [schema.get("pattern"), *_keys(schema.get("patternProperties"))]
        self.patterns += [each for each in here if isinstance(each, str)]
        self.regexes += [each for each in (schema.get("regex"),) if isinstance(each, str)]
        self.pattern_chars = sum(map(len, self.patterns)) + sum(map(len, self.regexes))


def _optional(schema: Json) -> int:
    """How many properties of an object may be left out."""
    required = schema.get("required")
    named = {each for each in required if isinstance(each, str)} if isinstance(required, list) else set()
    return len(schema["properties"].keys() - named)


def _keys(value: Any) -> Iterable[str]:
    return value if isinstance(value, dict) else ()
