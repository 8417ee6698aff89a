"""Annotators' answers to questions about texts, which Argilla and Label Studio have in common."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from feedback.rows import pairs, texts, values
from feedback.rows.directions import direction_of, words, words_of
from feedback.rows.examples import Example, Message
from feedback.rows.said import Misfit, Options, Said

_PROMPTS = ("prompt", "instruction", "question", "query", "input", "user", "context", "post")
_TALKS = ("chat", "messages", "conversation", "conversations", "dialogue", "dialog")
_ANSWERS = words(
    """
    response responses completion answer answers output generation reply candidate option chosen rejected
    text summary item
    """
)
_CORRECTS = words("correct corrected correction improve improved rewrite rewritten edit edited fixed ideal")
_COMMENTS = words(
    """
    comment comments feedback rationale reason reasons explanation explain note notes justification why
    """
)
_WORSE = words("worse worst rejected")
_TIES = words("tie equal same both neither even draw both_bad both_good")
_FIRST, _SECOND = ("left", "a", "1", "first"), ("right", "b", "2", "second")


@dataclass(frozen=True, slots=True)
class Task:
    """What an annotator saw: messages, and answers by the names of their fields.

    ordered: whether the first of two answers is known to be the one called left, A, or 1.
    """

    messages: tuple[Message, ...]
    answers: Mapping[str, str]
    ordered: bool = False


@dataclass(frozen=True, slots=True)
class Response:
    """What one annotator said to one question."""

    question: str
    value: Any
    rater: str | None = None
    at: float | None = None


def task_of(fields: Mapping[str, Any]) -> Task:
    """The task in named fields. Raises Misfit."""
    for name in _TALKS:
        if fields.get(name):
            talk = texts.with_system(fields, texts.messages_of(values.parsed(fields[name])))
            others = _answers(fields, name)
            if others:
                return _in_order(talk, others)
            messages, answer = texts.last_answer(talk)
            return Task(messages, {name: answer})
    asked = next((name for name in _PROMPTS if fields.get(name)), None)
    names = ", ".join(map(repr, fields))
    if asked is None:
        raise Misfit(f"none of its fields {names} is a prompt; name it with --map FIELD=prompt")
    answers = _answers(fields, asked)
    if not answers:
        raise Misfit(f"none of its fields {names} is an answer; name it with --map FIELD=response")
    return _in_order(texts.asked(fields, asked), answers)


def _answers(fields: Mapping[str, Any], asked: str) -> dict[str, str]:
    """The fields with answers: text1, response-2, answer_a."""
    found = {}
    for name, said in fields.items():
        named = [re.sub(r"\d+$", "", word) for word in words_of(name)]
        if name != asked and isinstance(said, str) and said and not _ANSWERS.isdisjoint(named):
            found[name] = said
    return found


def _in_order(messages: tuple[Message, ...], answers: dict[str, str]) -> Task:
    """Two answers whose names end in 1 and 2, a and b, or left and right are in that order."""
    names = sorted(answers, key=tail)
    if len(names) == 2 and tail(names[0]) in _FIRST and tail(names[1]) in _SECOND:
        return Task(messages, {name: answers[name] for name in names}, ordered=True)
    return Task(messages, answers)


def tail(name: str) -> str:
    """What tells two names apart at their ends: 1 of `text1`, b of `answer_b`."""
    return re.split(r"[\s_\-]+|(?<=[a-z])(?=\d)", name.lower())[-1]


def judged(task: Task, responses: list[Response], options: Options) -> Iterator[Said]:
    """What the responses to a task's questions say; a Misfit for one that is not understood."""
    comments = {each.rater: str(each.value) for each in responses if _is_comment(each)}
    for each in responses:
        if each.value in (None, "", []) or _is_comment(each) or options.ignores(each.question):
            continue
        more = {"rater": each.rater, "at": each.at, "comment": comments.get(each.rater)}
        try:
            yield _judged(task, each, more, options)
        except Misfit as misfit:
            yield misfit


def _is_comment(response: Response) -> bool:
    """Whether it is words about a judgement: a question that asks for them, and more than one."""
    asked = words_of(response.question)
    return (
        isinstance(response.value, str)
        and not _COMMENTS.isdisjoint(asked)
        and _CORRECTS.isdisjoint(asked)
        and len(response.value.split()) > 1
    )


