"""How the clients of one route are spoken to. A door is made for one request and keeps how far its stream is.

What the engine answers comes here as OpenAI's chat completions and their chunks, which
`serve.generation.answers.Presentation` made.
"""

from typing import Any, Protocol

import orjson

from serve.auth.feedback_tokens import EXTENSION
from serve.http.errors import ApiError

Json = dict[str, Any]

COMMENT = b": still at work\n\n"


class Door(Protocol):
    """The shape of whole answers, of a stream's events and of an error in the middle of one."""

    quiet: bytes  # sent while there is nothing else to send

    def whole(self, answer: Json) -> Json:
        """A whole answer."""
        ...

    def chunk(self, chunk: Json) -> bytes:
        """The events of a chunk, which must be left as it is: it may be kept."""
        ...

    def end(self) -> bytes:
        """The events that end a stream."""
        ...

    def broken(self, error: ApiError) -> bytes:
        """The events that end a stream that broke off."""
        ...


def event(content: object) -> bytes:
    """A server-sent event."""
    return b"data: " + orjson.dumps(content) + b"\n\n"


def named_event(content: Json) -> bytes:
    """A server-sent event that is named after its `type`."""
    return b"event: %b\n" % content["type"].encode() + event(content)


class ChatDoor:
    """OpenAI's chats and texts. `token`: to vote on the answer with."""

    quiet = COMMENT

    def __init__(self, completion_id: str, token: Json) -> None:
        self._token = token
        self._begun = False

    def whole(self, answer: Json) -> Json:
        """See `Door.whole`."""
        return answer | {EXTENSION: self._token}

    def chunk(self, chunk: Json) -> bytes:
        """See `Door.chunk`."""
        if not self._begun:
            self._begun = True
            chunk = {EXTENSION: self._token, **chunk}
        return event(chunk)

    def end(self) -> bytes:
        """See `Door.end`."""
        return b"data: [DONE]\n\n"

    def broken(self, error: ApiError) -> bytes:
        """See `Door.broken`."""
        return event(error.as_dict())
