"""Refusals of what other APIs have and this service does not: each says what would be right.

Bodies come here before any check: what is of a wrong type is left for the schema.
"""

from collections.abc import Mapping
from typing import Any

from serve.http.dialects import Foreign

Json = dict[str, Any]


def refuse_fields(body: Json, instead: Mapping[str, str]) -> None:
    """Raises Foreign for a field that is known elsewhere. instead: what to do in place of each."""
    for field, right in instead.items():
        if body.get(field) is not None:
            raise unsupported(field, f"{field} is not supported; {right}.")


def refuse_comparing(body: Json) -> None:
    """Raises Foreign for a wish for two answers, which have no shape here."""
    for field in ("compare", "compare_sparingly") if isinstance(body.get("hearken"), dict) else ():
        if body["hearken"].get(field):
            raise unsupported(
                f"hearken.{field}",
                f"hearken.{field} is not supported here; send a chat, or POST /v1/comparisons.",
            )


def records(value: object) -> list[Json]:
    """The objects of a list, where it is one; others stand for none, so that places are kept."""
    if not isinstance(value, list):
        return []
    return [each if isinstance(each, dict) else {} for each in value]


def unsupported(param: str, message: str) -> Foreign:
    """The refusal of a field."""
    return Foreign(message, param=param, code="unsupported_value")
