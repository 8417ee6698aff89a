"""The output items of a response as they grow: a thought, what is said, calls of functions.

A chat's message, whole or in the deltas of a stream, is cut into items in the order in which they come. Each
step is told by an event of OpenAI's, with the item's place and id.
"""

from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
Tell = Callable[[str, Json], None]  # the kind of an event, and what it says

_PART_OF = {"message": "output_text", "reasoning": "reasoning_text"}
_ID_OF = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


class Items:
    """The items of one response. `name`: what makes their ids its own; `tell` is called with each event.

    Texts are closed when another item begins, calls when the next one does.
    """

    def __init__(self, name: str, tell: Tell) -> None:
        self.items: list[Json] = []
        self._name = name
        self._tell = tell
        self._open: int | None = None
        self._calls: dict[int, int] = {}  # the place of each call, by the index that its deltas have

    def add(self, message: Json, logprobs: Json | None) -> None:
        """Take in a message or a delta of one, and the logprobs that came with it."""
        if message.get("reasoning"):
            self._say("reasoning", message["reasoning"], [])
        if message.get("content"):
            self._say("message", message["content"], (logprobs or {}).get("content") or [])
        for place, call in enumerate(message.get("tool_calls") or []):
            self._call(call.get("index", place), call)

    def close(self, status: str) -> None:
        """No more comes. `status` ("completed" or "incomplete") is the last item's."""
        if not self.items:
            self._begin("message")
        self._end(status)

    def _say(self, kind: str, text: str, logprobs: list[Json]) -> None:
        place = self._open
        if place is None or self.items[place]["type"] != kind:
            place = self._begin(kind)
        part = self.items[place]["content"][0]
        part["text"] += text
        said: Json = {"content_index": 0, "delta": text}
        if kind == "message":
            shown = [_logprob(token) for token in logprobs]
            part["logprobs"] += shown
            said["logprobs"] = shown
        self._tell(f"response.{_PART_OF[kind]}.delta", self._at(place) | said)

    def _call(self, index: int, delta: Json) -> None:
        function = delta.get("function") or {}
        place = self._calls.get(index)
        if place is None:
            place = self._calls[index] = self._begin("function_call", delta.get("id"), function.get("name"))
        arguments = function.get("arguments")
        if arguments:
            self.items[place]["arguments"] += arguments
            self._tell("response.function_call_arguments.delta", self._at(place) | {"delta": arguments})

    def _begin(self, kind: str, call_id: str | None = None, name: str | None = None) -> int:
        self._end("completed")
        place = self._open = len(self.items)
        item: Json = {"id": f"{_ID_OF[kind]}_{self._name}-{place}", "type": kind, "status": "in_progress"}
        if kind == "function_call":
            item |= {"call_id": call_id or item["id"], "name": name or "", "arguments": ""}
        elif kind == "message":
            item |= {"role": "assistant", "content": []}
        else:
            item |= {"summary": [], "content": []}
        self.items.append(item)
        self._tell("response.output_item.added", {"output_index": place, "item": item})
        if kind != "function_call":
            part: Json = {"type": _PART_OF[kind], "text": ""}
            if kind == "message":
                part |= {"annotations": [], "logprobs": []}
            item["content"].append(part)
            self._tell("response.content_part.added", self._at(place) | {"content_index": 0, "part": part})
        return place

    def _end(self, status: str) -> None:
        if self._open is None:
            return
        place, self._open = self._open, None
        item = self.items[place]
        item["status"] = status
        at = self._at(place)
        if item["type"] == "function_call":
            said = {"name": item["name"], "arguments": item["arguments"]}
            self._tell("response.function_call_arguments.done", at | said)
        else:
            part = item["content"][0]
            said = {name: part[name] for name in ("text", "logprobs") if name in part}
            self._tell(f"response.{part['type']}.done", at | {"content_index": 0} | said)
            self._tell("response.content_part.done", at | {"content_index": 0, "part": part})
        self._tell("response.output_item.done", {"output_index": place, "item": item})

    def _at(self, place: int) -> Json:
        return {"item_id": self.items[place]["id"], "output_index": place}


def _logprob(token: Json) -> Json:
    """A token's logprob as a response has it; of a chat's it is the same without other fields."""
    shown = {"token": token["token"], "bytes": token.get("bytes") or [], "logprob": token["logprob"]}
    return shown | {
        "top_logprobs": [
            {"token": other["token"], "bytes": other.get("bytes") or [], "logprob": other["logprob"]}
            for other in token.get("top_logprobs") or []
        ]
    }
