"""POST /v1/responses as a chat: OpenAI's newer API says the same things in other words.

One answer of a model can be several items there (a thought, a message, calls of functions); in a chat it is
one message. So items of the assistant that follow each other become one message.
"""

from typing import Any

from serve.apis.responses_schema import LOGPROBS, RESPONSE, refuse_foreign
from serve.generation.requests import check_model
from serve.http.bodies import parse_object
from serve.schemas.validator import check

Json = dict[str, Any]

# Fields that are said in other words in a chat, or that have no effect on an answer.
_OWN = frozenset(
    [
        *(
            "input",
            "instructions",
            "max_output_tokens",
            "tools",
            "tool_choice",
            "text",
            "reasoning",
            "include",
        ),
        *("top_logprobs", "previous_response_id", "background", "truncation", "conversation", "prompt"),
        *(
            "context_management",
            "stream_options",
            "prompt_cache_key",
            "prompt_cache_retention",
            "max_tool_calls",
        ),
        *("prompt_cache_options", "service_tier", "moderation", "image"),
    ]
)


def parse_response(raw: bytes, model_name: str) -> Json:
    """Check a request for a response. Raises BadRequest naming the field, NotFound for another model."""
    body = parse_object(raw)
    refuse_foreign(body)
    check(body, RESPONSE)
    check_model(body["model"], model_name)
    return body


def to_chat(body: Json, history: list[Json]) -> Json:
    """The chat that a checked body asks for. `history`: the messages before its input."""
    chat = {name: value for name, value in body.items() if name not in _OWN}
    told = body.get("instructions")
    instructions = [] if told is None else [{"role": "system", "content": told}]
    chat["messages"] = [*instructions, *history, *messages_of(body["input"])]
    for name, value in (
        ("max_completion_tokens", body.get("max_output_tokens")),
        ("tools", None if body.get("tools") is None else [_tool(tool) for tool in body["tools"]]),
        ("tool_choice", _tool_choice(body.get("tool_choice"))),
        ("response_format", _format((body.get("text") or {}).get("format"))),
        ("reasoning_effort", (body.get("reasoning") or {}).get("effort")),
    ):
        if value is not None:
            chat[name] = value
    if LOGPROBS in (body.get("include") or []):
        chat |= {"logprobs": True, "top_logprobs": body.get("top_logprobs") or 0}
    if body.get("stream"):
        chat["stream_options"] = {"include_usage": True}
    chat["store"] = body.get("store") is not False
    return chat


def messages_of(given: str | list[Json]) -> list[Json]:
    """The chat messages that an input stands for."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[Json] = []
    said: Json | None = None  # the assistant's message that grows
    for item in given:
        kind = item.get("type", "message")
        if kind == "function_call_output":
            said = None
            messages.append(
                {"role": "tool", "tool_call_id": item["call_id"], "content": _content(item["output"])}
            )
        elif kind == "message" and item["role"] != "assistant":
            said = None
            messages.append({"role": item["role"], "content": _content(item["content"])})
        else:
            if said is None or _begins_another(said, kind):
                said = {"role": "assistant", "content": None}
                messages.append(said)
            _add(said, item, kind)
    return messages


def _begins_another(said: Json, kind: str) -> bool:
    """Whether an item of the assistant is of another answer than those before it."""
    if kind == "message":
        return said["content"] is not None
    return kind == "reasoning" and (said["content"] is not None or "tool_calls" in said)


def _add(said: Json, item: Json, kind: str) -> None:
    if kind == "message":
        said["content"] = _text(item["content"])
    elif kind == "function_call":
        function = {"name": item["name"], "arguments": item["arguments"]}
        said.setdefault("tool_calls", []).append(
            {"id": item["call_id"], "type": "function", "function": function}
        )
    else:
        parts = item.get("content") or item.get("summary") or []
        thought = "\n".join(part["text"] for part in parts)
        if thought:
            said["reasoning"] = said["reasoning"] + "\n" + thought if "reasoning" in said else thought


def _content(content: str | list[Json]) -> str | list[Json]:
    """A message's content: a text, or parts where one of them is an image."""
    if isinstance(content, str) or all(part["type"] != "input_image" for part in content):
        return _text(content)
    return [_part(part) for part in content]


def _text(content: str | list[Json]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or part.get("refusal") or "" for part in content)


def _part(part: Json) -> Json:
    if part["type"] != "input_image":
        return {"type": "text", "text": part.get("text") or part.get("refusal") or ""}
    detail = {} if part.get("detail") is None else {"detail": part["detail"]}
    return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}


def _tool(tool: Json) -> Json:
    kept = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {name: tool[name] for name in kept if tool.get(name) is not None}}


def _tool_choice(choice: str | Json | None) -> str | Json | None:
    if isinstance(choice, dict):
        return {"type": "function", "function": {"name": choice["name"]}}
    return choice


def _format(wanted: Json | None) -> Json | None:
    if wanted is None or wanted["type"] != "json_schema":
        return wanted
    kept = ("name", "schema", "description", "strict")
    return {
        "type": "json_schema",
        "json_schema": {name: wanted[name] for name in kept if wanted.get(name) is not None},
    }


def echo_of(body: Json, is_stored: bool) -> Json:
    """What a response says of its request. The user's name is not among it: only pseudonyms are kept."""
    reasoning = body.get("reasoning") or {}
    shape = (body.get("text") or {}).get("format") or {"type": "text"}
    return {
        "background": False,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": body["model"],
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": None},
        "store": is_stored,
        "temperature": 1.0 if body.get("temperature") is None else body["temperature"],
        "text": {"format": shape},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_logprobs": body.get("top_logprobs") or 0,
        "top_p": 1.0 if body.get("top_p") is None else body["top_p"],
        "truncation": "disabled",
        "user": None,
    }
