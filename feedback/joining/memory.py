"""A joiner's memory: which completions there are, and which votes wait for one."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from feedback.core.events import WORDS_OF_VOTES, Feedback
from feedback.core.log import LogUnavailable, Record
from feedback.joining.labels import Answer
from feedback.joining.opened import Head, Name, Opener, name_of

_ANSWER_FIELDS = tuple(field.name for field in fields(Answer))
_VOTES_PER_COMPLETION = 4  # how many votes are remembered for each completion in the window


class Gone(LookupError):
    """A completion that was known is no longer in the log."""


class CompletionsUnavailable(LogUnavailable):
    """The log that has the completions cannot be read now."""


class Said(NamedTuple):
    """What of a vote decides which of two with one id counts: the greater one.

    Two servers may write in the same microsecond: what is said breaks the tie the same way everywhere.
    """

    revision: int
    value: float
    label: str
    digest: bytes


class Joins(Protocol):
    """The memory of a joiner: the newest things in this process (`Window`), or all in a file."""

    def knows(self, completion_id: str) -> bool:
        """Whether a completion was added and not forgotten."""
        ...

    def add(self, head: Head, record: Record) -> None:
        """Remember a completion. Raises `ValueError` when it is read at once and makes no sense."""
        ...

    def answers(self, completion_id: str) -> tuple[Answer, ...] | None:
        """A completion's choices; None when it is not known.

        Raises `Gone`, `Unreadable` and `CompletionsUnavailable`.
        """
        ...

    def named(self, name: Name) -> list[tuple[float, str]]:
        """(at, completion id) of the answers that a client gave a name, oldest first."""
        ...

    def said(self, event_id: str) -> Said | None:
        """What the newest revision of a vote said, None for a vote that is not known."""
        ...

    def put(self, vote: Feedback, said: Said, value: bytes, waits_for: Sequence[Name]) -> None:
        """Remember a vote. `value`: it as it lies in the log; `waits_for`: names of what may still come."""
        ...

    def waiting(self, name: Name) -> list[Feedback]:
        """The votes that wait for a name; none waits for an id any more once it was asked for."""
        ...

    def joined(self, vote: Feedback) -> None:
        """A vote has a label: it is not lost, whatever else it waits for."""
        ...

    def recent(self) -> Mapping[str, tuple[Answer, ...]]:
        """The newest completions, oldest first: completion id -> its choices.

        Raises `CompletionsUnavailable`.
        """
        ...

    def forget_texts(self, tenant: str, user: str) -> None:
        """Drop the texts and token ids of a user's completions and votes; that they were stays known."""
        ...

    def state(self) -> dict[str, Any]:
        """As JSON types what is not in a file."""
        ...


