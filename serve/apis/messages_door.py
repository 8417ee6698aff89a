"""Answers as Anthropic's Messages API gives them: whole, and as its stream of events."""

from typing import Any

from pydantic_core import from_json

from serve.auth.feedback_tokens import EXTENSION
from serve.generation.doors import named_event
from serve.http.dialects import as_message_error
from serve.http.errors import ApiError

Json = dict[str, Any]

_FINISHED = {"length": "max_tokens", "content_filter": "refusal"}
_PING = {"type": "ping"}


class MessageDoor:
    """One message. `token`: to vote on it with."""

    quiet = named_event(_PING)

    def __init__(self, completion_id: str, token: Json) -> None:
        self._id = completion_id
        self._token = token
        self._blocks = 0  # begun
        self._open: str | int | None = None  # the kind of the block that is open, the index of an open call
        self._calls = False
        self._end: Json = {}  # the last choice's finish reason and what stopped it
        self._usage: Json = {}
        self._begun = False
        self._events: list[bytes] = []

    def whole(self, answer: Json) -> Json:
        """See `Door.whole`."""
        choice = answer["choices"][0]
        message = choice["message"]
        blocks: list[Json] = []
        if message.get("reasoning"):
            blocks.append({"type": "thinking", "thinking": message["reasoning"], "signature": ""})
        calls = [_use(call) for call in message.get("tool_calls") or []]
        if message.get("content") or not (blocks or calls):
            blocks.append({"type": "text", "text": message.get("content") or ""})
        return _message(self._id, answer["model"], [*blocks, *calls], _usage(answer.get("usage") or {})) | {
            **_stop(choice, bool(calls)),
            EXTENSION: self._token,
        }

    def chunk(self, chunk: Json) -> bytes:
        """See `Door.chunk`."""
        if not self._begun:
            prompt = len(chunk.get("prompt_token_ids") or ())
            begun = _message(self._id, chunk["model"], [], {"input_tokens": prompt, "output_tokens": 0})
            self._begun = True
            self._tell({"type": "message_start", "message": begun | {EXTENSION: self._token}})
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk["choices"]:
            self._take_delta(choice["delta"])
            if choice.get("finish_reason") is not None:
                self._end = choice
        return self._take()

    def end(self) -> bytes:
        """See `Door.end`."""
        if not self._blocks:
            self._begin("text", {"type": "text", "text": ""})
        self._close()
        stop = _stop(self._end, self._calls)
        self._tell({"type": "message_delta", "delta": stop, "usage": _usage(self._usage)})
        self._tell({"type": "message_stop"})
        return self._take()

    def broken(self, error: ApiError) -> bytes:
        """See `Door.broken`."""
        return named_event(as_message_error(error))

    def _take_delta(self, delta: Json) -> None:
        if delta.get("reasoning"):
            if self._open != "thinking":
                self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            self._say({"type": "thinking_delta", "thinking": delta["reasoning"]})
        if delta.get("content"):
            if self._open != "text":
                self._begin("text", {"type": "text", "text": ""})
            self._say({"type": "text_delta", "text": delta["content"]})
        for call in delta.get("tool_calls") or []:
            self._take_call(call)

    def _take_call(self, call: Json) -> None:
        function = call.get("function") or {}
        if self._open != call["index"]:
            name, call_id = function.get("name") or "", call.get("id") or f"toolu_{self._blocks}"
            self._begin(call["index"], {"type": "tool_use", "id": call_id, "name": name, "input": {}})
            self._calls = True
        if function.get("arguments"):
            self._say({"type": "input_json_delta", "partial_json": function["arguments"]})

    def _begin(self, what: str | int, block: Json) -> None:
        self._close()
        self._open = what
        self._tell({"type": "content_block_start", "index": self._blocks, "content_block": block})
        self._blocks += 1

    def _say(self, delta: Json) -> None:
        self._tell({"type": "content_block_delta", "index": self._blocks - 1, "delta": delta})

    def _close(self) -> None:
        if self._open is not None:
            self._tell({"type": "content_block_stop", "index": self._blocks - 1})
            self._open = None

    def _tell(self, content: Json) -> None:
        self._events.append(named_event(content))

    def _take(self) -> bytes:
        events, self._events = self._events, []
        return b"".join(events)


def _message(message_id: str, model: str, blocks: list[Json], usage: Json) -> Json:
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": blocks,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def _use(call: Json) -> Json:
    function = call["function"]
    made = _arguments(function["arguments"])
    return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": made}


def _arguments(text: str) -> Json:
    """A call's arguments; of those that the limit of tokens cut, all that is there."""
    try:
        found = from_json(text or "{}", allow_partial="trailing-strings")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _stop(choice: Json, calls: bool) -> Json:
    """Why an answer ended: at a stop sequence, which is then named, with calls, or by itself."""
    finish, stopped = choice.get("finish_reason"), choice.get("stop_reason")
    if finish == "stop" and isinstance(stopped, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": stopped}
    reason = _FINISHED.get(finish or "") or ("tool_use" if calls else "end_turn")
    return {"stop_reason": reason, "stop_sequence": None}


def _usage(usage: Json) -> Json:
    """Tokens as Anthropic counts them: the cached ones, where they are told, are apart from the others."""
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return {
        "input_tokens": usage.get("prompt_tokens", 0) - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.get("completion_tokens", 0),
    }
