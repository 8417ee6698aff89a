"""Thumbs that are read fast are what they are field by field: the same votes, the same errors."""

import time
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serve.generation.requests import MAX_USER_CHARS
from serve.http.bodies import parse_object
from serve.http.errors import BadRequest
from serve.votes.bodies import Thumb, as_json, parsed, read_vote, split, thumb_of
from serve.votes.common import MAX_COMMENT_CHARS, MAX_KEY_CHARS, MAX_TOKEN_CHARS, REASONS, Rules
from serve.votes.targets import MAX_CHOICE
from serve.votes.vote import parse_vote
from tests.serve.mutating import MANY, neighbours, outcome, torn

THUMB = {"kind": "thumbs", "completion_id": "chatcmpl-1", "value": "up"}
FAST: list[Any] = [
    THUMB,
    THUMB | {"value": False, "choice": 3, "user": "", "source": "app", "metadata": {"a": "b"}},
    THUMB | {"comment": "good", "idempotency_key": "k", "token": "t", "dry_run": True, "source": None},
    # at their limits
    THUMB | {"choice": MAX_CHOICE, "user": "😀" * MAX_USER_CHARS, "comment": "c" * MAX_COMMENT_CHARS},
    THUMB | {"choice": 0, "metadata": {f"{i:064}": "v" * 512 for i in range(16)}},
    THUMB | {"idempotency_key": "k" * MAX_KEY_CHARS, "token": "t" * MAX_TOKEN_CHARS},
]
OTHERS: list[Any] = [
    THUMB | {"tags": ["a"], "reasons": ["style"], "weight": 0.5},
    {"kind": "rating", "completion_id": "chatcmpl-1", "value": 4},
]
VOTES = [*FAST, *OTHERS]
RULES = [
    Rules(time.time(), frozenset(REASONS), frozenset(sources))
    for sources in (["end_user", "app"], ["app"], ["end_user", "app", "import"])
]


def test_thumbs_of_the_usual_fields_are_read_fast() -> None:
    assert all(thumb_of(orjson.dumps(each)) is not None for each in FAST)
    assert all(type(each) is Thumb for each in split(orjson.dumps(FAST), "application/json"))
    assert all(type(parsed(orjson.dumps(each))) is Thumb for each in FAST)


def test_a_batch_with_another_vote_is_read_as_json() -> None:
    assert split(orjson.dumps(VOTES), "application/json") == VOTES


@pytest.mark.parametrize("rules", RULES, ids=["usual", "app", "operator"])
def test_a_vote_with_one_change_is_what_it_is_field_by_field(rules: Rules) -> None:
    for body in (near for vote in VOTES for near in neighbours(vote)):
        raw = orjson.dumps(body)
        fast = outcome(lambda raw=raw: read_vote(thumb_of(raw) or parse_object(raw), rules))
        assert fast == outcome(lambda body=body: parse_vote(body, rules)), body


@MANY
@given(torn(VOTES), st.sampled_from(RULES))
@example(b'{"kind":"rating","kind":"thumbs","completion_id":"c","value":"up"}', RULES[0])
@example(b'{"kind":"thumbs","kind":"rating","completion_id":"c","value":"up"}', RULES[0])
@example(b'{"kind":"thumbs","completion_id":"c","value":1}', RULES[0])
@example(b'{"kind":"thumbs","completion_id":"c","value":"up","user":"\\ud800"}', RULES[0])
@example(b'{"kind":"thumbs","completion_id":"c","value":"up","user":"\xff"}', RULES[0])
@example(b'{"kind":"thumbs","completion_id":"c","value":"up","choice":1.0}', RULES[0])
@example(b'{"kind":"thumbs","completion_id":"c","value":"up","choice":true}', RULES[0])
@example(b'{"kind":"thumbs","completion_id":"c","value":"up","source":"import"}', RULES[0])
def test_a_vote_is_what_it_is_field_by_field(raw: bytes, rules: Rules) -> None:
    def fast() -> object:
        return read_vote(thumb_of(raw) or parse_object(raw), rules)

    assert outcome(fast) == outcome(lambda: parse_vote(parse_object(raw), rules))


@MANY
@given(torn(VOTES))
def test_a_thumb_is_still_the_json_that_it_was(raw: bytes) -> None:
    thumb = thumb_of(raw)
    if thumb is not None:  # also what an idempotency key is remembered with
        by_name = orjson.OPT_SORT_KEYS
        assert orjson.dumps(as_json(thumb), option=by_name) == orjson.dumps(orjson.loads(raw), option=by_name)


@MANY
@given(st.lists(torn(VOTES), min_size=1, max_size=3), st.sampled_from(RULES))
@example([orjson.dumps(THUMB)] * 2, RULES[0])
def test_a_batch_is_what_it_is_field_by_field(votes: list[bytes], rules: Rules) -> None:
    raw = b"[" + b",".join(votes) + b"]"

    def fast() -> object:
        items = split(raw, "application/json")
        return [outcome(lambda item=item: read_vote(item, rules)) for item in items]

    def by_field() -> object:
        try:
            items = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from error
        if not items:
            raise BadRequest("The batch is empty; send at least one vote.", code="empty_batch")
        return [outcome(lambda item=item: parse_vote(item, rules)) for item in items]

    assert outcome(fast) == outcome(by_field)


@MANY
@given(torn(VOTES).filter(lambda raw: b"\n" not in raw), st.sampled_from(RULES))
def test_a_line_is_what_it_is_field_by_field(line: bytes, rules: Rules) -> None:
    def by_field() -> object:
        try:
            item = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"This line is not valid JSON: {error}.", code="invalid_json") from error
        return parse_vote(item, rules)

    assert outcome(lambda: read_vote(parsed(line), rules)) == outcome(by_field)
