"""Public data sets of judged answers: UltraFeedback, HelpSteer 2 and 3, SHP and Nectar."""

from collections.abc import Iterator, Mapping
from typing import Any

from feedback.rows import pairs, texts, values
from feedback.rows.examples import Example, Message
from feedback.rows.said import Misfit, Options, Row, Said

_ASPECTS = ("helpfulness", "honesty", "instruction_following", "truthfulness")
_STRENGTH = 3  # HelpSteer's preferences go from -3, the first is much better, to 3


def ultrafeedback(row: Row, options: Options) -> Iterator[Said]:
    """UltraFeedback as it was published: ratings from 1 to 5 of four answers, each to a system prompt of its
    own. What counts is the mean over the aspects, for the overall score has errors."""
    asked: Message = {"role": "user", "content": texts.text(row["instruction"], "instruction")}
    for completion in row["completions"]:
        try:
            yield _ultrafeedback(completion, asked, options)
        except Misfit as misfit:
            yield misfit


def _ultrafeedback(completion: Mapping[str, Any], asked: Message, options: Options) -> Example:
    system = completion.get("custom_system_prompt")
    messages = ({"role": "system", "content": system}, asked) if system else (asked,)
    place = values.share(_fine_grained(completion), "completions.annotations", options, (1.0, 5.0))
    answer = texts.text(completion["response"], "completions.response")
    comment = str(completion.get("critique") or "") or None
    return Example("rating", messages, (answer,), place, comment=comment)


def _fine_grained(completion: Mapping[str, Any]) -> float:
    if completion.get("fine-grained_score") is not None:
        return values.number_of(completion["fine-grained_score"], "completions.fine-grained_score")
    ratings = [
        values.number_of(annotation["Rating"], f"completions.annotations.{name}.Rating")
        for name, annotation in completion["annotations"].items()
        if name in _ASPECTS and str(annotation.get("Rating")) not in ("N/A", "None", "")
    ]
    if not ratings:
        raise Misfit("column 'completions' has an answer without a rating ('annotations')")
    return sum(ratings) / len(ratings)


def helpsteer2(row: Row, options: Options) -> Iterator[Said]:
    """HelpSteer 2 (and 1): helpfulness from 0 to 4."""
    place = values.share(row["helpfulness"], "helpfulness", options, (0.0, 4.0))
    answer = texts.text(row["response"], "response")
    yield Example("rating", _helpsteer_prompt(row["prompt"]), (answer,), place)


def helpsteer2_preference(row: Row, options: Options) -> Iterator[Said]:
    """HelpSteer 2's preferences: `preference_strength` from -3 (the first) to 3 (the second)."""
    messages = _helpsteer_prompt(row["prompt"])
    comment = str(row.get("preference_statement") or "") or None
    yield _by_strength(row, "preference_strength", messages, "response_1", "response_2", comment=comment)


def helpsteer3(row: Row, options: Options) -> Iterator[Said]:
    """HelpSteer 3's preferences: `overall_preference` from -3 (the first) to 3 (the second)."""
    messages = texts.prompt(values.parsed(row["context"]), "context")
    yield _by_strength(row, "overall_preference", messages, "response1", "response2")


def helpsteer3_edit(row: Row, options: Options) -> Iterator[Said]:
    """HelpSteer 3's edits: a correction of the original response."""
    edited, original = (texts.text(row[name], name) for name in ("edited_response", "original_response"))
    if edited == original:
        raise Misfit("columns 'edited_response' and 'original_response' are the same")
    yield Example(
        "correction", texts.prompt(values.parsed(row["context"]), "context"), (edited, original), 1.0
    )


def helpsteer3_quality(row: Row, options: Options) -> Iterator[Said]:
    """HelpSteer 3's edits of two qualities: the good one is better than the bad one."""
    good, bad = (texts.text(row[name], name) for name in ("good_edited_response", "bad_edited_response"))
    yield pairs.compared(texts.prompt(values.parsed(row["context"]), "context"), good, bad, 1.0)


def _by_strength(
    row: Row, column: str, messages: tuple[Message, ...], one: str, two: str, **more: Any
) -> Example:
    leaning = values.number_of(row[column], column)
    if not -_STRENGTH <= leaning <= _STRENGTH:
        raise Misfit(f"column {column!r} has {leaning:g}; it goes from -{_STRENGTH} to {_STRENGTH}")
    first, second = texts.text(row[one], one), texts.text(row[two], two)
    value = 1.0 if leaning < 0 else 0.0 if leaning > 0 else 0.5
    return pairs.compared(messages, first, second, value, **more)


def _helpsteer_prompt(content: Any) -> tuple[Message, ...]:
    """A prompt; of several turns as texts between HelpSteer's marks."""
    if not isinstance(content, str) or "<extra_id_1>" not in content:
        return texts.prompt(content)
    first, *others = content.split("<extra_id_1>")
    messages: list[Message] = [{"role": "user", "content": texts.text(first.strip("\n"), "prompt")}]
    for other in others:
        role, _, said = other.partition("\n")
        if role.strip() not in ("User", "Assistant"):
            raise Misfit(f"column 'prompt' has a turn by {role.strip()!r:.40}")
        by = "user" if role.strip() == "User" else "assistant"
        messages.append({"role": by, "content": said.strip("\n")})
    if messages[-1] == {"role": "assistant", "content": ""}:
        messages.pop()
    return tuple(messages)


def shp(row: Row, options: Options) -> Iterator[Said]:
    """Stanford's SHP: two comments on a post, `labels` 1 when A is the better one, 0 when B is."""
    first, second = (texts.text(row[name], name) for name in ("human_ref_A", "human_ref_B"))
    label = values.number_of(row["labels"], "labels")
    if label not in (0.0, 1.0):
        raise Misfit(f"column 'labels' has {label:g}; it is 1 (A is better) or 0 (B is)")
    yield pairs.compared(texts.prompt(row["history"], "history"), first, second, label)


def nectar(row: Row, options: Options) -> Iterator[Said]:
    """Nectar: answers with ranks, 1 the best."""
    answers = [
        (values.number_of(each["rank"], "answers.rank"), texts.text(each["answer"], "answers.answer"))
        for each in values.parsed(row["answers"])
    ]
    yield pairs.ranked(texts.prompt(row["prompt"]), answers)


def is_nectar(row: Row) -> bool:
    """Whether its answers are objects of an answer and more (`answers` of `hearken export` are texts)."""
    answers = values.parsed(row.get("answers"))
    return (
        isinstance(answers, list)
        and bool(answers)
        and isinstance(answers[0], dict)
        and "answer" in answers[0]
    )
