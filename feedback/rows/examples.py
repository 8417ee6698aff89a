"""Judged answers with their texts: what imports read from files and exports write to them.

The log speaks of completions by id; files speak of texts. An `Example` is the form that both can be turned
into, and `identity` is what makes two of them the same judgement, in whatever file they stand.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

Message = dict[str, Any]
"""{"role": "user", "content": "Hi"}, as in OpenAI's chat API."""

Kind = Literal["comparison", "thumbs", "rating", "ranking", "correction", "demonstration"]

_ANSWERS: dict[Kind, range] = {
    "comparison": range(2, 3),
    "thumbs": range(1, 2),
    "rating": range(1, 2),
    "ranking": range(2, 17),
    "correction": range(2, 3),
    "demonstration": range(1, 2),
}


@dataclass(frozen=True, slots=True)
class Example:
    """One judgement of answers to the same messages.

    comparison: two answers, value 1 (the first is better), 0 (the second) or 0.5 (tie).
    thumbs: one answer, value 1 or 0. rating: one answer, value in [0, 1].
    ranking: up to 16 answers and `groups` of their indices, the best first, a group being a tie.
    correction: what the answer should have been, and the answer. demonstration: a good answer.
    `at` is Unix time in seconds. `about` names a completion of this service instead of carrying texts.
    """

    kind: Kind
    messages: tuple[Message, ...]
    answers: tuple[str, ...]
    value: float
    rater: str | None = None
    at: float | None = None
    comment: str | None = None
    tags: tuple[str, ...] = ()
    about: str | None = None
    reasons: tuple[str, ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        needed = range(1) if self.about else _ANSWERS[self.kind]
        if len(self.answers) not in needed:
            raise ValueError(f"a {self.kind} needs {needed[0]} answer(s) or more, not {len(self.answers)}")
        if sorted(i for group in self.groups for i in group) != list(
            range(len(self.answers) * (self.kind == "ranking"))
        ):
            raise ValueError(f"the groups of a {self.kind} do not name each of its answers once")
        if not 0.0 <= self.value <= 1.0:
            raise ValueError(f"a value of {self.value}; it must be from 0 to 1")

    @property
    def identity(self) -> str:
        """A hash of rater, kind, messages and answers: the same judgement has it in every format."""
        answers = list(self.answers)
        if self.kind == "comparison":
            answers.sort()
        return _digest([self.rater, self.kind, self.about, list(self.messages), answers])


def answer_identity(messages: tuple[Message, ...], answer: str) -> str:
    """A hash of an answer and what it answers, so that two judgements of it meet in one completion."""
    return _digest([list(messages), answer])


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