class Window:
    """The newest `window` completions, and four times as many votes; what is older is forgotten."""

    def __init__(self, window: int, opener: Opener) -> None:
        if window < 1:
            raise ValueError(f"the window is {window} completions; at least 1 is needed")
        self._window = window
        self._opener = opener
        self._completions: OrderedDict[str, tuple[Answer, ...]] = OrderedDict()
        self._votes: OrderedDict[str, tuple[Feedback, Said]] = OrderedDict()
        self._named: dict[Name, dict[str, None]] = {}  # completion ids by the names that clients gave them
        self._waiting: dict[Name, dict[str, None]] = {}  # event ids that the next completion may complete

    def knows(self, completion_id: str) -> bool:
        """See `Joins.knows`."""
        return completion_id in self._completions

    def add(self, head: Head, record: Record) -> None:
        """See `Joins.add`."""
        self._add(head.completion_id, self._opener.answers(record.value))
        if len(self._completions) > self._window:
            completion_id, answers = self._completions.popitem(last=False)
            for name in _names(answers[0]) if answers else ():
                _drop(self._named, name, completion_id)

    def _add(self, completion_id: str, answers: tuple[Answer, ...]) -> None:
        self._completions[completion_id] = answers
        for name in _names(answers[0]) if answers else ():
            self._named.setdefault(name, {})[completion_id] = None

    def answers(self, completion_id: str) -> tuple[Answer, ...] | None:
        """See `Joins.answers`."""
        return self._completions.get(completion_id)

    def named(self, name: Name) -> list[tuple[float, str]]:
        """See `Joins.named`."""
        found = (self._completions[completion_id][0] for completion_id in self._named.get(name, ()))
        return sorted((answer.at, answer.completion_id) for answer in found if answer.role == "answer")

    def said(self, event_id: str) -> Said | None:
        """See `Joins.said`."""
        known = self._votes.get(event_id)
        return None if known is None else known[1]

    def put(self, vote: Feedback, said: Said, value: bytes, waits_for: Sequence[Name]) -> None:
        """See `Joins.put`."""
        self._votes[vote.event_id] = vote, said
        for name in waits_for:
            self._waiting.setdefault(name, {})[vote.event_id] = None
        if len(self._votes) > self._window * _VOTES_PER_COMPLETION:
            oldest, _ = self._votes.popitem(last=False)[1]
            for target in oldest.targets:
                _drop(self._waiting, name_of(oldest.tenant, target), oldest.event_id)

    def waiting(self, name: Name) -> list[Feedback]:
        """See `Joins.waiting`."""
        found = self._waiting.pop(name, {}) if name[0] == "id" else self._waiting.get(name, {})
        return [self._votes[event_id][0] for event_id in found]

    def joined(self, vote: Feedback) -> None:
        """See `Joins.joined`."""

    def recent(self) -> Mapping[str, tuple[Answer, ...]]:
        """See `Joins.recent`."""
        return MappingProxyType(self._completions)

    def forget_texts(self, tenant: str, user: str) -> None:
        """See `Joins.forget_texts`."""
        for completion_id, answers in self._completions.items():
            if answers and (answers[0].tenant, answers[0].user) == (tenant, user):
                self._completions[completion_id] = tuple(answer.without_text() for answer in answers)
        for event_id, (vote, said) in self._votes.items():
            if (vote.tenant, vote.rater) == (tenant, user):
                self._votes[event_id] = without_texts(vote), said

    def state(self) -> dict[str, Any]:
        """All of it as JSON types, for a checkpoint."""
        return {
            "window": self._window,
            "completions": [
                [{name: getattr(answer, name) for name in _ANSWER_FIELDS} for answer in answers]
                for answers in self._completions.values()
                if answers
            ],
            "votes": [_row(vote) for vote, _ in self._votes.values()],
        }

    def restore(self, state: Mapping[str, Any], said: Callable[[Feedback], Said]) -> None:
        """Become what `state()` described."""
        for choices in state["completions"]:
            answers = tuple(self._restored(choice) for choice in choices)
            self._add(answers[0].completion_id, answers)
        for dumped in state["votes"]:
            vote = Feedback.model_validate(dumped)
            self.put(vote, said(vote), b"", waited_for(vote, self.knows))

    def _restored(self, choice: Mapping[str, Any]) -> Answer:
        tokens = {name: self._opener.shared(choice[name]) for name in ("prompt_token_ids", "token_ids")}
        return Answer(**{**choice, **tokens})


def waited_for(vote: Feedback, knows: Callable[[str], bool]) -> list[Name]:
    """The names of what a vote may still be completed by. knows: whether a completion id is known."""
    names = (name_of(vote.tenant, target) for target in vote.targets)
    return [name for name in names if name[0] != "id" or not knows(name[2])]


def without_texts(vote: Feedback) -> Feedback:
    """A vote without what its rater wrote."""
    fields_of = Feedback.model_fields
    bare = {name: fields_of[name].get_default(call_default_factory=True) for name in WORDS_OF_VOTES}
    return vote.model_copy(update=bare | {"sealed": None})


def _row(vote: Feedback) -> dict[str, Any]:
    """A vote as JSON types, fields that a newer version added included."""
    row = {**vote.__dict__, **(vote.model_extra or {})}
    row["targets"] = [{**target.__dict__, **(target.model_extra or {})} for target in vote.targets]
    return row


def _names(answer: Answer) -> list[Name]:
    """The names that a client gave to an answer's completion."""
    names: list[Name] = []
    if answer.external_id is not None:
        names.append(("external", answer.tenant, answer.external_id))
    if answer.episode_id is not None:
        names.append(("episode", answer.tenant, answer.episode_id))
    return names


def _drop(index: dict[Name, dict[str, None]], name: Name, member: str) -> None:
    members = index.get(name, {})
    members.pop(member, None)
    if not members:
        index.pop(name, None)
