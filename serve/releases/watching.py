"""GET /v1/releases/stream: what /v1/releases and /v1/learning tell, sent for as long as somebody watches.

A stream holds nothing between two events but a place among `MOST` of them. It gives that up when its client
goes away, when the gateway stops, and after `LONGEST_SECONDS`, so that a client that reads no more, or whose
network is gone without a word, does not keep it; a page that is still there opens the next one.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve.generation.doors import COMMENT, event
from serve.generation.streaming import EventStream
from serve.http.errors import ApiError, Unavailable
from serve.http.routes import at
from serve.releases.board import Board
from serve.releases.openapi import PAGE
from serve.releases.operators import Operators

MOST = 32
"""Streams of one gateway."""

EVERY_SECONDS = 1.0
LEARNING_SECONDS = 10.0
"""Learning changes with votes and steps, not from second to second."""

LONGEST_SECONDS = 600.0
END = b"data: [DONE]\n\n"


class Watching:
    """Streams for operators. leaving: set when the gateway stops."""

    def __init__(
        self,
        board: Board,
        operators: Operators,
        leaving: asyncio.Event,
        most: int = MOST,
        longest_seconds: float = LONGEST_SECONDS,
    ) -> None:
        self._board = board
        self._operators = operators
        self._leaving = leaving
        self._most = most
        self._longest_seconds = longest_seconds
        self._open = 0

    @property
    def routes(self) -> list[Route]:
        return [at("/v1/releases/stream", self.stream, "GET")]

    async def stream(self, request: Request) -> Response:
        """GET /v1/releases/stream: an event a second with where releases stand, and every ten with how
        learning goes.

        Raises Unavailable, also where too many watch already.
        """
        await self._operators.enter(request)
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return EventStream(self._events(request), headers, _Words(), LEARNING_SECONDS)

    async def _events(self, request: Request) -> AsyncGenerator[bytes, None]:
        if self._open >= self._most:
            raise Unavailable(
                f"{self._most} pages watch releases on this gateway already; close one that is not needed.",
                code="too_many_watch",
            )
        self._open += 1
        leaving = asyncio.create_task(self._leaving.wait())
        learning = asyncio.create_task(self._learning(0))
        try:
            newest, until = 0, time.monotonic() + self._longest_seconds
            while not leaving.done() and time.monotonic() < until:
                self._operators.look_again(request)
                release = await self._board.release(PAGE, after=newest)
                newest = max([newest, *(each["number"] for each in release["history"]["data"])])
                yield event(release)
                wanted = (leaving, learning)
                await asyncio.wait(wanted, timeout=EVERY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if learning.done():
                    if learning.exception() is None:  # else the look at releases says what is wrong
                        yield event(learning.result())
                    learning = asyncio.create_task(self._learning(LEARNING_SECONDS))
            yield END
        finally:
            self._open -= 1
            for task in (leaving, learning):
                task.cancel()
            await asyncio.gather(leaving, learning, return_exceptions=True)

    async def _learning(self, seconds: float) -> dict[str, Any]:
        """How learning goes, so many seconds from now. Releases do not wait for it: a gateway that has just
        started may have much to read."""
        await asyncio.sleep(seconds)
        return await self._board.learning()


class _Words:
    """What is said in a stream beside its events."""

    quiet = COMMENT

    def broken(self, error: ApiError) -> bytes:
        """The event that ends a stream that broke off."""
        return event(error.as_dict())
