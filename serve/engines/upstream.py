"""The client that carries requests to vLLM, and its answers back."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson

from deploy.engines.key import engine_headers
from serve.engines.connections import Pool
from serve.engines.wire import Connection, Deaf, WireError

Json = dict[str, Any]

CHAT_PATH = "/v1/chat/completions"
# vLLM's server drops idle connections after 5 s; a shorter memory here avoids writing into a closed one.
_KEEP_ALIVE_SECONDS = 4.0
_CONNECT_SECONDS = 5.0
_MISSING = re.compile(rb"The model `[^`]*` does not exist")  # vLLM's words; nothing of a client's is in them


class UpstreamError(Exception):
    """The engine did not give the answer that was asked for."""


class Refused(UpstreamError):
    """The engine answered with an error status."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"{status} {body[:300]!r}")
        self.status = status
        self.body = body


class PolicyMissing(Refused):
    """The engine has no such policy (404); that is the gateway's mistake, and not the client's."""


class Failed(Refused):
    """The engine answered with an error of its own (5xx), or with what is no answer (told as a 502).

    That says nothing of the engine yet: a body can be made to do it. `fault` becomes true when the engine
    fails a question of the gateway's own as well, false when it answers; whoever asked the engine sets it.
    """

    fault: asyncio.Future[bool] | None = None


class EngineLost(UpstreamError):
    """The engine did not answer, or stopped in the middle of an answer."""


class EngineGone(EngineLost):
    """Nothing listens where the engine was: the request never reached it, and is not to blame."""


class Upstream:
    """A pooled client of all engines: `open` it inside the event loop that uses it, `close` it at the end."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds

    async def open(self) -> None:
        self._pool = Pool(
            connect_seconds=_CONNECT_SECONDS,
            silence_seconds=self._timeout_seconds,
            idle_seconds=_KEEP_ALIVE_SECONDS,
            headers="".join(f"{name}: {value}\r\n" for name, value in engine_headers().items()).encode(),
        )

    async def close(self) -> None:
        self._pool.close()

    async def get(self, url: str, timeout_seconds: float) -> bytes:
        """The body of a GET. Raises Refused or EngineLost."""
        try:
            async with asyncio.timeout(timeout_seconds), self._asked(url, b"GET", b"") as connection:
                return await _accepted(connection)
        except TimeoutError as error:
            raise EngineLost(f"{url}: no answer within {timeout_seconds:g} s") from error

    async def complete(self, engine: str, body: bytes, path: str = CHAT_PATH) -> Json:
        """A whole answer. Raises Refused or EngineLost."""
        async with self._asked(engine, b"POST", path.encode(), body) as connection:
            content = await _accepted(connection)
        try:
            answer: Json = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise Failed(502, b"an answer is not JSON: %r" % content[:100]) from error
        return answer

    @asynccontextmanager
    async def stream(
        self, engine: str, body: bytes, path: str = CHAT_PATH
    ) -> AsyncIterator[AsyncIterator[list[Json]]]:
        """An answer as it is sampled: lists of chunks that arrived together.

        Leaving the block early closes the connection, on which vLLM aborts the request. Raises, here or
        while iterating, Refused, or EngineLost when the stream ends without vLLM's `[DONE]`.
        """
        async with self._asked(engine, b"POST", path.encode(), body) as connection:
            if connection.status != 200:
                await _accepted(connection)
            chunks = _Chunks(connection)
            yield chunks
            if not chunks.done:
                self._pool.drop(connection)

    @asynccontextmanager
    async def _asked(
        self, url: str, method: bytes, path: bytes, body: bytes = b""
    ) -> AsyncIterator[Connection]:
        """The connection on which the answer comes; the block has to read it to its end, or raise."""
        connection = None
        try:
            connection = await self._pool.ask(url, method, path, body)
            yield connection
        except BaseException as error:
            if connection is not None:
                self._pool.drop(connection)
            if isinstance(error, WireError):
                kind = EngineGone if isinstance(error, Deaf) else EngineLost
                raise kind(f"{url}: {error}") from error
            raise
        self._pool.give_back(url, connection)


async def _accepted(connection: Connection) -> bytes:
    body = await connection.read_all()
    if connection.status != 200:
        raise refusal(connection.status, body)
    return body


def refusal(status: int, body: bytes) -> Refused:
    """What an error status of an engine means."""
    if status >= 500:
        return Failed(status, body)
    return PolicyMissing(status, body) if _MISSING.search(body) and status == 404 else Refused(status, body)


class _Chunks(AsyncIterator[list[Json]]):
    """Server-sent events, parsed once. Lines are cut in bytes, so no character is ever cut in half."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rest = b""  # a line that has not come to its end
        self._error: Refused | None = None
        self.done = False

    async def __anext__(self) -> list[Json]:
        while not self.done and self._error is None:
            data = await self._connection.read()
            if not data:
                raise EngineLost("the stream ended without [DONE]")
            if chunks := self._parse(data):
                return chunks
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    def _parse(self, data: bytes) -> list[Json]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        chunks: list[Json] = []
        for line in lines:
            if not line.startswith(b"data:"):
                continue  # blank lines between events, and comments that keep the connection alive
            if line.rstrip() == b"data: [DONE]":
                self.done = True
                break
            try:
                chunk = orjson.loads(line[5:])
            except orjson.JSONDecodeError as error:
                raise Failed(502, b"an event is not JSON: %r" % line[:100]) from error
            if "error" in chunk:
                self._error = refusal(_status(chunk), orjson.dumps(chunk))
                break
            chunks.append(chunk)
        return chunks


def _status(chunk: Json) -> int:
    """The HTTP status that vLLM would have given, had it known of the error before the stream began."""
    error = chunk["error"]
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else 500
