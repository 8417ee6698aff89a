"""Check of an answer's calls of tools: of those in its prompt, with arguments that can be read.

Of the forms in which models write calls, these are known: JSON between <tool_call> tags (Hermes, Qwen), a
JSON list after [TOOL_CALLS] (Mistral), and bare JSON (Llama 3). Arguments are under "arguments" or
"parameters".
"""

import json
import re
from typing import Any

_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|$)", re.DOTALL)
_LIST = "[TOOL_CALLS]"


def calls_rightly(answer: str, prompt: str) -> bool:
    """Whether `answer` has calls, and all of them are of functions that `prompt` names, as a template writes
    them in JSON, with an object for arguments."""
    found = _calls(answer)
    return bool(found) and all(_is_right(call, prompt) for call in found)


def _calls(answer: str) -> list[Any]:
    """The calls in an answer; None for one that is no JSON."""
    if "<tool_call>" in answer:
        return [_read(text) for text in _TAGGED.findall(answer)]
    text = answer.partition(_LIST)[2] if _LIST in answer else answer
    if not text.lstrip().startswith(("{", "[")):
        return []
    read = _read(text)
    return read if isinstance(read, list) else [read]


def _read(text: str) -> Any:
    try:
        return json.loads(text.strip(), parse_constant=_refuse)  # Infinity and NaN are not JSON
    except ValueError:
        return None


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _is_right(call: Any, prompt: str) -> bool:
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return False
    arguments = call.get("arguments", call.get("parameters"))
    return (
        isinstance(arguments, dict)
        and re.search(r'"name":\s*' + re.escape(json.dumps(call["name"])), prompt) is not None
    )
