"""One client's connection: uvicorn's HTTP protocol with bounds on what a client may send, and how slowly.

uvicorn has no limit on headers and no deadlines. Its parser's cost is superlinear in a header that comes in
many parts, and a connection that says nothing more stays open for ever. So bytes are counted before they are
parsed, and each state in which we wait for the client has a deadline:

    the head       `header_bytes` and `MOST_FIELDS`, else 431; `header_seconds`, else 408
    the body       `body_seconds` from one part to the next, else 408; a long one may take its time
    what we write  a reader that stopped (serve/server/readers.py) for `write_seconds` is cut

Time in which it is we who do not read does not count. How long a body may be is for the application to say.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from serve.http.errors import ApiError, BadRequest, HeadersTooLarge, TooSlow
from serve.server.bounds import Bounds
from serve.server.readers import Pressure, Reader

MOST_FIELDS = 256
"""Headers of one request; clients send a dozen or two."""
MOST_PIPELINED = 64
"""Requests that a connection may send ahead of its answers."""
PRESSED_SECONDS = 1.0
"""How long a reader may stop while others wait for the place on an engine that its answer may hold."""
LINGER_SECONDS = 1.0
LINGER_BYTES = 1024 * 1024
"""What is read and thrown away after a refusal, so that a client that still sends can read why."""

_REFUSAL = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
_PIECE = 64 * 1024  # parsed in one go
_LOOK_SECONDS = 0.5

Reason = Literal[
    "header_bytes",
    "header_seconds",
    "body_seconds",
    "write_seconds",
    "pipelined",
    "invalid",
    "connections",
]
_Waits = Literal["nothing", "head", "body"]
_Application = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Edge:
    """What all connections share. `pressure`: of requests that wait for a place that a reader may hold."""

    bounds: Bounds
    cut: Counter  # by reason
    pressure: Pressure
    most_connections: int
    leaving: asyncio.Event  # set when the server stops


class BoundedProtocol(HttpToolsProtocol):
    """A connection within bounds. `uvicorns` is what uvicorn makes its protocols with."""

    def __init__(self, *, edge: Edge, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._edge = edge
        self._bounds = edge.bounds
        self._waits: _Waits = "head"
        self._due = 0.0  # when what we wait for must be complete, on the loop's clock
        self._unread_bytes = 0  # parsed since the last header, piece of a body, or request came to its end
        self._broken: Reason | None = None  # the bound that a callback of the parser found broken
        self._thrown_away: int | None = None  # bytes since the refusal; None: nothing was refused
        self._answered: RequestResponseCycle | None = None  # the request at work; `cycle` is the newest one
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._reader: Reader  # while `_writing` is set

    # ---- what the transport tells

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._edge.most_connections:
            self._cut("connections")
            return
        self._due = self.loop.time() + self._bounds.header_seconds
        self._watch_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._answered is not None and self._answered is not self.cycle:
            self._answered.disconnected = True  # uvicorn tells only the newest of the requests
            self._answered.message_event.set()
        for timer in (self._reading, self._writing):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self._thrown_away is not None:
            self._throw_away(len(data))
            return
        if self._waits == "nothing":
            self._wait_for("head", self._bounds.header_seconds)
        start = 0
        while start < len(data):
            # At most one byte more than a head may have; so no long head is ever parsed.
            end = start + min(_PIECE, self._bounds.header_bytes + 1 - self._unread_bytes)
            piece = data[start:end] if start or end < len(data) else data
            start = end
            self._unread_bytes += len(piece)
            super().data_received(piece)
            if self._thrown_away is not None:
                return
            if self._unread_bytes > self._bounds.header_bytes:
                self._refuse(self._too_large(), "header_bytes")
                return
        self._watch_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def shutdown(self) -> None:
        """The server stops: an answer that has no end of its own comes to one."""
        self._edge.leaving.set()
        super().shutdown()

    # ---- what the parser tells

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._waits != "head":  # right behind another request
            self._wait_for("head", self._bounds.header_seconds)

    def on_headers_complete(self) -> None:
        # What came in one piece with the end of another request is in no count of unread bytes.
        head_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if head_bytes > self._bounds.header_bytes or len(self.headers) > MOST_FIELDS:
            self._break("header_bytes")
        super().on_headers_complete()
        self._unread_bytes = 0
        self._wait_for("body", self._bounds.body_seconds)
        if len(self.pipeline) > MOST_PIPELINED:
            self._break("pipelined")

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._unread_bytes = 0
        self._due = self.loop.time() + self._bounds.body_seconds

    def on_message_complete(self) -> None:
        if len(self.headers) > MOST_FIELDS:  # with trailers, which the parser tells as further headers
            self._break("header_bytes")
        super().on_message_complete()
        self._unread_bytes = 0
        self._waits = "nothing"

    def _break(self, reason: Reason) -> None:
        """End parsing: the exception comes out of the parser as one of its own."""
        self._broken = reason
        raise ValueError(reason)

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when the parser gave up."""
        if self._broken == "header_bytes":
            self._refuse(self._too_large(), "header_bytes")
        elif self._broken is not None:
            self._cut(self._broken)
        else:
            self._refuse(BadRequest(msg, code="invalid_http"), "invalid")

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._watch_writing()  # nobody else waits for the rest to be taken

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: _Application) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    # ---- waiting for the client to send

    def _wait_for(self, what: _Waits, seconds: float) -> None:
        self._waits = what
        self._due = self.loop.time() + seconds

    def _watch_reading(self) -> None:
        if self._waits == "nothing":
            return
        if self._reading is not None:
            if self._reading.when() <= self._due:
                return
            self._reading.cancel()  # it was set for the long body of a request before
        self._reading = self.loop.call_at(self._due, self._look_at_reading)

    def _look_at_reading(self) -> None:
        """One timer for a connection, which is not moved for each request: most are complete at once."""
        self._reading = None
        if self._waits == "nothing" or self.transport.is_closing():
            return
        if self.flow.read_paused or (self._waits == "head" and self._is_answering):
            limit = self._bounds.header_seconds if self._waits == "head" else self._bounds.body_seconds
            self._due = self.loop.time() + limit
        if self.loop.time() < self._due:
            self._watch_reading()
            return
        reason: Reason = "header_seconds" if self._waits == "head" else "body_seconds"
        if self._waits == "head" and not self._unread_bytes:  # it never said a word: nobody reads an answer
            self._cut(reason)
            return
        self._refuse(self._too_slow(), reason)

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    # ---- waiting for the client to read

    def _watch_writing(self) -> None:
        if self._writing is None:
            self._reader = Reader(self.transport, self.loop.time())
            self._writing = self.loop.call_later(_LOOK_SECONDS, self._look_at_writing)

    def _look_at_writing(self) -> None:
        self._writing = None
        if not self.transport.get_write_buffer_size() or (self._is_answering and not self.flow.write_paused):
            return
        now = self.loop.time()
        stopped = self._reader.stopped_seconds(now)
        is_in_the_way = self._is_answering and stopped >= PRESSED_SECONDS
        if stopped >= self._bounds.write_seconds or (
            is_in_the_way and self._edge.pressure.takes_a_place(now)
        ):
            self._cut("write_seconds")
            return
        self._writing = self.loop.call_later(_LOOK_SECONDS, self._look_at_writing)

    # ---- the end

    def _too_large(self) -> ApiError:
        return HeadersTooLarge(
            f"The request's headers exceed {self._bounds.header_bytes} bytes or {MOST_FIELDS} fields.",
            code="headers_too_large",
        )

    def _too_slow(self) -> ApiError:
        part = "headers" if self._waits == "head" else "body"
        return TooSlow(f"The request's {part} did not come in time.", code="request_timeout")

    @property
    def _can_tell(self) -> bool:
        """Whether a refusal would be read as the answer to the request that it is about."""
        if self._waits == "body":
            return self._is_answering and not self.pipeline and not self.cycle.response_started
        return not self._is_answering

    def _refuse(self, error: ApiError, reason: Reason) -> None:
        """Tell the client why, if that can be told, and leave."""
        if not self._can_tell:
            self._cut(reason)
            return
        if self._is_answering:
            self.cycle.disconnected = True  # the application's own answer comes too late
            self.cycle.message_event.set()
        self._edge.cut.labels(reason).inc()
        body = orjson.dumps(error.as_dict())
        self.transport.write(STATUS_LINE[error.status] + _REFUSAL % len(body) + body)
        self.transport.write_eof()
        self._thrown_away = 0
        self._unset_keepalive_if_required()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _throw_away(self, size: int) -> None:
        assert self._thrown_away is not None
        self._thrown_away += size
        if self._thrown_away > LINGER_BYTES:
            self.transport.abort()

    def _cut(self, reason: Reason) -> None:
        self._edge.cut.labels(reason).inc()
        self._thrown_away = LINGER_BYTES  # whatever comes before the transport has closed
        self.transport.abort()
