"""A load generator for streamed chats that costs next to nothing itself.

It shares its core with the gateway that it measures, so it parses no more of an answer than it needs: the
time of the first token of text, and the engine's own count of tokens in the last chunk (`include_usage`).
"""

import asyncio
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson

_END = b"\r\n0\r\n\r\n"  # of a chunked body
_FIRST_TEXT = re.compile(rb'"content":"[^"]')
_TOKENS = re.compile(rb'"completion_tokens":(\d+)')
_PROMPT_TOKENS = re.compile(rb'"prompt_tokens":(\d+)')
_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Answer:
    """One streamed answer: seconds from the request to its first text and to its end, and its tokens.

    An answer without any text had its first at its end.
    """

    ttft_seconds: float
    seconds: float
    tokens: int
    prompt_tokens: int
    events: int


class StreamError(RuntimeError):
    """A server did not give the whole answer."""


class _Connection(asyncio.Protocol):
    """A keep-alive connection that carries one request at a time."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> "asyncio.Future[Answer]":
        self._answer = asyncio.get_running_loop().create_future()
        self._seen = b""
        self._first = 0.0
        self._events = 0
        self._started = time.perf_counter()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._seen += data
        self._events += data.count(b"data: {")
        if not self._first and _FIRST_TEXT.search(self._seen):
            self._first = time.perf_counter()
        if self._seen.endswith(_END):
            self._finish()
        elif self._first:
            self._seen = self._seen[-_TAIL_BYTES:]
        elif not self._seen.startswith(b"HTTP/1.1 200"):
            self._fail(self._seen)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(str(error).encode())

    def close(self) -> None:
        self._answer = None
        self._transport.close()

    def _finish(self) -> None:
        tokens, prompt = _TOKENS.findall(self._seen), _PROMPT_TOKENS.findall(self._seen)
        if not tokens or not prompt or b"data: [DONE]" not in self._seen:
            self._fail(self._seen)
            return
        assert self._answer is not None
        now = time.perf_counter()
        first = (self._first or now) - self._started
        self._answer.set_result(
            Answer(first, now - self._started, int(tokens[-1]), int(prompt[-1]), self._events)
        )

    def _fail(self, seen: bytes) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(StreamError(seen.decode(errors="replace")))


def request_bytes(port: int, body: Mapping[str, Any]) -> bytes:
    """A whole HTTP request for a streamed chat on loopback."""
    content = orjson.dumps({**body, "stream": True, "stream_options": {"include_usage": True}})
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def ask_all(port: int, bodies: Iterable[Mapping[str, Any]], streams: int) -> tuple[list[Answer], float]:
    """Ask for all answers with `streams` of them running at any time; also the seconds that all took.

    Raises StreamError when an answer is not whole.
    """
    waiting = iter([request_bytes(port, body) for body in bodies])
    answers: list[Answer] = []

    async def work(connection: _Connection) -> None:
        for request in waiting:
            answers.append(await connection.ask(request))

    loop = asyncio.get_running_loop()
    connections = [(await loop.create_connection(_Connection, "127.0.0.1", port))[1] for _ in range(streams)]
    started = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for connection in connections:
                group.create_task(work(connection))
    finally:
        seconds = time.perf_counter() - started
        for connection in connections:
            connection.close()
    return answers, seconds


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
