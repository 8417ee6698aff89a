"""An engine fails a request: whose fault that is, what moves the breaker, and what a key may send of it."""

import itertools
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.history.table import RoutingTable
from feedback.shared import SqliteStore
from feedback.sqlite.log import SqliteLog
from serve.auth.limits import Limits
from serve.engines.attempts import Want
from serve.engines.upstream import EngineGone, EngineLost, Failed, PolicyMissing, Refused, UpstreamError
from serve.engines.watching import Engine
from tests.serve.conftest import Gateway, Start, ask_and_leave, eventually, serving
from tests.serve.fake_vllm import FakeVllm, Trouble
from tests.serve.test_access import CHAT, add_key, bearer
from tests.serve.test_engines import LIVE, chat_on, in_use, texts
from tests.serve.test_errors import error_of

TROUBLES = [
    *(Trouble.CRASH, Trouble.GARBLE, Trouble.BREAK, Trouble.DIE, Trouble.FAIL, Trouble.FAIL_FIRST),
    *(Trouble.TOO_LONG, Trouble.REFUSED, Trouble.UNPAIRED, "hi"),
]
BODIES = st.sampled_from(TROUBLES) | st.integers(400, 599).map(lambda status: f"{Trouble.STATUS}{status}")


@pytest.fixture(scope="module")
def two_engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, list[FakeVllm]]]:
    data = tmp_path_factory.mktemp("two")
    engines = [FakeVllm().start() for _ in range(2)]
    with (
        closing(SqliteLog(data / "log.db")) as log,
        closing(SqliteStore(data / "shared.db")) as store,
        serving(data, log, store, tuple(engine.url for engine in engines)) as gateway,
    ):
        eventually(lambda: all(in_use(gateway, engine) for engine in engines), "both are in use")
        yield gateway, engines
    for engine in engines:
        engine.stop()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies=st.lists(st.tuples(BODIES, st.booleans()), min_size=1, max_size=12))
def test_no_bodies_move_a_breaker_while_the_engine_answers_us(
    two_engines: tuple[Gateway, list[FakeVllm]],
    caplog: pytest.LogCaptureFixture,
    bodies: list[tuple[str, bool]],
) -> None:
    gateway, engines = two_engines
    caplog.clear()
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(len(bodies)) as pool:
        answers = list(pool.map(lambda body: gateway.chat(body[0], stream=body[1]), bodies))
        after = gateway.chat("hi")
    assert after.status_code == 200
    for (content, _), answer in zip(bodies, answers, strict=True):
        assert answer.status_code == 200 or content != "hi"
    assert "out of use" not in caplog.text
    assert all(in_use(gateway, engine) for engine in engines)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("trouble", [Trouble.CRASH, Trouble.GARBLE])
def test_a_body_that_an_engine_cannot_process_is_told_so_and_tried_nowhere_else(
    start: Start, fake: FakeVllm, other: FakeVllm, trouble: str, stream: bool
) -> None:
    gateway = start(engines=(fake.url, other.url))
    eventually(lambda: in_use(gateway, fake) and in_use(gateway, other), "both are in use")
    if trouble == Trouble.GARBLE and stream:
        trouble = Trouble.FAIL_FIRST
    answer = chat_on(gateway, fake, trouble, stream=stream, logit_bias={"5": 1})
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["param"]) == (400, "unprocessable_request", "logit_bias")
    assert trouble not in texts(other)
    assert gateway.metric("hearken_engine_retries_total") == 0
    assert gateway.metric('hearken_unprocessable_requests_total{tenant="default"}') == 1
    assert in_use(gateway, fake)


def test_a_404_about_the_request_is_not_taken_for_a_missing_policy(
    start: Start, fake: FakeVllm, other: FakeVllm
) -> None:
    gateway = start(engines=(fake.url, other.url), poll_seconds=60.0)
    eventually(lambda: in_use(gateway, fake) and in_use(gateway, other), "both are in use")
    assert not chat_on(gateway, fake, f"{Trouble.STATUS}404").is_success
    assert f"{Trouble.STATUS}404" not in texts(other)
    assert chat_on(gateway, fake, "hi").status_code == 200  # it is still asked for the policy


@pytest.mark.parametrize(
    ("failure", "engines"),
    [
        (EngineGone(), 3),  # it never came there
        (PolicyMissing(404, b""), 3),
        (EngineLost(), 2),  # it may be what ended the engine
        (Failed(500, b""), 1),
        (Refused(400, b""), 1),
    ],
)
def test_on_how_many_engines_a_request_is_tried(failure: UpstreamError, engines: int) -> None:
    want = Want("base", "", b"")
    for number in itertools.count(1):
        want.tried.add(Engine(f"http://engine-{number}"))
        if not want.may_try_again(failure):
            break
    assert number == engines


