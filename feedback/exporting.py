"""The votes in a log as examples, with the texts that they are about."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from feedback.events import COMPLETIONS, FEEDBACK, Completion, Feedback
from feedback.examples import Example, Message
from feedback.log import EventLog
from feedback.replay import replay
from feedback.sealing import Sealer

Event = TypeVar("Event", Completion, Feedback)

_NOT_JUDGED = {"comment": "it judges nothing", "metric": "it judges an outcome, not an answer"}


@dataclass(slots=True)
class _Said:
    """What one completion was asked and answered."""

    messages: tuple[Message, ...]
    texts: dict[int, str]  # choice -> text


@dataclass(slots=True)
class Exported:
    """The examples of a log, and why the other votes are none: reason -> how many."""

    examples: list[Example] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)


def read_examples(log: EventLog, sealer: Sealer) -> Exported:
    """All votes that stand, oldest first. Raises LogUnavailable.

    The log is read twice, so that only the completions which votes are about are kept in memory.
    """
    votes = _votes(log, sealer)
    wanted = {
        target.completion_id or target.external_id for vote in votes.values() for target in vote.targets
    }
    said = _answers(log, sealer, wanted)
    exported = Exported()
    for vote in sorted(votes.values(), key=lambda vote: vote.revision):
        try:
            exported.examples.append(_example(vote, said))
        except _Skipped as skipped:
            exported.skipped[str(skipped)] = exported.skipped.get(str(skipped), 0) + 1
    return exported


class _Skipped(Exception):
    """A vote that is no example, and why."""


def _votes(log: EventLog, sealer: Sealer) -> dict[str, Feedback]:
    votes: dict[str, Feedback] = {}
    for vote in _events(log, FEEDBACK, Feedback, sealer):
        known = votes.get(vote.event_id)
        if known is None or vote.revision >= known.revision:
            votes[vote.event_id] = vote
    return {event_id: vote for event_id, vote in votes.items() if vote.kind != "retraction"}


def _answers(log: EventLog, sealer: Sealer, wanted: set[str | None]) -> dict[tuple[str, str], _Said]:
    """By tenant and completion id, and by tenant and external id."""
    said: dict[tuple[str, str], _Said] = {}
    for completion in _events(log, COMPLETIONS, Completion, sealer):
        for name in (completion.completion_id, completion.external_id):
            if name is not None and name in wanted:
                texts = {choice.index: choice.text for choice in completion.choices}
                said[completion.tenant, name] = _Said(tuple(completion.messages), texts)
    return said


def _events(log: EventLog, topic: str, kind: type[Event], sealer: Sealer) -> Iterator[Event]:
    for records, _ in replay(log, [topic], {}):
        for record in records:
            try:
                yield sealer.open(kind.model_validate_json(record.value))
            except ValueError:
                continue  # a record that no reader can use: consumers count those


def _example(vote: Feedback, said: dict[tuple[str, str], _Said]) -> Example:
    if vote.kind in _NOT_JUDGED:
        raise _Skipped(f"a {vote.kind}: {_NOT_JUDGED[vote.kind]}")
    if any(target.episode_id is not None for target in vote.targets):
        raise _Skipped("it judges a whole conversation")
    found = [said.get((vote.tenant, t.completion_id or t.external_id or "")) for t in vote.targets]
    answers = [_text(one, target.choice) for one, target in zip(found, vote.targets, strict=True)]
    messages = found[0].messages if found[0] is not None else ()
    if any(one is not None and one.messages != messages for one in found):
        raise _Skipped("its answers are to different messages")
    demonstrates = vote.kind == "correction" and vote.text == answers[0]
    if vote.kind == "correction" and not demonstrates:
        answers.insert(0, vote.text or "")
    try:
        return Example(
            "demonstration" if demonstrates else vote.kind,  # type: ignore[arg-type]
            messages,
            tuple(answers),
            1.0 if vote.kind == "correction" else vote.value,
            rater=vote.rater,
            at=vote.at if vote.occurred_at is None else vote.occurred_at,
            comment=vote.comment,
            tags=tuple(vote.tags),
            reasons=tuple(vote.reasons),
            groups=tuple(map(tuple, vote.groups or ())),
            metadata=vote.metadata,
        )
    except ValueError as error:
        raise _Skipped(str(error)) from error


def _text(said: _Said | None, choice: int) -> str:
    if said is None:
        raise _Skipped("its completion is not in the log any more")
    text = said.texts.get(choice)
    if not text or not said.messages:
        raise _Skipped("its text was not kept, or was erased")
    return text