def _judged(task: Task, said: Response, more: dict[str, Any], options: Options) -> Example:
    value = said.value
    if isinstance(value, dict) and set(value) == {"rank", "value"}:  # a table of both
        value = [dict(zip(value, each, strict=True)) for each in zip(*value.values(), strict=True)]
    if isinstance(value, list):
        return _ranking(task, said, value, more)
    if isinstance(value, dict):
        value = value.get("selected", value)
    if isinstance(value, str):
        return _labelled(task, said, value, more, options)
    if not isinstance(value, bool | int | float):
        raise _not_understood(said)
    kind, place = values.scored(value, said.question, options)
    return Example(kind, task.messages, (task.answers[_rated_answer(task, said)],), place, **more)


def _labelled(task: Task, said: Response, value: str, more: dict[str, Any], options: Options) -> Example:
    """A word about one answer, or the name of one of two, or what the answer should have been."""
    if not _CORRECTS.isdisjoint(words_of(said.question)) and len(value.split()) > 1:
        answer = task.answers[_rated_answer(task, said)]
        if value == answer:
            return Example("demonstration", task.messages, (answer,), 1.0, **more)
        return Example("correction", task.messages, (value, answer), 1.0, **more)
    if len(task.answers) == 2:
        first, second = task.answers.values()
        choice = _choice(task, said, value)
        worse = direction_of(said.question) == "lower" or not _WORSE.isdisjoint(words_of(said.question))
        return pairs.compared(task.messages, first, second, 1.0 - choice if worse else choice, **more)
    if len(task.answers) > 2 or not values.is_thumb(value):
        raise _not_understood(said)
    _, place = values.scored(value, said.question, options)
    return Example("thumbs", task.messages, tuple(task.answers.values()), place, **more)


def _choice(task: Task, said: Response, value: str) -> float:
    """1 where a word names the first of two answers, 0 for the second, 0.5 for neither. Raises Misfit."""
    word = value.strip().lower()
    names = [name.lower() for name in task.answers]
    if word in names:
        return 1.0 - names.index(word)
    if word.replace(" ", "_") in _TIES:
        return 0.5
    last, tails = tail(word), [tail(name) for name in names]
    if len(set(tails)) == 2 and last in tails:
        return 1.0 - tails.index(last)
    if last not in _FIRST + _SECOND:
        raise _not_understood(said)
    if not task.ordered:
        raise Misfit(
            f"question {said.question!r} has {value!r:.40}, and which of "
            f"{' and '.join(map(repr, task.answers))} that "
            "is nobody says: name them with --map FIELD=response_a and --map FIELD=response_b"
        )
    return float(last in _FIRST)


def _rated_answer(task: Task, said: Response) -> str:
    """The answer that a question with one value is about. Raises Misfit."""
    if len(task.answers) == 1:
        return next(iter(task.answers))
    named = [name for name in task.answers if name.lower() in said.question.lower()]
    if len(named) != 1:
        raise Misfit(
            f"question {said.question!r} has one value and does not say for which of "
            f"{', '.join(map(repr, task.answers))}; leave it out with --map {said.question}=ignore"
        )
    return named[0]


def _ranking(task: Task, said: Response, value: list[Any], more: dict[str, Any]) -> Example:
    """Names of answers, the best first, with ranks or without."""
    ranks: list[tuple[float, str]] = []
    for i, each in enumerate(value):
        rank, name = (each.get("rank"), each.get("value")) if isinstance(each, dict) else (i, each)
        if rank is None or str(name) not in task.answers:
            raise _not_understood(said)
        ranks.append((values.number_of(rank, said.question), task.answers[str(name)]))
    if len(ranks) != len(task.answers):
        raise _not_understood(said)
    return pairs.ranked(task.messages, ranks, **more)


def _not_understood(said: Response) -> Misfit:
    return Misfit(
        f"question {said.question!r} has {said.value!r:.60}, which is no thumb, number, choice or "
        "ranking of its "
        f"answers; leave it out with --map {said.question}=ignore"
    )
