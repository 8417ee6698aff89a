"""Calls of functions that the limit of tokens cut, in whole answers.

In streams vLLM 0.32 gives as much of such a call as there is. Of whole answers it parses only calls that came
to their end: with `tool_choice: "required"` a cut one is lost, and with "auto" the hermes parser leaves all
calls as text. Here they are taken out of what was sampled: a whole answer says what its stream says.
"""

import contextlib
import json
import re
import secrets
from typing import Any

from deploy.engines.thoughts import CLOSINGS

Json = dict[str, Any]

_MARK = "<tool_call>"
_END = "</tool_call>"
_CALL = re.compile(
    r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*(?:,\s*"(?:arguments|parameters)"\s*:\s*(.*))?', re.DOTALL
)
_DECODER = json.JSONDecoder()


def take_cut_calls(answer: Json, body: Json) -> None:
    """Put the calls of answers that were cut where calls are, in place. `body`: the chat's."""
    choice = body.get("tool_choice")
    if not body.get("tools") or choice == "none":
        return
    for each in answer["choices"]:
        message = each["message"]
        if each.get("finish_reason") != "length" or message.get("tool_calls"):
            continue
        content = message.get("content") or ""
        if choice == "required" and not content:
            calls = _listed(_sampled(each))
        else:
            content, *marked = content.split(_MARK)
            calls = [call for text in marked if (call := _call(text.partition(_END)[0])) is not None]
        if calls:
            message["tool_calls"], message["content"] = calls, content or None


def _sampled(choice: Json) -> str:
    """The text that was sampled, behind what was thought."""
    tokens = (choice.get("logprobs") or {}).get("content") or []
    text = b"".join(bytes(token.get("bytes") or ()) for token in tokens).decode(errors="ignore")
    for mark in CLOSINGS:
        text = text.rpartition(mark)[2]
    return text


def _listed(text: str) -> list[Json]:
    """The calls of a JSON list that has no end."""
    calls: list[Json] = []
    at = text.find("{")
    while at >= 0:
        call = _call(text[at:])
        if call is not None:
            calls.append(call)
        try:
            at = text.find("{", _DECODER.raw_decode(text, at)[1])
        except ValueError:
            break
    return calls


def _call(text: str) -> Json | None:
    """The call at the beginning of a text, which may end in the middle of it; None when its name is cut."""
    found = _CALL.match(text)
    if found is None:
        return None
    try:
        name = json.loads(found[1])
    except ValueError:
        return None
    arguments = found[2] or ""
    with contextlib.suppress(ValueError):  # cut: all of it
        arguments = arguments[: _DECODER.raw_decode(arguments)[1]]
    function = {"name": name, "arguments": arguments}
    return {"id": f"chatcmpl-tool-{secrets.token_hex(8)}", "type": "function", "function": function}
