"""Tokens per event: every one by itself while an engine is at ease, several together when it is busy."""

from contextlib import ExitStack

import orjson
import pytest

from serve.engines.pacing import Pace
from serve.generation.requests import check_chat, upstream_body
from tests.serve.conftest import Gateway
from tests.serve.fake_vllm import FakeVllm, Trouble


def paced(tokens_per_second: float) -> Pace:
    pace = Pace()
    pace.note(1000, 1000 / tokens_per_second)
    return pace


@pytest.mark.parametrize(("in_flight", "tokens"), [(1, 1), (2, 1), (3, 4), (4, 4), (5, 16), (1000, 16)])
def test_events_carry_more_tokens_the_busier_an_engine_is(in_flight: int, tokens: int) -> None:
    assert paced(130).tokens_per_event(in_flight) == tokens


@pytest.mark.parametrize(("tokens_per_second", "tokens"), [(500, 16), (65, 8), (20, 2), (3, 1)])
def test_a_chat_moves_eight_times_a_second_where_its_engine_can(
    tokens_per_second: float, tokens: int
) -> None:
    assert paced(tokens_per_second).tokens_per_event(32) == tokens


def test_the_pace_is_that_of_late() -> None:
    pace = Pace()
    assert pace.tokens_per_event(32) == 1
    pace.note(3, 0.001)  # too short to tell
    assert pace.tokens_per_event(32) == 1
    pace.note(100, 1.0)
    assert pace.tokens_per_event(32) == 12
    for _ in range(30):
        pace.note(24, 1.0)
    assert pace.tokens_per_event(32) == 3


def test_a_busy_engine_whose_pace_is_known_is_asked_for_several(gateway: Gateway, fake: FakeVllm) -> None:
    gateway.chat(Trouble.LONG, stream=True)  # above 32 tokens a second unless it takes 18 s
    held = {"model": "hearken", "messages": [{"role": "user", "content": Trouble.HOLD}], "stream": True}
    with ExitStack() as stack:
        open_streams = [gateway.http.stream("POST", "/v1/chat/completions", json=held) for _ in range(2)]
        lines = [stack.enter_context(stream).iter_lines() for stream in open_streams]
        for each in lines:
            next(each)
        gateway.chat(stream=True)
        fake.release.set()
    assert [request.get("stream_interval") for request in fake.requests] == [None, None, None, 4]


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
    body = orjson.loads(upstream_body(check_chat(orjson.loads(raw), "hearken"), "base", "salt", None, 4))
    assert body.get("stream_interval") == interval
