"""Answers that a learner far behind did not unseal, because newer votes would soon have taken their place."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from feedback.joining.labels import Answer, Label
from feedback.joining.memory import Gone, Joins
from feedback.joining.opened import Unreadable


def reopened(labels: Iterable[Label], joins: Joins) -> Iterator[Label]:
    """The labels with the texts and tokens of their answers, without those of which one is not to be had.

    Raises `CompletionsUnavailable`.
    """
    for label in labels:
        answers = tuple(found for answer in label.answers if (found := _opened(answer, joins)) is not None)
        if len(answers) == len(label.answers):
            yield replace(label, answers=answers)


def _opened(answer: Answer, joins: Joins) -> Answer | None:
    try:
        choices = joins.answers(answer.completion_id) or ()
    except (Gone, Unreadable):
        return None
    return next((choice for choice in choices if choice.choice == answer.choice and choice.token_ids), None)
