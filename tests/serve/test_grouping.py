"""Tokens per event: every one by itself while an engine is at ease, several together when it is busy."""

import orjson
import pytest

from serve.chat import tokens_per_event
from serve.requests import parse_chat, upstream_body


@pytest.mark.parametrize(
    ("in_flight", "tokens"), [(1, 1), (2, 1), (3, 2), (6, 2), (7, 4), (16, 4), (17, 8), (1000, 8)]
)
def test_events_carry_more_tokens_the_busier_an_engine_is(in_flight: int, tokens: int) -> None:
    assert tokens_per_event(in_flight) == tokens


@pytest.mark.parametrize(
    ("sent", "interval"),
    [
        ({"stream": True}, 4),
        ({"stream": True, "stream_interval": 1}, 1),  # the client's own wish
        ({}, None),  # a whole answer has no events
    ],
)
def test_what_the_engine_is_asked_for(sent: dict[str, object], interval: int | None) -> None:
    raw = orjson.dumps({"model": "hearken", "messages": [{"role": "user", "content": "hi"}], **sent})
    body = orjson.loads(upstream_body(parse_chat(raw, "hearken"), "base", None, 4))
    assert body.get("stream_interval") == interval
