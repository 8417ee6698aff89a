"""HTTP/1.1 to an engine, for answers that come in hundreds of small pieces.

General clients start a timer, wake a stream and pass a dozen layers for every piece; that was most of what a
streamed token cost the gateway. Here a piece goes from the socket through the parser (llhttp, as in the
server) into a list, and wakes whoever waits for it.
"""

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

_HELD_BYTES = 256 * 1024
"""Of an answer that nobody has read yet; above it the engine has to wait."""
_BARREN_BYTES = 64 * 1024
"""Of headers, trailers and chunks' extensions, one after the other: what goes on for longer is no answer."""


class WireError(Exception):
    """The other side cannot be reached, went away, fell silent, or does not speak HTTP."""


class Deaf(WireError):
    """Nothing listens there: the connection was refused, before anything was sent."""


class Unheard(WireError):
    """The connection ended before a byte of the answer came."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an engine listens."""

    address: tuple[str, int, bool]  # host, port, whether with TLS: what a connection is made to
    path: bytes  # in front of every request's path
    name: bytes  # for the host header

    @classmethod
    @functools.lru_cache(maxsize=256)
    def of(cls, url: str) -> "Place":
        """The place that a base URL names, like http://127.0.0.1:8001."""
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        name = parts.netloc.rpartition("@")[2].encode()
        return cls((parts.hostname or "", port, tls), parts.path.rstrip("/").encode(), name)


class Connection(asyncio.Protocol):
    """One connection, with one exchange at a time: `ask`, then `begun`, then `read` until it gives b""."""

    def __init__(self, silence_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._silence_seconds = silence_seconds
        self._waiting: asyncio.Future[None] | None = None
        self._failure: WireError | None = None
        self.idle_since = 0.0
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.status = 0  # of the answer; 0 before it has begun
        self._parts: list[bytes] = []
        self._held = 0  # bytes in `_parts`
        self._barren = 0  # bytes since the last that said anything
        self._begun = self._complete = self._surplus = False
        self._at_end: Callable[[], None] | None = None

    # What the user of the connection calls

    def ask(self, place: Place, method: bytes, path: bytes, body: bytes, headers: bytes = b"") -> None:
        """Send a request. `headers`: further ones, each with its line end."""
        self._reset()
        self._heard = self._loop.time()
        self._silence = self._loop.call_later(self._silence_seconds, self._check_silence)
        head = b"%b %b%b HTTP/1.1\r\nhost: %b\r\naccept: */*\r\n" % (method, place.path, path, place.name)
        head += headers
        if body:
            head += b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        self._transport.write(head + b"\r\n" + body)

    async def begun(self) -> int:
        """The answer's status, when it is there. Raises WireError."""
        while not self.status:
            await self._arrival()
        return self.status

    async def read(self) -> bytes:
        """What has come of the body since the last call, b"" when it is complete. Raises WireError."""
        while not self._parts:
            if self._complete:
                return b""
            await self._arrival()
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        if self._held > _HELD_BYTES:
            self._transport.resume_reading()
        self._parts.clear()
        self._held = 0
        return data

    async def read_all(self) -> bytes:
        """The whole body. Raises WireError."""
        parts = []
        while data := await self.read():
            parts.append(data)
        return b"".join(parts)

    def when_complete(self, call: Callable[[], None]) -> None:
        """Call this when the rest of the answer has come, now if it has; never if it does not come."""
        if self._complete:
            call()
        else:
            self._at_end = call

    @property
    def is_reusable(self) -> bool:
        """Whether another exchange can follow on a complete one."""
        return self._failure is None and self._complete and self._keep_alive and not self._surplus

    def close(self) -> None:
        """Leave at once; an engine stops what it did for this connection."""
        self._fail(WireError("left"))
        self._transport.abort()

    async def _arrival(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._waiting = self._loop.create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _fail(self, failure: WireError) -> None:
        if self._failure is None:
            self._failure = failure
            self._stop_clock()
            self._wake()

    def _check_silence(self) -> None:
        left = self._heard + self._silence_seconds - self._loop.time()
        if left > 0:
            self._silence = self._loop.call_later(left, self._check_silence)
        else:
            self._give_up(f"nothing came for {self._silence_seconds:g} s")

    def _give_up(self, why: str) -> None:
        self._fail(WireError(why))
        self._transport.abort()

    def _stop_clock(self) -> None:
        if hasattr(self, "_silence"):
            self._silence.cancel()

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        if self._complete:  # it must not become the answer to the next request
            self._give_up("more than one answer came")
            return
        self._begun = True
        self._barren += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._give_up(f"not an HTTP answer: {error}")
            return
        if self._barren > _BARREN_BYTES:
            self._give_up(f"{_BARREN_BYTES} bytes came that say nothing")
            return
        self._wake()
        if self._complete and self._at_end is not None:
            self._at_end()

    def connection_lost(self, error: Exception | None) -> None:
        kind = WireError if self._begun else Unheard
        self._fail(kind(f"the connection was lost: {error}" if error else "the connection was closed"))

    # What the parser calls

    def on_message_begin(self) -> None:
        self._surplus = self._complete

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if not self._surplus and status >= 200:  # 1xx: the answer is still to come
            self.status, self._barren = status, 0

    def on_body(self, body: bytes) -> None:
        if self._surplus:
            return
        self._barren = 0
        self._parts.append(body)
        before, self._held = self._held, self._held + len(body)
        if before <= _HELD_BYTES < self._held:
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._surplus or not self.status:
            return
        self._complete, self._barren = True, 0
        self._keep_alive = self._parser.should_keep_alive()  # the parser forgets it after this
        self._stop_clock()
