"""Both answers of a comparison as one stream: each event says which side it is of.

data: {"object": "comparison.chunk", "id": "cmp-..", "a": "chatcmpl-..", "b": "chatcmpl-..", "hearken": {..}}
data: {"object": "comparison.chunk", "side": "b", "chunk": {a chunk of a chat}}
data: {"object": "comparison.chunk", "side": "b", "ended": true}
data: [DONE]
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from serve.completions.chat import Chat
from serve.generation.doors import COMMENT, Json, event
from serve.generation.generation import Route
from serve.generation.requests import ChatRequest
from serve.http.errors import ApiError

AHEAD = 16
"""Events that may wait to be sent: a client that reads slowly holds both answers up."""

DONE = b"data: [DONE]\n\n"


class SideDoor:
    """One side as its generator speaks to the client (`serve.generation.doors.Door`). A side that breaks off
    is an error of the whole."""

    quiet = COMMENT

    def __init__(self, side: str) -> None:
        self._side = side
        self.error: ApiError | None = None

    def whole(self, answer: Json) -> Json:
        """A whole answer; no stream has one."""
        return answer

    def chunk(self, chunk: Json) -> bytes:
        """An event with a chunk of the side."""
        return event({"object": "comparison.chunk", "side": self._side, "chunk": chunk})

    def end(self) -> bytes:
        """The event that the side is whole."""
        return event({"object": "comparison.chunk", "side": self._side, "ended": True})

    def broken(self, error: ApiError) -> bytes:
        """The event of an error."""
        self.error = error
        return event(error.as_dict())


async def side_by_side(
    chat: Chat, asked: ChatRequest, sides: Mapping[str, Route], head: Json
) -> AsyncGenerator[bytes, None]:
    """The events of both answers, as they come. sides: by the names that clients know. head: what the first
    event says beside the ids.

    Raises ApiError before the first event. After it an error of one side is the last event, and the other
    side is given up. However it ends, no engine works on.
    """
    arrived: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(AHEAD)
    pumps = [asyncio.create_task(_pump(chat, asked, route, side, arrived)) for side, route in sides.items()]
    try:
        begun, running = False, len(pumps)
        while running:
            came = await arrived.get()
            if isinstance(came, ApiError) and begun:
                yield event(came.as_dict())
                return
            if isinstance(came, Exception):
                raise came
            if came is None:
                running -= 1
                continue
            if not begun:
                begun = True
                ids = {side: route.completion_id for side, route in sides.items()}
                yield event({"object": "comparison.chunk", **head, **ids})
            yield came
        yield DONE
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(
    chat: Chat,
    asked: ChatRequest,
    route: Route,
    side: str,
    arrived: "asyncio.Queue[bytes | Exception | None]",
) -> None:
    """Put what a side says into the queue, and at its end None, or the error that it ended with, of any kind:
    a side that ended without a word would be waited for."""
    door = SideDoor(side)
    try:
        async with aclosing(chat.stream(asked, route, door)) as events:
            async for told in events:
                if door.error is not None:
                    raise door.error
                await arrived.put(told)
        await arrived.put(None)
    except Exception as error:
        await arrived.put(error)
