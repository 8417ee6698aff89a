"""Joining feedback to the completions that it is about, in whatever order the two arrive."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from feedback.events import COMPLETIONS, FEEDBACK, Completion, Feedback
from feedback.log import Record

_VOTES_PER_COMPLETION = 4  # how many votes are remembered for each completion in the window


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice of one completion, as far as learning and evidence need it.

    `at` is Unix time; `sampling_plain` tells whether the tokens' logprobs can be recomputed from the logits.
    """

    completion_id: str
    choice: int
    user: str
    policy_version: str
    arm: str
    role: str
    table_epoch: int
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    finish_reason: str | None
    at: float
    ttft_seconds: float | None
    latency_seconds: float
    sampling_plain: bool


@dataclass(frozen=True, slots=True)
class Label:
    """A vote with what it is about. A later `revision` of the same `event_id` replaces it.

    thumbs: one answer. comparison: two, the user's own arm ("answer") before the "reference", whatever the
    order in which the vote named them; `value` 1 says that answers[0] is better, and `label` is "a" for that,
    "b" for answers[1], "tie" for neither.
    """

    event_id: str
    revision: int
    kind: str
    rater: str
    tenant: str
    at: float
    value: float
    label: str
    source: str
    answers: tuple[Answer, ...]


class Joiner:
    """Folds the records of COMPLETIONS and FEEDBACK into labels.

    The same records in any order, split or repeated, end in the same last label per `event_id`, as long as
    no more than `window` completions lie between a completion and its feedback: older completions are
    forgotten first in, first out, and so are votes beyond four times as many. `poison` counts the records
    that could not be used.
    """

    def __init__(self, window: int = 50_000) -> None:
        if window < 1:
            raise ValueError(f"the window is {window} completions; at least 1 is needed")
        self.window = window
        self.poison = 0
        self._completions: OrderedDict[str, tuple[Answer, ...]] = OrderedDict()
        self._votes: OrderedDict[str, Feedback] = OrderedDict()
        self._waiting: dict[str, dict[str, None]] = {}  # completion id -> event ids, in order
        self._token_ids: dict[int, int] = {}  # one int object per vocabulary entry, not per token

    @property
    def completions(self) -> Mapping[str, tuple[Answer, ...]]:
        """The completions in the window, oldest first: completion id -> its choices."""
        return MappingProxyType(self._completions)

    def feed(self, records: Iterable[Record]) -> list[Label]:
        """The labels that these records completed or revised, the newest one per `event_id`."""
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
                return self._take_completion(Completion.model_validate_json(record.value))
            if record.topic == FEEDBACK:
                return self._take_vote(canonical(Feedback.model_validate_json(record.value)))
        except ValueError:  # pydantic's too: it does not parse, or its targets make no sense
            self.poison += 1
        return []

    def _take_completion(self, completion: Completion) -> list[str]:
        if completion.completion_id in self._completions:
            return []
        self._completions[completion.completion_id] = self._answers(completion)
        if len(self._completions) > self.window:
            self._completions.popitem(last=False)
        return list(self._waiting.pop(completion.completion_id, ()))

    def _take_vote(self, vote: Feedback) -> list[str]:
        known = self._votes.get(vote.event_id)
        if known is not None and _rank(vote) <= _rank(known):
            return []
        self._votes[vote.event_id] = vote
        self._wait(vote)
        if len(self._votes) > self.window * _VOTES_PER_COMPLETION:
            self._forget(self._votes.popitem(last=False)[1])
        return [vote.event_id]

    def _wait(self, vote: Feedback) -> None:
        for target in vote.targets:
            if target.completion_id not in self._completions:
                self._waiting.setdefault(target.completion_id, {})[vote.event_id] = None

    def _forget(self, vote: Feedback) -> None:
        for target in vote.targets:
            waiting = self._waiting.get(target.completion_id, {})
            waiting.pop(vote.event_id, None)
            if not waiting:
                self._waiting.pop(target.completion_id, None)

    def _label(self, event_id: str) -> Label | None:
        vote = self._votes.get(event_id)
        if vote is None:
            return None
        answers = []
        for target in vote.targets:
            choices = self._completions.get(target.completion_id)
            if choices is None:
                return None
            answer = next((a for a in choices if a.choice == target.choice), None)
            if answer is None:
                self.poison += 1
                return None
            answers.append(answer)
        return _label(vote, tuple(answers))

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
                prompt_token_ids=prompt,
                token_ids=self._shared(choice.token_ids),
                text=choice.text,
                finish_reason=choice.finish_reason,
                at=completion.at,
                ttft_seconds=completion.ttft_seconds,
                latency_seconds=completion.latency_seconds,
                sampling_plain=completion.sampling.is_plain,
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
                [{f.name: getattr(answer, f.name) for f in fields(Answer)} for answer in answers]
                for answers in self._completions.values()
                if answers
            ],
            "votes": [vote.model_dump(mode="json") for vote in self._votes.values()],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Joiner":
        """A joiner that goes on where `state()` was taken."""
        joiner = cls(state["window"])
        joiner.poison = state["poison"]
        for choices in state["completions"]:
            answers = tuple(joiner._restored(choice) for choice in choices)
            joiner._completions[answers[0].completion_id] = answers
        for dumped in state["votes"]:
            vote = Feedback.model_validate(dumped)
            joiner._votes[vote.event_id] = vote
            joiner._wait(vote)
        return joiner

    def _restored(self, choice: Mapping[str, Any]) -> Answer:
        tokens = {name: self._shared(choice[name]) for name in ("prompt_token_ids", "token_ids")}
        return Answer(**{**choice, **tokens})


def canonical(vote: Feedback) -> Feedback:
    """The vote with its targets in one order, so that a vote on (b, a) revises the one on (a, b).

    Raises `ValueError` when the number of targets does not fit the kind.
    """
    places = [(target.completion_id, target.choice) for target in vote.targets]
    needed = 2 if vote.kind == "comparison" else 1
    if len(set(places)) != needed or len(places) != needed:
        raise ValueError(f"a {vote.kind} vote needs {needed} different target(s), got {places}")
    if vote.kind == "thumbs" or places == sorted(places):
        return vote
    return vote.model_copy(update={"targets": vote.targets[::-1], "value": 1.0 - vote.value})


def _rank(vote: Feedback) -> tuple[int, float, str]:
    # Two servers may write in the same microsecond: value and label break the tie the same way everywhere.
    return (vote.revision, vote.value, vote.label)


def _label(vote: Feedback, answers: tuple[Answer, ...]) -> Label:
    value, label = vote.value, vote.label
    if vote.kind == "comparison":
        if answers[0].role == "reference" and answers[1].role == "answer":
            answers, value = answers[::-1], 1.0 - value
        label = "a" if value > 0.5 else "b" if value < 0.5 else "tie"
    return Label(
        event_id=vote.event_id,
        revision=vote.revision,
        kind=vote.kind,
        rater=vote.rater,
        tenant=vote.tenant,
        at=vote.at,
        value=value,
        label=label,
        source=vote.source,
        answers=answers,
    )
