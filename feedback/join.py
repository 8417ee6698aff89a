"""Joining feedback to the completions that it is about, in whatever order the two arrive."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, TypeVar

from feedback.events import COMPLETIONS, FEEDBACK, Completion, Feedback, Target
from feedback.labels import Answer, Label, make_label
from feedback.log import Record
from feedback.sealing import Sealer

__all__ = ["Answer", "Joiner", "Label", "canonical"]

_ANSWER_FIELDS = tuple(field.name for field in fields(Answer))
_VOTES_PER_COMPLETION = 4  # how many votes are remembered for each completion in the window

E = TypeVar("E", Completion, Feedback)
Name = tuple[str, str, str]
"""What completions are found by: ("id", "", completion id), ("external" or "episode", tenant, name)."""


class Joiner:
    """Folds the records of COMPLETIONS and FEEDBACK into labels.

    The same records in any order, split or repeated, end in the same last label per `event_id`, as long as
    no more than `window` completions lie between a completion and its feedback: older completions are
    forgotten first in, first out, and so are votes beyond four times as many. `poison` counts the records
    that could not be used.

    A team's own id means the newest completion of its tenant with that id up to the time of the vote, an
    episode means all its completions up to then; and either means the first one, if the vote overtook all.
    That can change with what arrives late, so such a label may come again, with other answers.

    With a `sealer` the answers have their texts and token ids, without one only what evidence needs.
    """

    def __init__(self, window: int = 50_000, sealer: Sealer | None = None) -> None:
        if window < 1:
            raise ValueError(f"the window is {window} completions; at least 1 is needed")
        self.window = window
        self.poison = 0
        self.refused: Callable[[Record, str], object] | None = None  # told of each record that is of no use
        self._sealer = sealer
        self._completions: OrderedDict[str, tuple[Answer, ...]] = OrderedDict()
        self._votes: OrderedDict[str, Feedback] = OrderedDict()
        self._named: dict[Name, dict[str, None]] = {}  # completion ids by the names that clients gave them
        self._waiting: dict[Name, dict[str, None]] = {}  # event ids that the next completion may complete
        self._token_ids: dict[int, int] = {}  # one int object per vocabulary entry, not per token

    @property
    def completions(self) -> Mapping[str, tuple[Answer, ...]]:
        """The completions in the window, oldest first: completion id -> its choices."""
        return MappingProxyType(self._completions)

    def feed(self, records: Iterable[Record]) -> list[Label]:
        """The labels that these records completed, revised or retracted, the newest one per `event_id`."""
        labels: dict[str, Label] = {}
        for record in records:
            for event_id in self._take(record):
                label = self._label(event_id)
                if label is not None:
                    labels.pop(event_id, None)
                    labels[event_id] = label
        return list(labels.values())

    def _take(self, record: Record) -> list[str]:
        """Remember one record. Gives the votes that it may have completed."""
        try:
            if record.topic == COMPLETIONS:
                return self._take_completion(self._opened(Completion.model_validate_json(record.value)))
            if record.topic == FEEDBACK:
                return self._take_vote(canonical(self._opened(Feedback.model_validate_json(record.value))))
        except ValueError as error:  # pydantic's too: it does not parse, or its targets make no sense
            self.poison += 1
            if self.refused is not None:
                self.refused(record, str(error))
        return []

    def _opened(self, event: E) -> E:
        return event if self._sealer is None else self._sealer.open(event)

    def forget_texts(self, tenant: str, user: str) -> None:
        """Drop the texts and token ids of a user's completions and votes; that they were stays known."""
        for completion_id, answers in self._completions.items():
            if answers and (answers[0].tenant, answers[0].user) == (tenant, user):
                self._completions[completion_id] = tuple(answer.without_text() for answer in answers)
        for event_id, vote in self._votes.items():
            if (vote.tenant, vote.rater) == (tenant, user):
                bare: dict[str, Any] = {"text": None, "comment": None, "metadata": {}, "tags": []}
                self._votes[event_id] = vote.model_copy(update={**bare, "sealed": None})

    def _take_completion(self, completion: Completion) -> list[str]:
        if completion.completion_id in self._completions:
            return []
        answers = self._answers(completion)
        self._completions[completion.completion_id] = answers
        found = list(self._waiting.pop(("id", "", completion.completion_id), ()))
        if answers:
            for name in _names(answers[0]):
                self._named.setdefault(name, {})[completion.completion_id] = None
                found += self._waiting.get(name, ())  # and go on waiting: the next one may matter as well
        if len(self._completions) > self.window:
            self._forget_completion(*self._completions.popitem(last=False))
        return found

    def _forget_completion(self, completion_id: str, answers: tuple[Answer, ...]) -> None:
        for name in _names(answers[0]) if answers else ():
            _drop(self._named, name, completion_id)

    def _take_vote(self, vote: Feedback) -> list[str]:
        known = self._votes.get(vote.event_id)
        if known is not None and not _supersedes(vote, known):
            return []
        self._votes[vote.event_id] = vote
        self._wait(vote)
        if len(self._votes) > self.window * _VOTES_PER_COMPLETION:
            self._forget(self._votes.popitem(last=False)[1])
        return [vote.event_id]

    def _wait(self, vote: Feedback) -> None:
        for target in vote.targets:
            name = _name(vote.tenant, target)
            if name[0] != "id" or target.completion_id not in self._completions:
                self._waiting.setdefault(name, {})[vote.event_id] = None

    def _forget(self, vote: Feedback) -> None:
        for target in vote.targets:
            _drop(self._waiting, _name(vote.tenant, target), vote.event_id)

    def _label(self, event_id: str) -> Label | None:
        vote = self._votes.get(event_id)
        if vote is None:
            return None
        found: list[Answer] = []
        for target in vote.targets:
            answers = self._resolve(vote, target)
            if not answers:  # a retraction counts all the same: what it takes back may be known elsewhere
                return make_label(vote, ()) if vote.kind == "retraction" else None
            found += answers
        return make_label(vote, tuple(found))

    def _resolve(self, vote: Feedback, target: Target) -> list[Answer]:
        """The answers that a target means, [] while there are none."""
        name = _name(vote.tenant, target)
        if name[0] == "id":
            completion = self._completions.get(target.completion_id)
            return [] if completion is None else self._choice(vote, completion, target.choice)
        found = [self._completions[completion_id] for completion_id in self._named.get(name, ())]
        named = [answers for answers in found if answers[0].role == "answer"]
        named.sort(key=lambda answers: (answers[0].at, answers[0].completion_id))
        # Whether there is one must not depend on the vote's time: a revision replaces the one before.
        before = [answers for answers in named if answers[0].at <= vote.at] or named[:1]
        if name[0] == "episode":
            return [answers[0] for answers in before]
        return self._choice(vote, before[-1], target.choice) if before else []

    def _choice(self, vote: Feedback, completion: tuple[Answer, ...], choice: int) -> list[Answer]:
        found = [a for a in completion if a.choice == choice and a.tenant == vote.tenant]
        if not found:
            self.poison += 1
        return found

    def _answers(self, completion: Completion) -> tuple[Answer, ...]:
        prompt = self._shared(completion.prompt_token_ids)
        return tuple(
            Answer(
                completion_id=completion.completion_id,
                choice=choice.index,
                user=completion.user,
                policy_version=completion.policy_version,
                arm=completion.arm,
                role=completion.role,
                table_epoch=completion.table_epoch,
                prompt_token_ids=prompt
                if choice.prompt_token_ids is None
                else self._shared(choice.prompt_token_ids),
                token_ids=self._shared(choice.token_ids),
                tokens=choice.length,
                answer_start=choice.answer_start,
                text=choice.text,
                finish_reason=choice.finish_reason,
                at=completion.at,
                ttft_seconds=completion.ttft_seconds,
                latency_seconds=completion.latency_seconds,
                sampling_plain=completion.sampling.is_plain,
                tenant=completion.tenant,
                external_id=completion.external_id,
                episode_id=completion.episode_id,
            )
            for choice in completion.choices
        )

    def _shared(self, token_ids: Iterable[int]) -> tuple[int, ...]:
        return tuple(self._token_ids.setdefault(i, i) for i in token_ids)

    def state(self) -> dict[str, Any]:
        """All of it as JSON types, for a checkpoint."""
        return {
            "window": self.window,
            "poison": self.poison,
            "completions": [
                [{name: getattr(answer, name) for name in _ANSWER_FIELDS} for answer in answers]
                for answers in self._completions.values()
                if answers
            ],
            "votes": [_row(vote) for vote in self._votes.values()],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], sealer: Sealer | None = None) -> "Joiner":
        """A joiner that goes on where `state()` was taken."""
        joiner = cls(state["window"], sealer)
        joiner.poison = state["poison"]
        for choices in state["completions"]:
            answers = tuple(joiner._restored(choice) for choice in choices)
            joiner._completions[answers[0].completion_id] = answers
            for name in _names(answers[0]):
                joiner._named.setdefault(name, {})[answers[0].completion_id] = None
        for dumped in state["votes"]:
            vote = Feedback.model_validate(dumped)
            joiner._votes[vote.event_id] = vote
            joiner._wait(vote)
        return joiner

    def _restored(self, choice: Mapping[str, Any]) -> Answer:
        tokens = {name: self._shared(choice[name]) for name in ("prompt_token_ids", "token_ids")}
        return Answer(**{**choice, **tokens})


