"""Bounds on connections: long heads, half requests, readers that stop; who keeps to them meets none."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from serve.server.bounds import Bounds
from serve.server.protocol import MOST_FIELDS, MOST_PIPELINED
from serve.settings import GatewaySettings
from tests.serve.conftest import Gateway, Start, eventually
from tests.serve.fake_vllm import FakeVllm, Trouble

SOON = Bounds(header_seconds=0.3, body_seconds=0.3, write_seconds=0.6)
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@contextlib.contextmanager
def connection(gateway: Gateway, receive_bytes: int | None = None) -> Iterator[socket.socket]:
    """A plain connection; `receive_bytes` is how much it takes of what it does not read."""
    place = urlsplit(gateway.url)
    with socket.socket() as plain:
        if receive_bytes is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        plain.settimeout(30)
        plain.connect((place.hostname, place.port))
        yield plain


def chat(content: str, **fields: object) -> bytes:
    """A request, as bytes."""
    asked = {"model": "hearken", "messages": [{"role": "user", "content": content}], **fields}
    body = json.dumps(asked).encode()
    return POST + b"content-length: %d\r\n\r\n" % len(body) + body


def until_closed(plain: socket.socket) -> bytes:
    """What comes until the other side ends it."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := plain.recv(65536):
            parts.append(part)
    return b"".join(parts)


