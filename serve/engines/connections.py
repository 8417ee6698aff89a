"""Connections to engines, kept for the next request."""

import asyncio
import functools
import ssl
import time
from collections import defaultdict

from serve.engines.wire import Connection, Deaf, Place, Unheard, WireError


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
        while True:
            idle = self._idle_one(place)
            connection = idle or await self._connect(place)
            try:
                connection.ask(place, method, path, body, self._headers)
                await connection.begun()
                return connection
            except BaseException as error:
                self.drop(connection)
                if idle is None or not isinstance(error, Unheard):
                    raise

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
        while waiting and waiting[0].idle_since < oldest:
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
        host, port, tls = place.address
        loop, make = asyncio.get_running_loop(), functools.partial(Connection, self._silence_seconds)
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, connection = await loop.create_connection(make, host, port, ssl=_tls() if tls else None)
        except ConnectionRefusedError as error:
            raise Deaf(f"cannot connect: {error!r}") from error
        except (OSError, TimeoutError) as error:
            raise WireError(f"cannot connect: {error!r}") from error
        self._all.add(connection)
        return connection


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
