"""The HTTP client that carries chats to vLLM and its tokens back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson

Json = dict[str, Any]

_JSON = {"content-type": "application/json"}
# vLLM's server drops idle connections after 5 s; a shorter memory here avoids writing into a closed one.
_KEEP_ALIVE_SECONDS = 4.0
_CONNECT_SECONDS = 5.0


class UpstreamError(Exception):
    """The engine did not give the answer that was asked for."""


class Refused(UpstreamError):
    """The engine answered with an error status."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"{status} {body[:300]!r}")
        self.status = status
        self.body = body


class EngineLost(UpstreamError):
    """The engine did not answer, or stopped in the middle of an answer."""


class Upstream:
    """A pooled client of all engines: `open` it inside the event loop that uses it, `close` it at the end."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_SECONDS, sock_read=self._timeout_seconds
            ),
        )

    async def close(self) -> None:
        await self._session.close()

    async def get(self, url: str, timeout_seconds: float) -> bytes:
        """The body of a GET. Raises Refused or EngineLost."""
        timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        try:
            async with self._session.get(url, timeout=timeout) as response:
                return await _accepted(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineLost(f"{url}: {error!r}") from error

    async def complete(self, engine: str, body: bytes) -> Json:
        """A whole chat completion. Raises Refused or EngineLost."""
        try:
            async with self._post(engine, body) as response:
                answer: Json = orjson.loads(await _accepted(response))
                return answer
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as error:
            raise EngineLost(f"{engine}: {error!r}") from error

    @asynccontextmanager
    async def stream(self, engine: str, body: bytes) -> AsyncIterator[AsyncIterator[list[Json]]]:
        """A chat completion as it is sampled: lists of chunks that arrived together.

        Leaving the block early closes the connection, on which vLLM aborts the request. Raises, here or
        while iterating, Refused, or EngineLost when the stream ends without vLLM's `[DONE]`.
        """
        try:
            async with self._post(engine, body) as response:
                if response.status != 200:
                    raise Refused(response.status, await response.read())
                yield _events(response)
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as error:
            raise EngineLost(f"{engine}: {error!r}") from error

    def _post(self, engine: str, body: bytes) -> Any:
        return self._session.post(engine + "/v1/chat/completions", data=body, headers=_JSON)


async def _accepted(response: aiohttp.ClientResponse) -> bytes:
    body = await response.read()
    if response.status != 200:
        raise Refused(response.status, body)
    return body


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[list[Json]]:
    """Server-sent events, parsed once. Lines are cut in bytes, so no character is ever cut in half."""
    rest = b""
    async for data in response.content.iter_any():
        *lines, rest = (rest + data).split(b"\n")
        chunks: list[Json] = []
        for line in lines:
            if not line.startswith(b"data:"):
                continue  # blank lines between events, and comments that keep the connection alive
            if line.rstrip() == b"data: [DONE]":
                if chunks:
                    yield chunks
                return
            chunk = orjson.loads(line[5:])
            if "error" in chunk:
                if chunks:
                    yield chunks
                raise Refused(_status(chunk), orjson.dumps(chunk))
            chunks.append(chunk)
        if chunks:
            yield chunks
    raise EngineLost(f"{response.url}: the stream ended without [DONE]")


def _status(chunk: Json) -> int:
    """The HTTP status that vLLM would have given, had it known of the error before the stream began."""
    error = chunk["error"]
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else 500
