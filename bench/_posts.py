"""A load generator for small POSTs that costs a few tens of microseconds each.

Requests are bytes made beforehand; connections are kept alive and carry one request at a time, as clients'
connections do. Of an answer only the status and the length are read.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

_LENGTH = b"content-length: "


@dataclass(slots=True)
class Result:
    """What came of a load: answers by status, and their latencies from when they were due."""

    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)  # seconds
    seconds: float = 0.0
    client_cpu_seconds: float = 0.0

    @property
    def per_second(self) -> float:
        return self.statuses.total() / self.seconds

    def percentile_ms(self, share: float) -> float:
        """The latency that `share` of the answers did not exceed, in milliseconds."""
        ordered = sorted(self.latencies)
        return 1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def request(path: str, body: bytes, content_type: str = "application/json") -> bytes:
    """A POST as it goes over the wire."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


class _Connection(asyncio.Protocol):
    def __init__(self, answered: Callable[["_Connection", int], None]) -> None:
        self.due = 0.0
        self._answered = answered
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def connection_lost(self, error: Exception | None) -> None:
        if self.due:
            self._answered(self, 0)

    def send(self, raw: bytes, due: float) -> None:
        assert self._transport is not None
        self.due = due
        self._transport.write(raw)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        at = head.lower().find(_LENGTH)
        length = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0])
        if len(rest) >= length:
            self._received = rest[length:]
            self._answered(self, int(head[9:12]))

    def close(self) -> None:
        self.due = 0.0
        if self._transport is not None:
            self._transport.close()


async def _connect(port: int, count: int, answered: Callable[[_Connection, int], None]) -> list[_Connection]:
    loop = asyncio.get_running_loop()
    made = []
    for _ in range(count):
        _, connection = await loop.create_connection(lambda: _Connection(answered), "127.0.0.1", port)
        made.append(connection)
    return made


async def closed_loop(port: int, requests: Sequence[bytes], connections: int, count: int) -> Result:
    """Send `count` requests as fast as answers come; each connection has one on its way."""
    result = Result()
    done = asyncio.Event()
    sent = 0

    def answered(connection: _Connection, status: int) -> None:
        nonlocal sent
        now = time.perf_counter()
        result.statuses[status] += 1
        result.latencies.append(now - connection.due)
        if sent < count:
            connection.send(requests[sent % len(requests)], now)
            sent += 1
        elif result.statuses.total() == count:
            done.set()

    lines = await _connect(port, connections, answered)
    started, cpu = time.perf_counter(), time.process_time()
    for line in lines[:count]:
        sent += 1
        line.send(requests[sent % len(requests)], time.perf_counter())
    await done.wait()
    result.seconds = time.perf_counter() - started
    result.client_cpu_seconds = time.process_time() - cpu
    for line in lines:
        line.close()
    return result


async def open_loop(
    port: int, requests: Sequence[bytes], connections: int, per_second: float, seconds: float
) -> Result:
    """Send at a fixed rate whatever the answers do; a latency counts from when its request was due."""
    result = Result()
    waiting: deque[float] = deque()
    done = asyncio.Event()
    count = int(per_second * seconds)
    sent = 0

    def send(connection: _Connection, due: float) -> None:
        nonlocal sent
        connection.send(requests[sent % len(requests)], due)
        sent += 1

    def answered(connection: _Connection, status: int) -> None:
        result.statuses[status] += 1
        result.latencies.append(time.perf_counter() - connection.due)
        if waiting:
            send(connection, waiting.popleft())
        else:
            idle.append(connection)
        if result.statuses.total() == count:
            done.set()

    idle = await _connect(port, connections, answered)
    lines = list(idle)
    started, cpu = time.perf_counter(), time.process_time()
    for number in range(count):
        due = started + number / per_second
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        if idle:
            send(idle.pop(), due)
        else:
            waiting.append(due)
    await done.wait()
    result.seconds = time.perf_counter() - started
    result.client_cpu_seconds = time.process_time() - cpu
    for line in lines:
        line.close()
    return result
