"""POST /v1/messages as a chat: Anthropic's API says the same things in blocks."""

from typing import Any

import orjson

from serve.apis.messages_schema import COUNT_TOKENS, MESSAGE, refuse_foreign
from serve.generation.requests import check_model
from serve.http.bodies import parse_object
from serve.schemas.validator import check

Json = dict[str, Any]

# Fields that are said in other words in a chat, or that have no effect on an answer.
_OWN = frozenset(
    [
        *("system", "max_tokens", "stop_sequences", "tools", "tool_choice", "metadata", "output_config"),
        *("thinking", "mcp_servers", "container", "service_tier", "cache_control", "context_management"),
        *("inference_geo", "diagnostics", "speed", "user_profile_id", "workspace_id", "stream_options"),
    ]
)
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def parse_message(raw: bytes, model_name: str) -> Json:
    """Check a request for a message. Raises BadRequest naming the field, NotFound for another model."""
    return _parse(raw, model_name, MESSAGE)


def parse_count(raw: bytes, model_name: str) -> Json:
    """Check a request to count a prompt's tokens. Raises BadRequest, NotFound likewise."""
    return _parse(raw, model_name, COUNT_TOKENS)


def _parse(raw: bytes, model_name: str, schema: Json) -> Json:
    body = parse_object(raw)
    refuse_foreign(body)
    check(body, schema)
    check_model(body["model"], model_name)
    return body


def to_chat(body: Json) -> Json:
    """The chat that a checked body asks for."""
    chat = {name: value for name, value in body.items() if name not in _OWN}
    chat["messages"] = messages_of(body.get("system"), body["messages"])
    choice, config = body.get("tool_choice") or {}, body.get("output_config") or {}
    for name, value in (
        ("max_completion_tokens", body.get("max_tokens")),
        ("stop", body.get("stop_sequences") or None),
        ("tools", None if body.get("tools") is None else [_tool(tool) for tool in body["tools"]]),
        ("tool_choice", _tool_choice(choice)),
        ("parallel_tool_calls", False if choice.get("disable_parallel_tool_use") else None),
        ("response_format", _format(config.get("format"))),
        ("reasoning_effort", _effort(body.get("thinking"), config.get("effort"))),
        ("user", (body.get("metadata") or {}).get("user_id")),
    ):
        if value is not None:
            chat[name] = value
    if _is_begun(body["messages"]):
        chat |= {"continue_final_message": True, "add_generation_prompt": False}
    if body.get("stream"):
        # A stream begins with the count of the prompt's tokens, which is told last unless their ids are.
        chat |= {"stream_options": {"include_usage": True}, "return_token_ids": True}
    chat["store"] = False
    return chat


def _is_begun(messages: list[Json]) -> bool:
    """Whether the last message is the beginning of the answer, to be gone on with."""
    last = messages[-1]
    if last["role"] != "assistant":
        return False
    content = last["content"]
    if isinstance(content, str):
        return bool(content)
    kinds = {block["type"] for block in content}
    return "text" in kinds and "tool_use" not in kinds


def messages_of(system: str | list[Json] | None, messages: list[Json]) -> list[Json]:
    """The chat messages that a system prompt and messages stand for."""
    told = _text(system)
    made: list[Json] = [{"role": "system", "content": told}] if told else []
    for message in messages:
        if message["role"] == "assistant":
            made.append(_said(message["content"]))
        elif message["role"] == "system" or isinstance(message["content"], str):
            made.append({"role": message["role"], "content": _text(message["content"])})
        else:
            made += _asked(message["content"])
    return made


def _asked(blocks: list[Json]) -> list[Json]:
    """The messages of a user's blocks: results of tools are messages of their own, texts between them too."""
    made: list[Json] = []
    for block in blocks:
        if block["type"] == "tool_result":
            result = _text(block.get("content"))
            made.append({"role": "tool", "tool_call_id": block["tool_use_id"], "content": result})
        elif made and made[-1]["role"] == "user":
            made[-1]["content"] += "\n" + block["text"]
        else:
            made.append({"role": "user", "content": block["text"]})
    return made


def _said(content: str | list[Json]) -> Json:
    """The message of an assistant's blocks, without what was thought in secret: nobody here can read it."""
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    texts = [block["text"] for block in content if block["type"] == "text"]
    thoughts = [block["thinking"] for block in content if block["type"] == "thinking"]
    calls = [_call(block) for block in content if block["type"] == "tool_use"]
    message: Json = {"role": "assistant", "content": "".join(texts) if texts else None}
    if any(thoughts):
        message["reasoning"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _call(block: Json) -> Json:
    function = {"name": block["name"], "arguments": orjson.dumps(block["input"]).decode()}
    return {"id": block["id"], "type": "function", "function": function}


def _text(content: str | list[Json] | None) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block["text"] for block in content or [])


def _tool(tool: Json) -> Json:
    kept = {name: tool[name] for name in ("name", "description", "strict") if tool.get(name) is not None}
    return {"type": "function", "function": kept | {"parameters": tool["input_schema"]}}


def _tool_choice(choice: Json) -> str | Json | None:
    kind = choice.get("type")
    if kind == "tool":
        return {"type": "function", "function": {"name": choice["name"]}}
    return None if kind is None else _CHOICES[kind]


def _format(wanted: Json | None) -> Json | None:
    if wanted is None:
        return None
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted["schema"]}}


def _effort(thinking: Json | None, effort: str | None) -> str | None:
    return "none" if thinking is not None and thinking["type"] == "disabled" else effort
