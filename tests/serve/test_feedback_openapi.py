"""The document's schemas of feedback say what the gateway takes and refuses."""

from typing import Any

import jsonschema
import pytest

from serve.http.errors import BadRequest
from serve.votes.common import REASONS, SOURCES, Rules
from serve.votes.openapi import FEEDBACK_PATHS, FEEDBACK_SCHEMAS, VOTE
from serve.votes.vote import KINDS, parse_vote
from tests.serve.conftest import Gateway
from tests.serve.test_vote_kinds import (
    AGAIN,
    COMMENT,
    CORRECTION,
    METRIC,
    PAIR,
    RANKING,
    RATING,
    SIGNAL,
    THUMBS,
)

RULES = Rules(now=0.0, reasons=frozenset(REASONS), sources=SOURCES)
GOOD: list[dict[str, Any]] = [
    COMMENT, CORRECTION, METRIC, PAIR, RANKING, RATING, THUMBS, SIGNAL,
    SIGNAL | {"value": 12.5}, SIGNAL | {"shown": False}, AGAIN, AGAIN | {"kept": "old"},
]  # fmt: skip
NAMES = [f"{i}-{body['kind']}" for i, body in enumerate(GOOD)]


def is_described(body: object) -> bool:
    return bool(jsonschema.Draft202012Validator(VOTE).is_valid(body))


@pytest.mark.parametrize("body", GOOD, ids=NAMES)
def test_what_is_taken_is_described(body: dict[str, Any]) -> None:
    assert is_described(body)
    for field, value in (
        ("weight", 0.5),
        ("tags", ["a"]),
        ("reasons", ["style"]),
        ("source", "app"),
        ("metadata", {"a": "b"}),
        ("dry_run", True),
        ("nonsense", 1),
        ("arm", "canary"),
        ("weight", 2),
        ("source", "robot"),
        ("reasons", ["because"]),
        ("tags", [""]),
        ("metadata", {"a": 1}),
        ("user", 5),
        ("choice", -1),
        ("completion_id", 5),
    ):
        changed = body | {field: value}
        try:
            parse_vote(changed, RULES)
            taken = True
        except BadRequest:
            taken = False
        assert is_described(changed) == taken, changed


@pytest.mark.parametrize("body", GOOD, ids=NAMES)
@pytest.mark.parametrize("value", [None, "café", "a\x7f", ""], ids=["null", "café", "control", "empty"])
def test_a_field_is_described_as_it_is_taken(body: dict[str, Any], value: str | None) -> None:
    fields = {name for each in VOTE["anyOf"] for name in each["properties"]}
    for field in sorted(fields - {"user"}):
        changed = body | {field: value}
        try:
            parse_vote(changed, RULES)
        except BadRequest:
            told_in_words = field == "occurred_at" or (field, changed["kind"]) == ("name", "metric")
            assert told_in_words or not is_described(changed), changed
        else:
            assert is_described(changed), changed


def test_every_kind_and_route_is_described(gateway: Gateway) -> None:
    kinds = {each["properties"]["kind"]["const"] for each in VOTE["anyOf"]}
    assert kinds == set(KINDS)
    for schema in FEEDBACK_SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for path, operations in FEEDBACK_PATHS.items():
        for method in set(operations) - {"parameters"}:
            answer = gateway.http.request(method, path.replace("{", "").replace("}", ""))
            assert answer.json().get("error", {}).get("code") not in ("unknown_url", "method_not_allowed")
