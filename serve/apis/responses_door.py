"""Answers as OpenAI's Responses API gives them: whole, and as its stream of events."""

import time
from typing import Any

from feedback.core.ids import RESPONSE_PREFIX
from serve.apis.responses_items import Items
from serve.auth.feedback_tokens import EXTENSION
from serve.generation.doors import COMMENT, named_event
from serve.http.errors import ApiError

Json = dict[str, Any]


class ResponseDoor:
    """One response. `echo`: what it says of its request; `token`: to vote on it with.

    The id to vote on is there twice: LiteLLM gives its users an id of its own in place of the response's.
    """

    quiet = COMMENT

    def __init__(self, echo: Json, completion_id: str, token: Json) -> None:
        self._id = completion_id
        self._echo = echo | {EXTENSION: token | {"completion_id": completion_id}}
        self._items = Items(completion_id.removeprefix(RESPONSE_PREFIX), self._tell)
        self._created: int | None = None
        self._finish: str | None = None
        self._usage: Json | None = None
        self._events: list[bytes] = []
        self._told = 0

    def whole(self, answer: Json) -> Json:
        """See `Door.whole`."""
        return response_of(answer, self._echo)

    def chunk(self, chunk: Json) -> bytes:
        """See `Door.chunk`."""
        self._begin(chunk["created"])
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk["choices"]:
            self._finish = choice.get("finish_reason") or self._finish
            self._items.add(choice["delta"], choice.get("logprobs"))
        return self._take()

    def end(self) -> bytes:
        """See `Door.end`."""
        status = _status(self._finish)
        self._items.close(status)
        self._tell(f"response.{status}", {"response": self._response(status)})
        return self._take()

    def broken(self, error: ApiError) -> bytes:
        """See `Door.broken`."""
        self._begin(int(time.time()))
        code = "server_error" if error.status >= 500 else error.code
        failed = self._response("failed") | {"error": {"code": code, "message": error.message}}
        self._tell("response.failed", {"response": failed})
        return self._take()

    def _begin(self, created: int) -> None:
        if self._created is None:
            self._created = created
            for kind in ("created", "in_progress"):
                self._tell(f"response.{kind}", {"response": self._response("in_progress")})

    def _response(self, status: str) -> Json:
        assert self._created is not None
        return _response(
            self._id, self._created, status, self._finish, self._items.items, self._usage, self._echo
        )

    def _tell(self, kind: str, said: Json) -> None:
        self._events.append(named_event({"type": kind, "sequence_number": self._told, **said}))
        self._told += 1

    def _take(self) -> bytes:
        events, self._events = self._events, []
        return b"".join(events)


def response_of(answer: Json, echo: Json) -> Json:
    """The Response object of a whole chat completion. `echo`: its fields that say what was asked for."""
    choice = answer["choices"][0]
    status = _status(choice["finish_reason"])
    items = Items(answer["id"].removeprefix(RESPONSE_PREFIX), _ignore)
    items.add(choice["message"], choice.get("logprobs"))
    items.close(status)
    return _response(
        answer["id"],
        answer["created"],
        status,
        choice["finish_reason"],
        items.items,
        answer.get("usage"),
        echo,
    )


def _ignore(kind: str, said: Json) -> None:
    """Nobody hears the events of a whole answer."""


def _status(finish: str | None) -> str:
    return "incomplete" if finish in ("length", "content_filter") else "completed"


def _response(
    response_id: str,
    created: int,
    status: str,
    finish: str | None,
    items: list[Json],
    usage: Json | None,
    echo: Json,
) -> Json:
    why = {"length": "max_output_tokens"}.get(finish or "", finish)
    return {
        "id": response_id,
        "object": "response",
        "created_at": created,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": why} if status == "incomplete" else None,
        "output": items,
        "usage": None if usage is None else _usage(usage),
        **echo,
    }


def _usage(usage: Json) -> Json:
    """Tokens as a response counts them; of the cached ones 0 where the caller is not told of them."""
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    thought = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": usage["total_tokens"],
    }
