"""OpenAI's files: preference fine-tuning, and the stored completions of its API."""

from collections.abc import Iterator
from typing import Any

from feedback.dialects import trainers
from feedback.rows import pairs, texts, values
from feedback.rows.directions import words
from feedback.rows.judging import check_unjudged
from feedback.rows.said import Misfit, Options, Row, Said


def dpo(row: Row, options: Options) -> Iterator[Said]:
    """A row of preference fine-tuning."""
    messages = texts.messages_of(values.object_of(row["input"])["messages"])
    better = texts.answer(texts.parsed_messages(row["preferred_output"]), "preferred_output")
    worse = texts.answer(texts.parsed_messages(row["non_preferred_output"]), "non_preferred_output")
    yield pairs.compared(messages, better, worse, 1.0, **values.common(row))


def is_stored(row: Row) -> bool:
    return row.get("object") == "chat.completion" and "choices" in row


def stored(row: Row, options: Options) -> Iterator[Said]:
    """A stored completion with its messages, as they are kept for distillation: a demonstration, unless its
    metadata has a judgement, which --map names (`--map metadata.liked=label`)."""
    messages = row.get("messages") or (row.get("request") or {}).get("messages") or row.get("input")
    if isinstance(messages, dict):
        messages = messages.get("data") or messages.get("messages")  # a page of its messages
    if not messages:
        raise Misfit(
            "the list of stored completions has no messages: put those of /v1/chat/completions/ID/messages "
            "into each row as its column 'messages'"
        )
    choices = row["choices"]
    if len(choices) != 1:
        raise Misfit(f"column 'choices' has {len(choices)} answers, and none is named the best")
    if choices[0].get("finish_reason") not in ("stop", None):
        raise Misfit(
            f"its answer ended by {choices[0]['finish_reason']!r}; only a whole one shows what is right"
        )
    said = {"messages": [*map(_with_parts, messages), choices[0]["message"]], "at": row.get("created")}
    judged = {name: row[name] for name in trainers.THUMBS | trainers.RATINGS if row.get(name) is not None}
    check_unjudged({name: found for name, found in row.items() if name not in judged}, _KNOWN)
    if not judged:
        yield from trainers.demonstration(said, options)
    elif judged.keys() & trainers.THUMBS:
        yield from trainers.thumbs(said | judged, options)
    else:
        yield from trainers.rating(said | judged, options)


_KNOWN = words(
    """
    object choices created usage logprobs tool_choice top_p presence_penalty frequency_penalty
    system_fingerprint response_format messages input request service_tier store stream n max_tokens
    max_completion_tokens parallel_tool_calls prediction modalities reasoning_effort
    """
)
"""What stored completions have besides a judgement."""


def _with_parts(message: Any) -> Any:
    """A stored message, whose content may stand in `content_parts`."""
    if not isinstance(message, dict):
        return message
    rest = {name: said for name, said in message.items() if name != "content_parts"}
    if rest.get("content") is None and message.get("content_parts"):
        rest["content"] = message["content_parts"]
    return rest
