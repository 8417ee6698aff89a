"""Layouts of trainers: pairs, thumbs, ratings and demonstrations, as texts or as messages."""

from collections.abc import Iterator
from typing import Any

from feedback.rows import pairs, texts, values
from feedback.rows.examples import Example, Message
from feedback.rows.judging import check_unjudged, in_the_way, judging, not_understood
from feedback.rows.said import Misfit, Options, Row, Said

PROMPTS = ("prompt", "question", "query", "instruction", "input")
ANSWERS = ("completion", "response", "answer", "output")
THUMBS = frozenset({"label", "thumb", "thumbs", "liked", "kto_tag"})
RATINGS = frozenset({"rating", "score", "reward", "stars"})
_PAIRS = (("chosen", "rejected"), ("chosen_response", "rejected_response"))
_SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
    ("chosen_reward", "rejected_reward"),
)


def own(row: Row, options: Options) -> Iterator[Said]:
    """What `hearken export` writes for every kind of judgement."""
    groups = tuple(tuple(map(int, group)) for group in values.list_of(row.get("groups") or []))
    metadata = values.object_of(row.get("metadata") or {})
    yield Example(
        row["kind"],
        texts.messages_of(values.parsed(row["messages"])),
        tuple(texts.text(answer, "an answer") for answer in values.list_of(row["answers"])),
        float(row["value"]),
        **values.common(row),
        groups=groups,
        metadata={str(name): str(said) for name, said in metadata.items()},
    )


# ---- pairs


def has_pair(row: Row) -> bool:
    """Whether a row has a better and a worse answer."""
    return any(better in row and worse in row for better, worse in _PAIRS)


def is_pair(row: Row) -> bool:
    """Whether they are to a prompt, or whole conversations."""
    return has_pair(row) and row.get("conversations") is None


def is_sharegpt_pair(row: Row) -> bool:
    """Whether they are to a conversation."""
    return has_pair(row) and row.get("conversations") is not None


def pair(row: Row, options: Options) -> Iterator[Said]:
    """Two answers of which one is better: TRL's, LLaMA-Factory's, HH-RLHF's, Orca's and UltraFeedback's
    layouts. Texts or messages; the prompt in a column of its own, or at the head of both.
    """
    better, worse = next((each for each in _PAIRS if each[0] in row and each[1] in row), _PAIRS[0])
    in_the_way(row, {better, worse, *(name for pair in _SCORES for name in pair)})
    sides = (texts.parsed_messages(row[better]), texts.parsed_messages(row[worse]))
    messages, first, second = _sides(row, *sides)
    yield pairs.compared(messages, first, second, _tie(row), **values.common(row))


def _sides(row: Row, better: Any, worse: Any) -> tuple[tuple[Message, ...], str, str]:
    """The messages that both answers are to, and the answers."""
    if row.get("conversations"):
        messages = texts.with_system(row, texts.messages_of(values.parsed(row["conversations"])))
        return messages, texts.answer(better, "chosen"), texts.answer(worse, "rejected")
    column = first_of(row, PROMPTS)
    whole = _is_whole(better) or _is_whole(worse)
    if column is not None and not whole:
        return texts.asked(row, column), texts.answer(better, "chosen"), texts.answer(worse, "rejected")
    head, first, second = pairs.shared_head(texts.prompt(better, "chosen"), texts.prompt(worse, "rejected"))
    if column is not None:
        _check_head(head, texts.prompt(texts.parsed_messages(row[column]), column), column)
    return texts.with_system(row, head), first, second


def _is_whole(side: Any) -> bool:
    """Whether one side of a pair begins with what was asked."""
    if not isinstance(side, list) or len(side) < 2:
        return texts.is_transcript(side)
    return bool(texts.message_of(side[0])["role"] != "assistant")


def _check_head(head: tuple[Message, ...], prompt: tuple[Message, ...], column: str) -> None:
    """Whole conversations that do not end with their row's prompt are of another row. Raises Misfit."""
    said, asked = (
        [(message["role"], str(message["content"]).strip()) for message in messages]
        for messages in (head, prompt)
    )
    if said[-len(asked) :] != asked and said[: len(asked)] != asked:
        raise Misfit(
            f"column {column!r} is not what chosen and rejected begin with; leave it out with "
            f"--map {column}=ignore if the conversations are right"
        )


