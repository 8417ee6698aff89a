"""A joiner's memory: which completions there are, and which votes wait for one."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from feedback.core.events import WORDS_OF_VOTES, Feedback
from feedback.core.log import LogUnavailable, Record
from feedback.joining.canonical import Said, canonical, said_of
from feedback.joining.labels import Answer
from feedback.joining.opened import Head, Name, Opener, name_of

_ANSWER_FIELDS = tuple(field.name for field in fields(Answer))
_VOTES_PER_COMPLETION = 4  # how many votes are remembered for each completion in the window


class Gone(LookupError):
    """A completion that was known is no longer in the log."""


class CompletionsUnavailable(LogUnavailable):
    """The log that has the completions cannot be read now."""


class _Kept(msgspec.Struct, frozen=True, gc=False):
    """A vote as it lies in the log, and what it waits for. said: None: to be read there."""

    value: bytes
    revision: int
    waits_for: tuple[Name, ...]
    said: Said | None = None


class Joins(Protocol):
    """The memory of a joiner: the newest things in this process (`Window`), or all in a file."""

    def look_again(self) -> None:
        """More records come. See `Opener.look_again`."""
        ...

    def add(self, head: Head, record: Record) -> bool:
        """Remember a completion; whether it was not known. Raises `ValueError` when it is read at once and
        makes no sense."""
        ...

    def answers(self, completion_id: str) -> tuple[Answer, ...] | None:
        """A completion's choices; None when it is not known.

        Raises `Gone`, `Unreadable` and `CompletionsUnavailable`.
        """
        ...

    def named(self, name: Name) -> list[tuple[float, str]]:
        """(at, completion id) of the answers that a client gave a name, oldest first."""
        ...

    def put(self, vote: Feedback, value: bytes) -> bool:
        """Remember a vote, unless what is known of it is as new or newer (see `Said`); whether it was.

        vote: canonical; value: it as it lies in the log.
        """
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
        self._votes: OrderedDict[str, _Kept] = OrderedDict()
        self._named: dict[Name, dict[str, None]] = {}  # completion ids by the names that clients gave them
        self._waiting: dict[Name, dict[str, None]] = {}  # event ids that the next completion may complete

    def look_again(self) -> None:
        """See `Joins.look_again`."""
        self._opener.look_again()

    def add(self, head: Head, record: Record) -> bool:
        """See `Joins.add`."""
        if head.completion_id in self._completions:
            return False
        self._add(head.completion_id, self._opener.answers(record.value))
        if len(self._completions) > self._window:
            completion_id, answers = self._completions.popitem(last=False)
            for name in _names(answers[0]) if answers else ():
                _drop(self._named, name, completion_id)
        return True

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

    def put(self, vote: Feedback, value: bytes) -> bool:
        """See `Joins.put`."""
        known = self._votes.get(vote.event_id)
        if known is not None and not self._is_newer(vote, known):
            return False
        waits_for = tuple(waited_for(vote, self._completions.__contains__))
        self._votes[vote.event_id] = _Kept(value, vote.revision, waits_for)
        for name in waits_for:
            self._waiting.setdefault(name, {})[vote.event_id] = None
        if len(self._votes) > self._window * _VOTES_PER_COMPLETION:
            event_id, oldest = self._votes.popitem(last=False)
            for name in oldest.waits_for:
                _drop(self._waiting, name, event_id)
        return True

    def _is_newer(self, vote: Feedback, known: _Kept) -> bool:
        """Whether a vote counts rather than what is known of it, which is only rarely parsed for that."""
        if vote.revision != known.revision:
            return vote.revision > known.revision
        return said_of(vote) > self._said(known)

    def _said(self, kept: _Kept) -> Said:
        return kept.said or said_of(self._vote(kept))

    def _vote(self, kept: _Kept) -> Feedback:
        return canonical(self._opener.vote(kept.value))

    def waiting(self, name: Name) -> list[Feedback]:
        """See `Joins.waiting`."""
        found = self._waiting.pop(name, {}) if name[0] == "id" else self._waiting.get(name, {})
        return [self._vote(self._votes[event_id]) for event_id in found if event_id in self._votes]

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
        for event_id, kept in self._votes.items():
            if (bare := bare_value(kept.value, tenant, user)) is not None:
                self._votes[event_id] = replace(kept, value=bare, said=self._said(kept))

    def state(self) -> dict[str, Any]:
        """All of it as JSON types, for a checkpoint."""
        return {
            "window": self._window,
            "completions": [
                [{name: getattr(answer, name) for name in _ANSWER_FIELDS} for answer in answers]
                for answers in self._completions.values()
                if answers
            ],
            "votes": [_row(self._vote(kept)) for kept in self._votes.values()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what `state()` described."""
        for choices in state["completions"]:
            answers = tuple(self._restored(choice) for choice in choices)
            self._add(answers[0].completion_id, answers)
        for dumped in state["votes"]:
            vote = Feedback.model_validate(dumped)
            self.put(vote, vote.model_dump_json().encode())

    def _restored(self, choice: Mapping[str, Any]) -> Answer:
        tokens = {name: self._opener.shared(choice[name]) for name in ("prompt_token_ids", "token_ids")}
        return Answer(**{**choice, **tokens})


def waited_for(vote: Feedback, knows: Callable[[str], bool]) -> list[Name]:
    """The names of what a vote may still be completed by. knows: whether a completion id is known."""
    names = (name_of(vote.tenant, target) for target in vote.targets)
    return [name for name in names if name[0] != "id" or not knows(name[2])]


def bare_value(value: bytes, tenant: str, user: str) -> bytes | None:
    """A user's vote, as it lies in the log, without what the user wrote; None for a vote of somebody else."""
    if user.encode() not in value and b"\\" not in value:  # without escapes a name has one spelling
        return None
    vote = Feedback.model_validate_json(value)
    if (vote.tenant, vote.rater) != (tenant, user):
        return None
    return _without_texts(vote).model_dump_json().encode()


def _without_texts(vote: Feedback) -> Feedback:
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
