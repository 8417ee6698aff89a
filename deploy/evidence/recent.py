"""What users got lately: the newest users of one side of a comparison, each with the newest answers.

Guardrails are about what is so now. A mean over all that ever was hides a canary that turns bad after
thousands of users, and a memory that is full sees nobody any more. So a window is the newest N users by the
time of their newest answer, and of theirs the answers since the oldest of these times: one stretch of time
for all. What a window holds follows from the set of answers, not from the order in which they arrive.
"""

from bisect import insort
from collections.abc import Sequence
from typing import NamedTuple

from feedback.core.decoded import DecodedCompletion
from feedback.core.events import Completion

USERS = 2_000
"""Users remembered: with so many a failure in twenty is told from one in a hundred."""

ANSWERS = 4
"""Answers remembered of each: who asks often is one user, and what they get now is what counts."""


class Answer(NamedTuple):
    """One request and what came of it; sorts by time. Counts are of tokens, times are seconds."""

    at: float
    completion_id: str
    failed: bool
    empty: bool
    cut_off: bool
    tokens: int
    answer_tokens: int
    seconds: float
    ttft_seconds: float | None


def answer_of(completion: DecodedCompletion | Completion) -> Answer:
    """What guardrails look at in a completion."""
    failed, silent, cut_off, tokens, answer_tokens = completion.failure is not None, 0, False, 0, 0
    for choice in completion.choices:  # mostly one: a loop takes half the time of five sums
        why, length = choice.finish_reason, choice.length
        failed = failed or why == "error"
        cut_off = cut_off or why == "length"
        # Calls to tools have no text and are not empty: vLLM says so in the finish reason.
        silent += choice.is_blank and why != "tool_calls"
        tokens += length
        answer_tokens += length - choice.answer_start
    return Answer(
        completion.at,
        completion.completion_id,
        failed,
        bool(completion.choices) and silent == len(completion.choices),
        cut_off,
        tokens,
        answer_tokens,
        completion.latency_seconds,
        completion.ttft_seconds,
    )


class Measured(NamedTuple):
    """One user's values over the answers in a window; None where none of them has such a value."""

    failed: float | None
    empty: float | None
    cut_off: float | None
    answer_tokens: float | None
    token_seconds: float | None
    ttft_seconds: float | None
    voted: float | None


def measured(answers: Sequence[Answer], voted: bool) -> Measured:
    """The means over a user's answers, at least one. What failed has no length and no speed."""
    whole = [answer for answer in answers if not answer.failed]
    tokens = sum(answer.tokens for answer in whole)
    first = [answer.ttft_seconds for answer in whole if answer.ttft_seconds is not None]
    return Measured(
        failed=1 - len(whole) / len(answers),
        empty=_mean([answer.empty for answer in whole]),
        cut_off=_mean([answer.cut_off for answer in whole]),
        answer_tokens=_mean([answer.answer_tokens for answer in whole]),
        token_seconds=sum(answer.seconds for answer in whole) / tokens if tokens else None,
        ttft_seconds=_mean(first),
        voted=float(voted),
    )


class _User:
    """The newest answers, oldest first, and which of them were voted on."""

    __slots__ = ("_all", "answers", "voted")

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.voted: set[str] = set()
        self._all: Measured | None = None

    @property
    def newest(self) -> Answer:
        return self.answers[-1]

    def add(self, answer: Answer) -> None:
        insort(self.answers, answer)
        del self.answers[:-ANSWERS]
        if self.voted:
            self.voted &= {kept.completion_id for kept in self.answers}
        self._all = None

    def vote(self, completion_id: str) -> None:
        if any(answer.completion_id == completion_id for answer in self.answers):
            self.voted.add(completion_id)
            self._all = None

    def since(self, at: float) -> Measured:
        if self.answers[0].at >= at:  # mostly; asked again and again, so it is remembered
            if self._all is None:
                self._all = measured(self.answers, bool(self.voted))
            return self._all
        recent = [answer for answer in self.answers if answer.at >= at]
        return measured(recent, any(answer.completion_id in self.voted for answer in recent))


class Recent:
    """The newest users of one side."""

    def __init__(self) -> None:
        self._users: dict[str, _User] = {}
        self._order: list[tuple[str, _User]] | None = None  # newest first; None: to be sorted anew

    def add(self, user: str, answer: Answer) -> None:
        """Take in an answer; each only once."""
        known = self._users.get(user)
        if known is None:
            known = self._users[user] = _User()
        known.add(answer)
        self._order = None
        if len(self._users) >= 2 * USERS:
            self._users = dict(self._sorted()[:USERS])
            self._order = None

    def vote(self, user: str, completion_id: str) -> None:
        """Note that a user voted on an answer, if it is still remembered."""
        if user in self._users:
            self._users[user].vote(completion_id)

    def window(self, users: int) -> list[Measured]:
        """The values of the newest `users` users, or of as many as there are, `USERS` at most."""
        newest = self._sorted()[: min(users, USERS)]
        if not newest:
            return []
        since = newest[-1][1].newest.at
        return [user.since(since) for _, user in newest]

    def _sorted(self) -> list[tuple[str, _User]]:
        """Newest first; once for all windows."""
        if self._order is None:
            self._order = sorted(self._users.items(), key=lambda item: item[1].newest, reverse=True)
        return self._order


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
