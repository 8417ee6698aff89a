"""Calls as tracing services keep them: input as messages, and output as an answer."""

from typing import Any

from feedback.dialects.trainers import ANSWERS, PROMPTS
from feedback.rows import texts, values
from feedback.rows.examples import Example, Kind, Message
from feedback.rows.said import Misfit, Shown


def messages_in(content: Any, name: str) -> tuple[Message, ...]:
    """The messages of an input: a text, messages, or an object that holds one of them. Raises Misfit."""
    content = values.parsed(content)
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], list):
        content = content[0]  # LangChain's batches, of one
    if not isinstance(content, dict):
        return texts.prompt(content, name)
    if content.get("messages"):
        return messages_in(content["messages"], f"{name}.messages")
    held = [key for key in (*PROMPTS, "text", "user_input") if content.get(key)]
    if len(held) != 1:
        raise Misfit(
            f"column {name!r} has {', '.join(map(repr, content)) or 'nothing'}; it must be a text, "
            "messages, or an "
            "object with 'messages' or one of 'question' and 'prompt'"
        )
    before = texts.history(content["chat_history"]) if content.get("chat_history") else ()
    return texts.with_system(content, (*before, *messages_in(content[held[0]], f"{name}.{held[0]}")))


def answer_in(content: Any, name: str) -> str:
    """The answer of an output: a text, a message, or an object that holds one of them. Raises Misfit."""
    content = values.parsed(content)
    if isinstance(content, list) and content and isinstance(content[-1], dict | list) and len(content) == 1:
        content = content[0]
        return answer_in(content, name)
    if not isinstance(content, dict) or content.keys() & {"role", "from", "kwargs"}:
        return texts.answer(content, name)
    if content.get("choices"):
        return answer_in([choice["message"] for choice in content["choices"]], f"{name}.choices")
    if content.get("generations"):
        return answer_in(content["generations"], f"{name}.generations")
    if content.get("messages"):
        return answer_in(texts.last_answer(texts.messages_of(content["messages"]))[1], f"{name}.messages")
    held = [key for key in ("message", *ANSWERS, "text", "content") if content.get(key)]
    if not held or (len(held) > 1 and held[0] != "message" and "text" not in held):
        raise Misfit(
            f"column {name!r} has {', '.join(map(repr, content)) or 'nothing'}; it must be a text, a "
            "message, or an "
            "object with one of 'answer' and 'output'"
        )
    return answer_in(content[held[0]], f"{name}.{held[0]}")


def about(shown: Shown | str, kind: Kind, value: float, more: dict[str, Any]) -> Example:
    """A thumb or rating of an answer that is shown, or of a completion of this service."""
    if isinstance(shown, str):
        return Example(kind, (), (), value, about=shown, **more)
    rater = more.get("rater") or shown.rater
    return Example(kind, shown.messages, (shown.answer,), value, **{**more, "rater": rater})


def corrected(shown: Shown | str, text: str, more: dict[str, Any]) -> Example:
    """What an answer should have been; the answer itself makes it one to imitate. Raises Misfit."""
    if isinstance(shown, str):
        raise Misfit(
            "what an answer should have been needs the answer's row: import the file that has it, too"
        )
    rater = more.get("rater") or shown.rater
    more = {**more, "rater": rater}
    if text == shown.answer:
        return Example("demonstration", shown.messages, (text,), 1.0, **more)
    return Example("correction", shown.messages, (text, shown.answer), 1.0, **more)