def test_an_engine_that_fails_our_question_too_is_out_of_use_and_its_request_may_come_again(
    start: Start, fake: FakeVllm, other: FakeVllm
) -> None:
    gateway = start(engines=(fake.url, other.url))
    eventually(lambda: in_use(gateway, fake) and in_use(gateway, other), "both are in use")
    fake.sick = True
    answers = [gateway.chat(f"conversation {i}") for i in range(20)]
    (failed,) = [answer for answer in answers if answer.status_code != 200]
    assert (failed.status_code, error_of(failed)["code"]) == (503, "engine_unavailable")
    assert failed.headers["retry-after"]
    assert not in_use(gateway, fake)
    assert gateway.metric('hearken_unprocessable_requests_total{tenant="default"}') == 0
    fake.sick = False
    eventually(lambda: in_use(gateway, fake), "it is used again")


def test_a_policy_that_fails_leaves_its_engine_and_the_engine_stays(
    start: Start, fake: FakeVllm, other: FakeVllm
) -> None:
    fake.adapters = other.adapters = {LIVE}
    gateway = start(engines=(fake.url, other.url))
    gateway.decide(RoutingTable(epoch=1, live=LIVE))
    eventually(lambda: in_use(gateway, fake) and in_use(gateway, other), "both are in use")
    fake.broken = {LIVE}
    codes = [gateway.chat(f"conversation {i}").status_code for i in range(20)]
    assert codes.count(503) == 1
    assert set(codes) == {200, 503}
    assert in_use(gateway, fake)


def test_a_killed_engine_is_out_of_use_within_a_second(start: Start, fake: FakeVllm, other: FakeVllm) -> None:
    gateway = start(engines=(fake.url, other.url), poll_seconds=60.0)
    eventually(lambda: in_use(gateway, fake) and in_use(gateway, other), "both are in use")
    fake.stop()
    for i in range(20):  # the first one that belongs there finds out
        assert gateway.chat(f"conversation {i}").status_code == 200
    assert not in_use(gateway, fake)


def test_an_engine_that_breaks_a_connection_and_is_gone_is_found_out_by_our_question(
    start: Start, fake: FakeVllm, other: FakeVllm
) -> None:
    gateway = start(engines=(fake.url, other.url), poll_seconds=60.0)
    eventually(lambda: in_use(gateway, fake) and in_use(gateway, other), "both are in use")
    done = threading.Event()

    def hold() -> None:
        chat_on(gateway, fake, Trouble.HOLD, stream=True)
        done.set()

    threading.Thread(target=hold, daemon=True).start()
    assert fake.holding.wait(10)
    fake.stop()  # a stream breaks; nobody asks for anything more
    assert done.wait(10)
    eventually(lambda: not in_use(gateway, fake), "the gateway asked")


def test_a_key_may_send_only_so_many_of_them(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    limits = Limits(unprocessable_requests_per_minute=2)
    bad = add_key(file, ["chat"], tenant="red", limits=limits)
    good = add_key(file, ["chat", "operate"], tenant="blue", limits=limits)
    gateway = start()

    def ask(secret: str, content: str = "hi") -> httpx.Response:
        body = {**CHAT, "messages": [{"role": "user", "content": content}]}
        return gateway.http.post("/v1/chat/completions", json=body, headers=bearer(secret))

    assert ask(bad, Trouble.REFUSED).status_code == 400  # the engine can process it, and says no
    assert [ask(bad, Trouble.CRASH).status_code for _ in range(2)] == [400, 400]
    answer = ask(bad)
    assert (answer.status_code, error_of(answer)["code"]) == (429, "rate_limit_exceeded")
    assert "cannot process" in str(error_of(answer)["message"])
    assert 1 <= int(answer.headers["retry-after"]) <= 121
    assert ask(good).status_code == 200
    gateway.http.headers.update(bearer(good))
    assert gateway.metric('hearken_unprocessable_requests_total{tenant="red"}') == 2
    assert gateway.metric('hearken_limited_total{limit="unprocessable"}') == 1


def test_who_leaves_before_the_answer_is_counted_too(start: Start, fake: FakeVllm) -> None:
    """The engine's error is known; only the client does not wait for whose fault it was."""
    gateway = start()
    fake.has_tokens_for_us.clear()
    before = fake.warm_ups
    ask_and_leave(gateway, Trouble.CRASH, lambda: fake.warm_ups > before, "the engine is asked")
    counted = 'hearken_unprocessable_requests_total{tenant="default"}'
    assert gateway.metric(counted) == 0
    fake.has_tokens_for_us.set()
    eventually(lambda: gateway.metric(counted) == 1, "it is counted")
