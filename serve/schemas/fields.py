"""Checks of single JSON fields by hand: a vote has a dozen, and thousands of votes come in a second."""

from collections.abc import Callable
from datetime import datetime
from math import isfinite
from typing import Any, NoReturn

from serve.http.errors import BadRequest

Json = dict[str, Any]

MAX_ID_CHARS = 128  # of a completion id, or of a name that a team gave


def missing(field: str, hint: str = "") -> NoReturn:
    """Raises: a required field is not there."""
    raise BadRequest(
        f"{field} is missing{'; ' + hint if hint else ''}.", param=field, code="missing_required_parameter"
    )


def wrong_type(field: str, words: str) -> NoReturn:
    """Raises: a field is not of the JSON type that is needed."""
    raise BadRequest(f"{field} must be {words}.", param=field, code="invalid_type")


def string(body: Json, field: str, at_most: int, at: str = "") -> str | None:
    """A string of 1 to `at_most` characters, or None when it is absent. `at`: where the object is."""
    value = body.get(field)
    if value is None:
        return None
    field = at + field
    if type(value) is not str:
        wrong_type(field, "a string")
    if not 0 < len(value) <= at_most:
        raise BadRequest(f"{field} must have 1 to {at_most} characters, not {len(value)}.", param=field)
    return value


def name(body: Json, field: str, at_most: int, at: str = "") -> str | None:
    """A string without control characters, for ids and names. `at`: where the object is."""
    value = string(body, field, at_most, at)
    if value is not None and not value.isprintable():
        raise BadRequest(f"{at}{field} has characters that cannot be printed.", param=at + field)
    return value


def number(body: Json, field: str) -> float | None:
    """A finite number, or None when it is absent."""
    value = body.get(field)
    return None if value is None else finite(value, field)


def finite(value: object, field: str) -> float:
    """`value` as a float. Raises BadRequest when it is no finite number."""
    if type(value) is float or type(value) is int:
        value = float(value)
        if isfinite(value):
            return value
    wrong_type(field, "a finite number")


def one_of(body: Json, field: str, allowed: frozenset[str]) -> str | None:
    """One of a few words, or None when it is absent."""
    value = body.get(field)
    if value is None:
        return None
    if type(value) is not str or value not in allowed:
        raise BadRequest(f"{field} must be {_either(allowed)}, not {value!r:.80}.", param=field)
    return value


def span(body: Json, field: str) -> tuple[float, float] | None:
    """[lowest, highest], or None when it is absent."""
    value = body.get(field)
    if value is None:
        return None
    if type(value) is not list or len(value) != 2:
        wrong_type(field, "a list of two numbers, [lowest, highest]")
    low, high = finite(value[0], f"{field}[0]"), finite(value[1], f"{field}[1]")
    if not low < high or not isfinite(high - low):
        raise BadRequest(f"{field} must be [lowest, highest] with lowest < highest.", param=field)
    return low, high


def words(body: Json, field: str, at_most: int, check: Callable[[str], str | None]) -> list[str]:
    """A list of different strings; `check` says what is wrong with one of them, or None."""
    value = body.get(field)
    if value is None:
        return []
    if type(value) is not list:
        wrong_type(field, "a list of strings")
    if len(value) > at_most:
        raise BadRequest(f"{field} may have at most {at_most} entries, not {len(value)}.", param=field)
    for i, word in enumerate(value):
        if type(word) is not str:
            wrong_type(f"{field}[{i}]", "a string")
        complaint = check(word)
        if complaint is not None:
            raise BadRequest(f"{field}[{i}] {complaint}.", param=f"{field}[{i}]")
    return list(dict.fromkeys(value))


def pairs(body: Json, field: str, at_most: int, key_chars: int, value_chars: int) -> dict[str, str]:
    """An object of strings, as OpenAI's `metadata`."""
    value = body.get(field)
    if value is None:
        return {}
    if type(value) is not dict:
        wrong_type(field, "an object of strings")
    if len(value) > at_most:
        raise BadRequest(f"{field} may have at most {at_most} entries, not {len(value)}.", param=field)
    for key, item in value.items():
        if not 0 < len(key) <= key_chars:
            raise BadRequest(f"{field}: a key must have 1 to {key_chars} characters.", param=field)
        if type(item) is not str:
            wrong_type(f"{field}.{key}", "a string")
        if len(item) > value_chars:
            raise BadRequest(
                f"{field}.{key} must have at most {value_chars} characters.", param=f"{field}.{key}"
            )
    return value


def moment(body: Json, field: str) -> float | None:
    """A point in time as Unix seconds; sent as such or in ISO 8601 with its offset from UTC."""
    value = body.get(field)
    if value is None or type(value) is not str:
        return number(body, field)
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None:
        raise BadRequest(
            f"{field} must be Unix time in seconds, or like '2026-03-01T12:00:00Z'.", param=field
        )
    return parsed.timestamp()


def flag(body: Json, field: str) -> bool:
    """true or false; absent is false."""
    value = body.get(field)
    if value is None:
        return False
    if type(value) is not bool:
        wrong_type(field, "true or false")
    return value


def _either(allowed: frozenset[str]) -> str:
    return " or ".join(repr(word) for word in sorted(allowed))
