"""LMSYS's Chatbot Arena: 33k conversations, the 55k of its competition, and 140k."""

from collections.abc import Iterator
from typing import Any

from feedback.rows import pairs, texts, values
from feedback.rows.examples import Message
from feedback.rows.said import Misfit, Options, Row, Said

_WINNERS = {
    "model_a": 1.0,
    "model_b": 0.0,
    "tie": 0.5,
    "tie (bothbad)": 0.5,
    "both_bad": 0.5,
    "bothbad": 0.5,
}
_OUTCOMES = ("winner_model_a", "winner_model_b", "winner_tie")


def conversations(row: Row, options: Options) -> Iterator[Said]:
    """Arena 33k and 140k: two conversations with the same questions, and the winner."""
    value = _WINNERS.get(str(row["winner"]).strip().lower())
    if value is None:
        raise Misfit(f"column 'winner' has {row['winner']!r:.40}; it is one of {', '.join(_WINNERS)}")
    one, other = (
        texts.plain(texts.messages_of(_with_texts(values.parsed(row[name]))))
        for name in ("conversation_a", "conversation_b")
    )
    head, first, second = pairs.shared_head(one, other, "conversation_a and conversation_b")
    judge = row.get("judge") or row.get("evaluation_session_id")
    at = values.time_of(row.get("tstamp") or row.get("timestamp"))
    yield pairs.compared(head, first, second, value, rater=str(judge) if judge else None, at=at)


def _with_texts(messages: Any) -> Any:
    """Messages without the empty images that 140k's have beside their texts."""
    if not isinstance(messages, list):
        return messages
    return [_with_text(message) for message in messages]


def _with_text(message: Any) -> Any:
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        return message
    told = [part for part in message["content"] if part.get("type") != "image" or part.get("image")]
    return {**message, "content": told}


def responses(row: Row, options: Options) -> Iterator[Said]:
    """Arena 55k: questions and both models' answers as lists, and one column for each outcome."""
    won = [values.number_of(row.get(name) or 0, name) for name in _OUTCOMES]
    if sorted(won) != [0.0, 0.0, 1.0]:
        raise Misfit("columns 'winner_model_a', 'winner_model_b' and 'winner_tie' must be 1 in one of them")
    asked, one, other = (_turns(row[name], name) for name in ("prompt", "response_a", "response_b"))
    if not len(asked) == len(one) == len(other):
        raise Misfit("columns 'prompt', 'response_a' and 'response_b' have not as many turns as each other")
    sides = [_talk(asked, answers) for answers in (one, other)]
    head, first, second = pairs.shared_head(sides[0], sides[1], "response_a and response_b")
    yield pairs.compared(head, first, second, (1.0, 0.0, 0.5)[won.index(1.0)])


def _turns(cell: Any, name: str) -> list[str]:
    turns = values.parsed(cell)
    return [texts.text(each, name) for each in (turns if isinstance(turns, list) else [turns])]


def _talk(asked: list[str], answers: list[str]) -> tuple[Message, ...]:
    return tuple(
        {"role": role, "content": said}
        for turn in zip(asked, answers, strict=True)
        for role, said in zip(("user", "assistant"), turn, strict=True)
    )