def _row(vote: Feedback) -> dict[str, Any]:
    """A vote as JSON types, fields that a newer version added included."""
    row = {**vote.__dict__, **(vote.model_extra or {})}
    row["targets"] = [{**target.__dict__, **(target.model_extra or {})} for target in vote.targets]
    return row


def canonical(vote: Feedback) -> Feedback:
    """The vote with its targets in one order, so that a vote on (b, a) revises the one on (a, b).

    Raises `ValueError` when the number of targets does not fit the kind.
    """
    places = [target.place for target in vote.targets]
    least, most = {"comparison": (2, 2), "ranking": (2, 64), "retraction": (1, 64)}.get(vote.kind, (1, 1))
    if len(set(places)) != len(places) or not least <= len(places) <= most:
        raise ValueError(f"a {vote.kind} vote needs {least} to {most} different target(s), got {places}")
    ranked = sorted(i for group in vote.groups or () for i in group)
    if vote.kind == "ranking" and ranked != [*range(len(places))]:
        raise ValueError(f"the groups {vote.groups} do not rank {len(places)} targets")
    if vote.kind != "comparison" or places == sorted(places):
        return vote
    turned: dict[str, Any] = {"targets": vote.targets[::-1], "value": 1.0 - vote.value}
    if vote.presented is not None:
        turned["presented"] = [1 - side for side in vote.presented]
    return vote.model_copy(update=turned)


def _supersedes(vote: Feedback, known: Feedback) -> bool:
    if vote.revision != known.revision:
        return vote.revision > known.revision
    # Two servers may write in the same microsecond: what is said breaks the tie the same way everywhere.
    return _said(vote) > _said(known)


def _said(vote: Feedback) -> tuple[float, str, str]:
    return vote.value, vote.label, vote.model_dump_json()


def _name(tenant: str, target: Target) -> Name:
    if target.external_id is not None:
        return "external", tenant, target.external_id
    if target.episode_id is not None:
        return "episode", tenant, target.episode_id
    return "id", "", target.completion_id


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
