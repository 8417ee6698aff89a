"""Bodies of requests with something changed in them, for tests that compare two ways to check them."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import orjson
from hypothesis import settings
from hypothesis import strategies as st

from serve.http.errors import ApiError
from serve.schemas.types import EXACT

MANY = settings(max_examples=400, deadline=None)

WORDS = st.sampled_from(
    [
        *("", "user", "function", "text", "thumbs", "down", "app", "import", "none", "type", "role"),
        *("a\n", "look_up\n", "x\x7f", "é", "42", "4\n"),
    ]
)
LONG = st.sampled_from([64, 65, 128, 129, 255, 256, 512, 513, 10_001]).flatmap(
    lambda length: st.sampled_from(["a" * length, "😀" * length])
)
INTEGERS = st.sampled_from(
    [
        *(0, 1, -1, 2, 3, 17, 128, 129, 1023, 1024, 2**31),
        *(EXACT, EXACT + 1, -EXACT - 1, 2**63 - 1, 2**64 - 1, -(2**63)),
    ]
)
FLOATS = st.sampled_from([0.0, -0.0, 1.0, 1.5, 2.0, 2.0000001, 7.0, 100.5, 1e17, 1e300, 5e-324])
SCALARS = st.none() | st.booleans() | INTEGERS | FLOATS | WORDS | LONG
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
PIECES = st.sampled_from(
    [
        *(b"NaN", b"-Infinity", b"1e999", b"18446744073709551616", b"-0", b"01", b"1.0"),
        *(
            b'"\\ud800"',
            b'"\\ud83d\\ude00"',
            b'"\xff"',
            b'"\xed\xa0\x80"',
            b'"a\x01"',
            b'"\\u0000"',
            b'"\\x"',
        ),
        *(b"{}", b"[]", b"null", b"true", b'"up"', b",", b'"', b"[" * 120),
        *(b"\xef\xbb\xbf", b"\x0b", b" ", b"\t\r\n", b"/**/"),
    ]
)
FIELDS = st.sampled_from(
    [
        *(b'"k\\u0069nd":"thumbs"', b'"kind":"rating"', b'"kind":"thumbs"', b'"value":"down"', b'"value":1'),
        *(b'"choice":2', b'"choice":-0', b'"user":null', b'"x":1', b'"metadata":{"a":"1","a":"2"}'),
    ]
)

Way = tuple[Any, ...]


def ways(value: Any, way: Way = ()) -> list[Way]:
    """The ways to all that is inside of some JSON."""
    inside: list[Any] = []
    if isinstance(value, dict):
        inside = list(value.items())
    elif isinstance(value, list):
        inside = list(enumerate(value))
    return [way] * bool(way) + [found for key, each in inside for found in ways(each, (*way, key))]


def at(value: Any, way: Way) -> Any:
    """What is at the end of a way."""
    for step in way:
        value = value[step]
    return value


def near(value: Any) -> list[Any]:
    """What is nearly the same: by a character, by one, by its type."""
    if isinstance(value, str):
        return [value + "\n", "\n" + value, value + "٣", value[:-1], value.upper(), [value], {value: value}]
    if isinstance(value, int | float):
        numbers = [value + 1, value - 1, -value, float(value), value + 0.5, bool(value), int(value)]
        read = [each for each in numbers if isinstance(each, float) or -(2**63) <= each < 2**64]
        return [*read, str(value)]  # larger integers are read as floats
    if isinstance(value, list):
        return [value * 70, [*value, *value[:1]], value[:-1], dict.fromkeys(map(str, value)), None]
    if isinstance(value, dict):
        renamed = [{key + end: each for key, each in value.items()} for end in ("\n", "٣", "s" * 64)]
        added = [value | {"one more": "1"}, value | {"": "1"}]
        return [*renamed, *added, [list(pair) for pair in value.items()], [value], None]
    return [False, 0, "", "null", [], {}]


def neighbours(body: Any) -> Iterator[Any]:
    """A body with each one value changed to what is near, taken away, or of another type."""
    for way in ways(body):
        for each in (*near(at(body, way)), None, True, 0, 1, 2.0, -1.5, "", "x", [], {}, ["x"], {"x": 1}):
            other = copy.deepcopy(body)
            at(other, way[:-1])[way[-1]] = each
            yield other
        other = copy.deepcopy(body)
        del at(other, way[:-1])[way[-1]]
        yield other


@st.composite
def changed(draw: st.DrawFn, bodies: list[Any]) -> Any:
    """A body with up to three changes: values tweaked, replaced, lent from elsewhere, taken away or added."""
    body = copy.deepcopy(draw(st.sampled_from(bodies)))
    for _ in range(draw(st.integers(0, 3))):
        known = ways(body)
        if not known:
            break
        way = draw(st.sampled_from(known))
        around, last = at(body, way[:-1]), way[-1]
        change = draw(st.sampled_from(["tweak", "tweak", "replace", "lend", "remove", "add"]))
        if change == "tweak":
            around[last] = draw(st.sampled_from(near(around[last])))
        elif change == "replace":
            around[last] = draw(VALUES)
        elif change == "lend":
            around[last] = copy.deepcopy(at(body, draw(st.sampled_from(known))))
        elif change == "remove":
            del around[last]
        elif isinstance(around, dict):
            names = WORDS | st.sampled_from([str(each[-1]) for each in known])
            around[draw(names)] = draw(VALUES)
        else:
            around *= draw(st.sampled_from([2, 70]))
    return body


@st.composite
def torn(draw: st.DrawFn, bodies: list[Any]) -> bytes:
    """The bytes of a changed body, with up to three pieces put in, taken out or replaced.

    A field may be there twice.
    """
    raw = orjson.dumps(draw(changed(bodies)))
    for _ in range(draw(st.integers(0, 3))):
        joints = [0, *(i for i, byte in enumerate(raw) if byte in b'{}[],:"')]
        start = draw(st.sampled_from(joints))
        change = draw(st.sampled_from(["insert", "field first", "field last", "replace", "cut"]))
        if change == "insert":
            raw = raw[:start] + draw(PIECES) + raw[start:]
        elif change == "field first":
            raw = raw.replace(b"{", b"{" + draw(FIELDS) + b",", 1)
        elif change == "field last":
            raw = raw[:-1] + b"," + draw(FIELDS) + b"}"
        else:
            end = draw(st.sampled_from([each for each in [*joints, len(raw)] if each >= start]))
            raw = raw[:start] + (draw(PIECES) if change == "replace" else b"") + raw[end:]
    return raw


def outcome(work: Callable[[], object]) -> object:
    """What comes of some work: its result with the types of all values, or its error."""
    try:
        return repr(work())
    except ApiError as error:
        return type(error), error.message, error.param, error.code
