"""Cells as texts: messages, prompts, answers, transcripts."""

import re
from collections.abc import Mapping
from typing import Any

from feedback.rows.examples import Message
from feedback.rows.said import Misfit, Row
from feedback.rows.values import parsed

_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
}
_LANGCHAIN_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_MORE = ("name", "tool_calls", "tool_call_id")  # what OpenAI's messages have besides role and content
_TURN = re.compile(r"\n\n(Human|Assistant|System):[ \t]?")
_SPEAKERS = {"Human": "user", "Assistant": "assistant", "System": "system"}


# ---- prompts


def prompt(content: Any, name: str = "prompt") -> tuple[Message, ...]:
    """A prompt as messages; a plain text is what a user said, or a transcript as those of HH-RLHF."""
    if not isinstance(content, str):
        return messages_of(content)
    if is_transcript(content):
        messages = transcript(content)
        if len(messages) > 1 and messages[-1] == {"role": "assistant", "content": ""}:
            messages = messages[:-1]  # "Assistant:" at its end asks for the answer
        return messages
    return ({"role": "user", "content": text(content, name)},)


def asked(row: Row, column: str) -> tuple[Message, ...]:
    """The messages that an answer is to: a prompt with its system prompt, history, input and context."""
    messages = prompt(parsed_messages(row[column]), column)
    more = [text(row[name], name) for name in ("input", "context") if row.get(name) and name != column]
    if column == "instruction" and more:
        messages = ({"role": "user", "content": "\n".join([text(row[column], column), *more])},)
    if row.get("history"):
        messages = (*history(row["history"]), *messages)
    return with_system(row, messages)


def with_system(row: Row, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages behind the row's system prompt, if it has one that they do not begin with."""
    said = row.get("system") or row.get("system_prompt")
    if not said:
        return messages
    first: Message = {"role": "system", "content": text(said, "system")}
    return messages if messages and messages[0] == first else (first, *messages)


def history(content: Any) -> tuple[Message, ...]:
    """What was said before: messages, or pairs of a question and its answer. Raises Misfit."""
    turns = parsed(content)
    if isinstance(turns, list) and turns and isinstance(turns[0], dict):
        return messages_of(turns)
    if not isinstance(turns, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in turns):
        raise Misfit(
            "column 'history' is no list of [question, answer]; leave it out with --map history=ignore"
        )
    return tuple(
        {"role": role, "content": text(said, "history")}
        for turn in turns
        for role, said in zip(("user", "assistant"), turn, strict=True)
    )


def is_transcript(content: Any) -> bool:
    """Whether a text is one of turns that begin with "\\n\\nHuman:" and "\\n\\nAssistant:"."""
    return isinstance(content, str) and _TURN.match(content) is not None


def transcript(content: str) -> tuple[Message, ...]:
    """A text that `is_transcript`, as messages."""
    _, *turns = _TURN.split(content)
    return tuple(
        {"role": _SPEAKERS[who], "content": said} for who, said in zip(turns[::2], turns[1::2], strict=True)
    )


# ---- messages


def messages_of(content: Any) -> tuple[Message, ...]:
    """Messages in OpenAI's, ShareGPT's or LangChain's words, in OpenAI's. Raises Misfit."""
    if not isinstance(content, list) or not content:
        raise Misfit("a conversation must be a list of at least one message")
    return tuple(message_of(message, i) for i, message in enumerate(content))


def message_of(message: Any, i: int = 0) -> Message:
    """One message. Raises Misfit."""
    if not isinstance(message, dict):
        raise Misfit(f"message {i} is {type(message).__name__}, not an object")
    if isinstance(message.get("kwargs"), dict):  # as LangChain writes its objects
        message = {"type": _langchain_type(message), **message["kwargs"]}
    named, known = _role_of(message)
    content = message.get("value") if "from" in message else message.get("content")
    if known is None:
        raise Misfit(f"message {i} is by {named!r}, an unknown role")
    more = {name: message[name] for name in _MORE if message.get(name)}
    calls = more.get("tool_calls", [])
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise Misfit(f"message {i} has tool_calls that are no list of objects")
    if not isinstance(content, str) and not more.get("tool_calls") and not is_parts(content):
        raise Misfit(f"message {i} has no text")
    return {"role": known, "content": content, **more}


def _role_of(message: Mapping[str, Any]) -> tuple[Any, str | None]:
    """Who a message is by, as it says and in OpenAI's words."""
    if "from" in message:
        return message["from"], _SHAREGPT_ROLES.get(str(message["from"]))
    if "role" in message:
        role = message["role"]
        return role, role if isinstance(role, str) and role in _ROLES else None
    return message.get("type"), _LANGCHAIN_ROLES.get(str(message.get("type")))


def _langchain_type(message: Mapping[str, Any]) -> str:
    """The kind of message in the path of a LangChain object: ["langchain", .., "HumanMessage"]."""
    path = message.get("id")
    name = str(path[-1]) if isinstance(path, list) and path else ""
    return name.removesuffix("Chunk").removesuffix("Message").lower()


def parsed_messages(content: Any) -> Any:
    """The messages that a table's cell holds as JSON; an answer that is JSON itself stays a text."""
    found = parsed(content)
    several = found if isinstance(found, list) else [found]
    if several and all(isinstance(each, dict) and each.keys() & {"role", "from"} for each in several):
        return found
    return content


# ---- answers


def last_answer(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], str]:
    """A conversation as what came before its last message, and that: the assistant's. Raises Misfit."""
    if messages[-1]["role"] != "assistant":
        raise Misfit(f"the last message is by {messages[-1]['role']!r}; it should be the assistant's")
    if len(messages) == 1:
        raise Misfit("the conversation has an answer and no question")
    return messages[:-1], text(messages[-1]["content"], "the answer")


def answer(content: Any, name: str) -> str:
    """One answer: a text, a message, or a list whose only message is it. Raises Misfit."""
    if isinstance(content, list) and not _is_text_parts(content):
        if len(content) != 1:
            raise Misfit(f"{name} has {len(content)} messages; one answer is read")
        content = content[0]
    if isinstance(content, dict):
        message = message_of(content)
        if message["role"] != "assistant":
            raise Misfit(f"{name} is by {message['role']!r}, not by the assistant")
        content = message["content"]
    return text(content, name)


def text(content: Any, name: str) -> str:
    """A text; one of nothing but space is one, too: a model may answer so, and be voted down for it."""
    if content in (None, ""):
        raise Misfit(f"{name} is empty")
    if isinstance(content, list) and is_parts(content):
        if any(part["type"] != "text" for part in content):
            raise Misfit(f"{name} has parts that are not text")
        content = "".join(str(part.get("text") or part.get("value") or "") for part in content)
        if not content:
            raise Misfit(f"{name} is empty")
    if not isinstance(content, str):
        raise Misfit(f"{name} is no text")
    return content


def is_parts(content: Any) -> bool:
    """Whether a message's content comes in parts, as OpenAI's may."""
    return (
        isinstance(content, list)
        and bool(content)
        and all(isinstance(part, dict) and part.get("type") for part in content)
    )


def _is_text_parts(content: Any) -> bool:
    """Whether a content comes in parts and is no list of messages."""
    return is_parts(content) and not any(part.keys() & {"role", "from", "kwargs"} for part in content)


def plain(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Messages whose parts are all texts, as texts."""
    return tuple(
        {**message, "content": text(message["content"], "a message")}
        if isinstance(message["content"], list) and all(part["type"] == "text" for part in message["content"])
        else message
        for message in messages
    )
