"""What `store: true` keeps: the answer as its client saw it, put together again when it was streamed."""

from typing import Any

from serve.generation.answers import Presentation, Transcript
from serve.generation.generation import Generation, Json, Route
from serve.generation.requests import ChatRequest
from serve.storage.stored import Stored

_DEFAULTS: dict[str, Any] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "seed": None,
    "tools": None,
    "tool_choice": None,
    "response_format": None,
}
"""Fields of the request that are kept with the answer, as OpenAI keeps them."""


class KeepingPresentation(Presentation):
    """Shows the answer like any other, and keeps it."""

    def __init__(self, asked: ChatRequest, completion_id: str, model_name: str) -> None:
        super().__init__(asked, completion_id, model_name)
        self._shown: list[Json] = []  # the chunks, or a whole answer

    def chunk(self, chunk: Json) -> Json:
        """See `Presentation.chunk`."""
        self._shown.append(super().chunk(chunk))
        return chunk

    def kept(self, usage: Json | None) -> Json:
        """The whole answer; `usage` of a stream whose client did not ask for it."""
        first = self._shown[0]
        if first["object"] == "chat.completion":
            return first
        choices: dict[int, Json] = {}
        for chunk in self._shown:
            for piece in chunk["choices"]:
                _add(choices.setdefault(piece["index"], _empty(piece["index"])), piece)
        return {
            "id": first["id"],
            "object": "chat.completion",
            "created": first["created"],
            "model": first["model"],
            "choices": [choices[index] for index in sorted(choices)],
            "usage": usage,
        }


class KeptGeneration(Generation):
    """A chat whose answer will be stored."""

    transcript: Transcript
    _presentation: KeepingPresentation

    def __init__(self, asked: ChatRequest, route: Route, model_name: str) -> None:
        presentation = KeepingPresentation(asked, route.completion_id, model_name)
        super().__init__(asked, route, Transcript(), presentation)

    def stored(self) -> Stored:
        """What is to be kept of a finished answer."""
        body, route = self.asked.body, self.route
        answer = self._presentation.kept(self.transcript.usage)
        asked = self.asked.kept_with
        if asked is None:
            asked = {
                name: default if body.get(name) is None else body[name] for name, default in _DEFAULTS.items()
            }
        return Stored(
            tenant=route.caller.tenant,
            completion_id=route.completion_id,
            user=route.user,
            model=answer["model"],
            answer=answer | asked,
            messages=self.asked.messages,
            metadata=body.get("metadata") or {},
        )


def _empty(index: int) -> Json:
    message: Json = {"role": "assistant", "content": None, "refusal": None}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": None}


def _add(choice: Json, piece: Json) -> None:
    """Put one piece of a stream to what there is of its choice."""
    delta, message = piece["delta"], choice["message"]
    if delta.get("content"):
        message["content"] = (message["content"] or "") + delta["content"]
    for name in ("reasoning", "reasoning_content"):
        if delta.get(name):
            message[name] = message.get(name, "") + delta[name]
    for call in delta.get("tool_calls") or []:
        _add_call(message.setdefault("tool_calls", []), call)
    logprobs = piece.get("logprobs")
    if logprobs is not None:
        choice["logprobs"] = choice["logprobs"] or {"content": []}
        choice["logprobs"]["content"] += logprobs.get("content") or []
    choice["finish_reason"] = piece.get("finish_reason") or choice["finish_reason"]


def _add_call(calls: list[Json], delta: Json) -> None:
    while len(calls) <= delta["index"]:
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    call, function = calls[delta["index"]], delta.get("function") or {}
    call["id"] += delta.get("id") or ""
    for name in ("name", "arguments"):
        call["function"][name] += function.get(name) or ""
