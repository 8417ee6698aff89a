"""HTTP/1.1 to an engine, for answers that come in hundreds of small pieces.

General clients start a timer, wake a stream and pass a dozen layers for every piece; that was most of what a
streamed token cost the gateway. Here a piece goes from the socket through the parser (llhttp, as in the
server) into a list, and wakes whoever waits for it.
"""

import asyncio
import functools
import ssl
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

_HELD_BYTES = 256 * 1024
"""Of an answer that nobody has read yet; above it the engine has to wait."""


class WireError(Exception):
    """The other side cannot be reached, went away, fell silent, or does not speak HTTP."""


class Deaf(WireError):
    """Nothing listens there: the connection was refused, before anything was sent."""


class Unheard(WireError):
    """The connection ended before a byte of the answer came."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an engine listens."""

    host: str
    port: int
    tls: bool
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
        return cls(parts.hostname or "", port, tls, parts.path.rstrip("/").encode(), name)

    @property
    def address(self) -> tuple[str, int, bool]:
        """What a connection is made to."""
        return self.host, self.port, self.tls


class Connection(asyncio.Protocol):
    """One connection, with one exchange at a time: `ask`, then `status`, then `read` until it gives b""."""

    def __init__(self, silence_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._silence_seconds = silence_seconds
        self._waiting: asyncio.Future[None] | None = None
        self._failure: WireError | None = None
        self.idle_since = 0.0
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._status = 0
        self._parts: list[bytes] = []
        self._held = 0  # bytes in `_parts`
        self._begun = self._complete = False
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

    async def status(self) -> int:
        """The answer's status. Raises WireError."""
        while not self._status:
            await self._arrival()
        return self._status

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
        return self._failure is None and self._complete and self._keep_alive

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
            self._fail(WireError(f"nothing came for {self._silence_seconds:g} s"))
            self._transport.abort()

    def _stop_clock(self) -> None:
        if hasattr(self, "_silence"):
            self._silence.cancel()

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        self._begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(WireError(f"not an HTTP answer: {error}"))
            self._transport.abort()
            return
        self._wake()
        if self._complete and self._at_end is not None:
            self._at_end()

    def connection_lost(self, error: Exception | None) -> None:
        kind = WireError if self._begun else Unheard
        self._fail(kind(f"the connection was lost: {error}" if error else "the connection was closed"))

    # What the parser calls

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)
        before, self._held = self._held, self._held + len(body)
        if before <= _HELD_BYTES < self._held:
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self._complete = True
        self._keep_alive = self._parser.should_keep_alive()  # the parser forgets it after this
        self._stop_clock()


class Pool:
    """Connections to engines, kept for `idle_seconds` after use.

    `connect_seconds` bounds connecting, `silence_seconds` every wait for the next byte of an answer.
    """

    def __init__(
        self, *, connect_seconds: float, silence_seconds: float, idle_seconds: float, headers: bytes = b""
    ) -> None:
        self._headers = headers
        self._connect_seconds = connect_seconds
        self._silence_seconds = silence_seconds
        self._idle_seconds = idle_seconds
        self._idle: defaultdict[tuple[str, int, bool], list[Connection]] = defaultdict(list)
        self._all: set[Connection] = set()

    async def ask(self, url: str, method: bytes, path: bytes, body: bytes = b"") -> Connection:
        """Send a request and return the connection on which the answer has begun. Raises WireError.

        A server may close a connection that was idle in the moment in which it is used again. That says
        nothing of the server, so the request goes out once more.
        """
        place = Place.of(url)
        while (connection := self._idle_one(place)) is not None:
            try:
                return await self._begun(connection, place, method, path, body)
            except Unheard:
                continue
        return await self._begun(await self._connect(place), place, method, path, body)

    async def _begun(
        self, connection: Connection, place: Place, method: bytes, path: bytes, body: bytes
    ) -> Connection:
        """The connection, when its answer has a status. It is dropped on any failure."""
        try:
            connection.ask(place, method, path, body, self._headers)
            await connection.status()
        except BaseException:
            self.drop(connection)
            raise
        return connection

    def give_back(self, url: str, connection: Connection) -> None:
        """The answer has been read to its end, or to where only the end itself is missing."""
        connection.when_complete(functools.partial(self._keep, Place.of(url), connection))

    def drop(self, connection: Connection) -> None:
        """The rest of the answer is not wanted."""
        self._all.discard(connection)
        connection.close()

    def close(self) -> None:
        """Drop every connection."""
        for connection in list(self._all):
            self.drop(connection)

    def _idle_one(self, place: Place) -> Connection | None:
        """The connection used last, if any is still young; the older ones are closed."""
        waiting = self._idle[place.address]
        oldest = time.monotonic() - self._idle_seconds
        while waiting and (waiting[0].idle_since < oldest or not waiting[0].is_reusable):
            self.drop(waiting.pop(0))
        while waiting:
            if (connection := waiting.pop()).is_reusable:
                return connection
            self.drop(connection)
        return None

    def _keep(self, place: Place, connection: Connection) -> None:
        if connection.is_reusable:
            connection.idle_since = time.monotonic()
            self._idle[place.address].append(connection)
        else:
            self.drop(connection)

    async def _connect(self, place: Place) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, connection = await loop.create_connection(
                    functools.partial(Connection, self._silence_seconds),
                    place.host,
                    place.port,
                    ssl=_tls() if place.tls else None,
                )
        except ConnectionRefusedError as error:
            raise Deaf(f"cannot connect: {error!r}") from error
        except (OSError, TimeoutError) as error:
            raise WireError(f"cannot connect: {error!r}") from error
        self._all.add(connection)
        return connection


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
