"""How an answer leaves while it is made, and what happens when its client goes away first.

The status of a stream is decided by its first event, so that what fails early is an HTTP error. When that
takes long, and whenever nothing has come for as long, a comment is sent: clients skip it, and proxies see
that the connection lives. With the first one the status is 200, and what fails later is the last event.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Protocol

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from serve.http.errors import ApiError, ClientGone


@asynccontextmanager
async def while_present(receive: Receive) -> AsyncIterator[None]:
    """Cancels the block when the client goes away, and raises ClientGone for it.

    The request's body must have been read.
    """
    task = asyncio.current_task()
    assert task is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if gone and not task.uncancel():
            raise ClientGone from None
        raise
    finally:
        watching.cancel()


class Ending(Protocol):
    """The part of a door (serve/generation/doors.py) that every stream needs."""

    quiet: bytes  # sent while there is nothing else to send

    def broken(self, error: ApiError) -> bytes:
        """The events that end a stream that broke off."""
        ...


class EventStream(StreamingResponse):
    """Server-sent events; closes their generator, and with it the engine's request, however it ends.

    The status is decided by the first event: what the generator raises before it becomes an HTTP error.
    `quiet_seconds`: the longest time without a byte.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        headers: Mapping[str, str],
        door: Ending,
        quiet_seconds: float,
    ) -> None:
        super().__init__(events, headers=headers)
        self._door = door
        self._events = events
        self._quiet_seconds = quiet_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        line = _Line(send, start, self._quiet_seconds, self._door.quiet)
        try:
            async with aclosing(self._events), while_present(receive), line:
                try:
                    async for events in self._events:
                        if not line.begun:
                            await line.begin()
                        line.last = line.now()
                        await send({"type": "http.response.body", "body": events, "more_body": True})
                except ApiError as error:
                    if not line.begun:
                        raise
                    end = self._door.broken(error)
                    await send({"type": "http.response.body", "body": end, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ClientGone:
            if not line.begun:
                raise


class _Line:
    """The way to the client: begins the answer once, and says something when nothing else was said."""

    def __init__(self, send: Send, start: Message, quiet_seconds: float, quiet: bytes) -> None:
        self._send = send
        self._quiet = quiet
        self._start = start
        self._quiet_seconds = quiet_seconds
        self._loop = asyncio.get_running_loop()
        self._saying: asyncio.Task[None] | None = None
        self.now = self._loop.time
        self.last = self.now()
        self.begun = False

    async def __aenter__(self) -> "_Line":
        self._timer = self._loop.call_later(self._quiet_seconds, self._look)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._saying is not None:
            self._saying.cancel()
            await asyncio.wait([self._saying])

    async def begin(self) -> None:
        """Send the status and the headers."""
        self.begun = True
        await self._send(self._start)

    def _look(self) -> None:
        quiet = self.now() - self.last
        if quiet >= self._quiet_seconds and (self._saying is None or self._saying.done()):
            self._saying = self._loop.create_task(self._say())
            quiet = 0.0
        self._timer = self._loop.call_later(max(self._quiet_seconds - quiet, 0.01), self._look)

    async def _say(self) -> None:
        if not self.begun:
            await self.begin()
        self.last = self.now()
        await self._send({"type": "http.response.body", "body": self._quiet, "more_body": True})