def _tie(row: Row) -> float:
    """1 for a better answer, 0.5 for two that are equally good. Raises Misfit where scores say otherwise."""
    if row.get("tie") in (True, "True", "true") or row.get("status") == "tie":
        return 0.5
    for better, worse in _SCORES:
        if row.get(better) is None or row.get(worse) is None:
            continue
        high, low = values.number_of(row[better], better), values.number_of(row[worse], worse)
        if high < low:
            raise Misfit(
                f"column {better!r} has {high:g} and {worse!r} {low:g}: the chosen answer is the worse one; "
                f"leave the scores out with --map {better}=ignore if the choice is right"
            )
        return 1.0 if high > low else 0.5
    return 1.0


# ---- single answers


def has_answer(row: Row) -> bool:
    """Whether a row has a prompt and an answer, or a conversation, and no pair."""
    if has_pair(row):
        return False
    if row.get("messages") is not None or row.get("conversations") is not None:
        return True
    return first_of(row, PROMPTS) is not None and first_of(row, ANSWERS) is not None


def is_thumb(row: Row) -> bool:
    return has_answer(row) and _has(row, THUMBS)


def is_rating(row: Row) -> bool:
    return has_answer(row) and _has(row, RATINGS) and not _has(row, THUMBS)


def is_alpaca(row: Row) -> bool:
    return is_demonstration(row, conversation=False) and "instruction" in row and "output" in row


def is_sharegpt(row: Row) -> bool:
    return is_demonstration(row) and row.get("messages") is None and row.get("conversations") is not None


def is_plain(row: Row) -> bool:
    return is_demonstration(row) and not is_alpaca(row) and not is_sharegpt(row)


def is_demonstration(row: Row, conversation: bool = True) -> bool:
    """Whether a row has an answer and none of the judgements that are understood."""
    talks = row.get("messages") is not None or row.get("conversations") is not None
    return has_answer(row) and not _has(row, THUMBS | RATINGS) and (conversation or not talks)


def _has(row: Row, names: frozenset[str]) -> bool:
    return any(row.get(name) is not None for name in names)


def thumbs(row: Row, options: Options) -> Iterator[Said]:
    """TRL's KTO layout (prompt, completion, label), or a conversation whose last message is judged."""
    column = _judge(row, THUMBS, "label")
    yield _thumb(row, column, options)


def rating(row: Row, options: Options) -> Iterator[Said]:
    """An answer with a number on a scale; one with true or false is a thumb."""
    column = _judge(row, RATINGS, "rating")
    if values.is_thumb(row[column]):
        yield _thumb(row, column, options)
        return
    messages, answer = conversation(row)
    place = values.share(row[column], column, options, direction=values.direction(column, options, "higher"))
    yield Example("rating", messages, (answer,), place, **values.common(row))


def _thumb(row: Row, column: str, options: Options) -> Example:
    messages, answer = conversation(row)
    value = values.thumb(row[column], column, options, values.direction(column, options, "higher"))
    return Example("thumbs", messages, (answer,), value, **values.common(row))


def demonstration(row: Row, options: Options) -> Iterator[Said]:
    """An answer that is right as it is: a row without any judgement."""
    check_unjudged(row)
    talk = values.parsed(row.get("messages") or row.get("conversations") or [])
    if talk and isinstance(talk[-1], dict) and talk[-1].get("weight") not in (None, 1):
        raise Misfit(f"its last message has the weight {talk[-1]['weight']!r}, which says not to learn it")
    messages, answer = conversation(row)
    yield Example("demonstration", messages, (answer,), 1.0, **values.common(row))


def _judge(row: Row, names: frozenset[str], usual: str) -> str:
    """The one column that judges. Raises Misfit where there is none, or another."""
    judged = judging(row)
    found = [name for name in judged if name in names] or [
        name for name in names if row.get(name) is not None
    ]
    if not found:
        raise Misfit(f"it has no column {usual!r}; name the one that judges with --map COLUMN={usual}")
    others = [name for name in judged if name not in found and name not in ("comment", "reasons", "tags")]
    if others or len(found) > 1:
        raise Misfit(not_understood([*found, *others]))
    return found[0]


def conversation(row: Row) -> tuple[tuple[Message, ...], str]:
    """What was asked, and the answer. Raises Misfit."""
    for column in ("messages", "conversations"):
        if row.get(column) is not None:
            messages, answer = texts.last_answer(texts.messages_of(values.parsed(row[column])))
            return texts.with_system(row, messages), answer
    asked, answered = first_of(row, PROMPTS), first_of(row, ANSWERS)
    if asked is None or answered is None:
        raise Misfit("it has no prompt with a completion, no messages and no conversations")
    return texts.asked(row, asked), texts.answer(texts.parsed_messages(row[answered]), answered)


def first_of(row: Row, names: tuple[str, ...]) -> str | None:
    """The first of some columns that a row has."""
    return next((name for name in names if row.get(name) is not None), None)