def status_and_code(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


def cut(gateway: Gateway, reason: str) -> float:
    return gateway.metric(f'hearken_connections_cut_total{{reason="{reason}"}}')


@pytest.mark.parametrize(
    "head",
    [
        b"GET /livez HTTP/1.1\r\nx-long: " + b"a" * 70_000,
        b"GET /" + b"a" * 70_000,
        b"GET /livez HTTP/1.1\r\n" + b"x-some: header\r\n" * 5_000,
        b"GET /livez HTTP/1.1\r\n" + b"a: b\r\n" * (MOST_FIELDS + 1) + b"\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\n0\r\nx-trailer: " + b"a" * 140_000,
        POST + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * MOST_FIELDS + b"\r\n",
        b"GET /livez HTTP/1.1\r\n\r\nGET /livez HTTP/1.1\r\nx-long: " + b"a" * 66_000 + b"\r\n\r\n",
    ],
    ids=[
        *("one header", "request line", "many headers", "many small headers"),
        *("trailer", "many trailers", "a second head"),
    ],
)
def test_a_long_head_is_refused(steady: Gateway, head: bytes) -> None:
    before = cut(steady, "header_bytes")
    with connection(steady) as plain:
        plain.sendall(head)
        answer = until_closed(plain)
    if b"\r\n\r\n" in head[:100]:  # a request was answered, or is being answered: the connection is cut
        assert cut(steady, "header_bytes") == before + 1
        return
    assert status_and_code(answer) == (431, "headers_too_large")
    assert cut(steady, "header_bytes") == before + 1


def test_a_head_within_the_bound_is_read(steady: Gateway) -> None:
    for times in (1, 2):  # the second one on the same connection
        answer = steady.http.get("/livez", headers={"x-long": "a" * 60_000})
        assert (times, answer.status_code) == (times, 200)


def test_others_do_not_wait_for_a_head_of_a_hundred_megabytes(steady: Gateway) -> None:
    """Measured: livez takes 2 ms meanwhile; without a bound the parser stops all others for 10 s."""
    done = threading.Event()

    def send() -> None:
        with connection(steady) as plain, contextlib.suppress(OSError):
            plain.sendall(b"GET /livez HTTP/1.1\r\nx-long: ")
            for _ in range(1600):
                plain.sendall(b"a" * 65536)
        done.set()

    sending = threading.Thread(target=send)
    sending.start()
    slowest = 0.0
    while not done.is_set():
        begun = time.monotonic()
        assert steady.http.get("/livez").status_code == 200
        slowest = max(slowest, time.monotonic() - begun)
    sending.join()
    assert slowest < 1.0


def test_half_open_connections_are_gone_in_time(start: Start) -> None:
    gateway = start(bounds=Bounds(header_seconds=1))
    begins = [b"", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nx-a: b\r\n"]
    place = urlsplit(gateway.url)

    async def half(begin: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        writer.write(begin)
        answer = await reader.read()
        writer.close()
        return answer

    async def story() -> list[bytes]:
        async with asyncio.timeout(30):
            return await asyncio.gather(*(half(begins[i % 3]) for i in range(300)))

    answers = asyncio.run(story())
    assert [answer for answer in answers[::3] if answer] == []
    told = {status_and_code(answer) for answer in answers if answer}  # those that were heard in time
    assert told == {(408, "request_timeout")}
    assert cut(gateway, "header_seconds") == 300


def test_a_head_that_drips_is_cut_too(start: Start) -> None:
    gateway = start(bounds=SOON)
    with connection(gateway) as plain, contextlib.suppress(ConnectionError):
        plain.sendall(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")  # an answered one before
        eventually(lambda: plain.recv(65536), "the first answer")
        plain.settimeout(0.05)
        for _ in range(600):
            plain.sendall(b"\r\n")
            with contextlib.suppress(TimeoutError):
                if not plain.recv(65536):
                    break
        else:
            pytest.fail("it was never cut")
    eventually(lambda: cut(gateway, "header_seconds") == 1, "the cut is counted")


def test_a_body_that_does_not_come(start: Start) -> None:
    gateway = start(bounds=SOON)
    with connection(gateway) as plain:
        plain.sendall(POST + b'content-length: 100\r\n\r\n{"model"')
        assert status_and_code(until_closed(plain)) == (408, "request_timeout")
    assert cut(gateway, "body_seconds") == 1
    gone = 'hearken_requests_total{code="499",route="/v1/chat/completions"}'
    eventually(lambda: gateway.metric(gone) == 1, "the request ended")
    # after an answer that did not wait for the body
    with connection(gateway) as plain:
        plain.sendall(b"POST /nothing HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
        answer = until_closed(plain)
    assert answer.startswith(b"HTTP/1.1 404")
    assert answer.count(b"HTTP/1.1") == 1  # a 408 behind it would be taken for the next request's answer
    assert cut(gateway, "body_seconds") == 2


def test_a_body_that_comes_in_parts_may_take_its_time(start: Start) -> None:
    gateway = start(bounds=Bounds(body_seconds=2))
    head, _, body = chat("hi").partition(b"\r\n\r\n")
    with connection(gateway) as plain:
        plain.sendall(head + b"\r\n\r\n")
        for at in range(0, len(body), 10):
            time.sleep(0.5)  # that it is slow is the test
            plain.sendall(body[at : at + 10])
        assert plain.recv(65536).startswith(b"HTTP/1.1 200")
    assert cut(gateway, "body_seconds") == 0


def test_a_long_answer_is_no_late_request(start: Start, fake: FakeVllm) -> None:
    """Deadlines are for what the client sends: not while the service answers, nor for who is idle between."""
    gateway = start(bounds=SOON)
    with connection(gateway) as plain:
        plain.sendall(chat(Trouble.HOLD) + b"\r\n")  # and a stray line end
        assert fake.holding.wait(10)
        threading.Timer(4 * SOON.header_seconds, fake.release.set).start()
        assert plain.recv(65536).startswith(b"HTTP/1.1 200")
    assert (cut(gateway, "header_seconds"), cut(gateway, "body_seconds")) == (0, 0)


def test_requests_ahead_of_their_answers_are_few(steady: Gateway) -> None:
    one = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with connection(steady) as plain:
        plain.sendall(one * MOST_PIPELINED)
        answers = b""
        while answers.count(b"HTTP/1.1 200 OK") < MOST_PIPELINED:
            answers += plain.recv(65536)
    with connection(steady) as plain, contextlib.suppress(ConnectionError):
        plain.sendall(one * 2000)
        until_closed(plain)
    eventually(lambda: cut(steady, "pipelined") == 1, "the cut is counted")


def stopped_reader(gateway: Gateway, stack: contextlib.ExitStack) -> socket.socket:
    """One that asks for a long stream and takes nothing of it."""
    plain = stack.enter_context(connection(gateway, receive_bytes=4096))
    plain.sendall(chat(Trouble.LARGE, stream=True))
    return plain


def test_who_leaves_with_requests_ahead_leaves_no_work_behind(start: Start, fake: FakeVllm) -> None:
    gateway = start()
    with connection(gateway) as plain:
        plain.sendall(2 * chat(Trouble.HOLD))
        assert fake.holding.wait(10)
    eventually(lambda: in_flight(gateway, fake) == 0, "the engine's place is free, and nobody released it")


def in_flight(gateway: Gateway, fake: FakeVllm) -> float:
    return gateway.metric(f'hearken_engine_in_flight{{engine="{fake.url}"}}')


def test_a_reader_that_stopped_is_cut_and_its_place_is_free(start: Start, fake: FakeVllm) -> None:
    gateway = start(bounds=SOON)
    with contextlib.ExitStack() as stack:
        stopped_reader(gateway, stack)
        eventually(lambda: cut(gateway, "write_seconds") == 1, "it is cut")
        eventually(lambda: in_flight(gateway, fake) == 0, "its place is free")


def test_readers_that_stopped_delay_nobody(start: Start, fake: FakeVllm) -> None:
    """They have time while nobody waits for the places that they hold, and a second when somebody does."""
    gateway = start(bounds=Bounds(write_seconds=600), max_in_flight=4, queue_seconds=30)
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stopped_reader(gateway, stack)
        eventually(lambda: in_flight(gateway, fake) == 4, "they hold all places")
        assert gateway.chat(user="ada").status_code == 200
        assert cut(gateway, "write_seconds") >= 1
        queued = gateway.metric('hearken_queue_seconds_bucket{le="10.0"}')
        assert queued == gateway.metric("hearken_queue_seconds_count") >= 1


def test_a_reader_that_is_slow_is_not_cut(start: Start) -> None:
    gateway = start(bounds=Bounds(write_seconds=1.5))
    with contextlib.ExitStack() as stack:
        plain = stopped_reader(gateway, stack)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            time.sleep(0.05)  # that it is slow is the test
            assert plain.recv(2048)
        answer = b""
        while not answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
            part = plain.recv(2**20)
            assert part, answer[-300:]
            answer = answer[-100:] + part
    assert cut(gateway, "write_seconds") == 0


@pytest.mark.parametrize("fields", [{"header_bytes": 100}, {"write_seconds": 0}, {"body_seconds": -1}])
def test_bounds_that_make_no_sense(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        Bounds(**fields)  # type: ignore[arg-type]
    assert GatewaySettings(Path("x"), ("http://127.0.0.1:1",)).bounds == Bounds()


PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/comparisons", "/v1/feedback", "/feedback")


def test_who_leaves_while_sending_is_no_failure(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    gateway = start()
    for path in PATHS:
        head = POST.replace(b"/v1/chat/completions", path.encode())
        with connection(gateway) as plain:
            plain.sendall(head + b'content-length: 100\r\n\r\n{"model"')
        gone = f'hearken_requests_total{{code="499",route="{path}"}}'
        eventually(lambda gone=gone: gateway.metric(gone) == 1, f"{path} ends as a 499")  # type: ignore[misc]
    assert 'code="500"' not in httpx.get(gateway.url + "/metrics").text
    assert [record for record in caplog.records if record.exc_info] == []
