"""`hearken listen`: what people write next tells of the answer before it, as signals in their names.

A complaint or a thank is a signal like a copy (`complained`, `thanked`), and so is that there was none. What
they weigh is learned from votes (docs/signals.md), so a model that reads badly weighs nothing. Nothing of
what was written is in them, and messages without consent are not read.
"""

import hashlib
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from feedback.core.events import COMPLETIONS, FEEDBACK, Completion, Feedback, Target
from feedback.core.ids import vote_id
from feedback.core.log import Cursor, Entry, EventLog, Record
from feedback.opening import open_sealer
from feedback.privacy.sealing import Sealer
from hearken.ai_judge import CannotJudge, in_words
from hearken.data.turn_reader import REACTIONS, ListenSettings, Reaction, TurnReader
from hearken.data.working import READ_LIMIT, Progress, before, completion_in, load, save, work_off
from serve.generation.preferences import without_preferences

logger = logging.getLogger("hearken.listen")

UNREAD, GONE = "the model said none of the letters", "a text was not kept"


class State(NamedTuple):
    """Where a listener goes on. begin: to read, and know the newest answers again; done: with new turns."""

    begin: dict[str, int]
    done: dict[str, int]


class Answer(NamedTuple):
    """An answer of ours. record: its completion, as it lies in the log."""

    completion_id: str
    choice: int
    record: Record


class Turn(NamedTuple):
    """A message that follows an answer of ours. record: the completion whose request it ends."""

    answer: Answer
    record: Record


class Turns:
    """Finds the answer before a message among the newest. `most`: how many are remembered.

    Clients repeat the conversation, so the answer stands before the message, at its place and word for word.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()

    def add(self, completion: Completion, record: Record) -> Turn | None:
        """Remember a completion's answers; the turn that its newest message is, if it follows one of ours."""
        if not completion.consent:
            return None
        messages, turn = completion.messages, None
        if [message.get("role") for message in messages[-2:]] == ["assistant", "user"]:
            # An answer is taken once: whoever edits the next message and sends it again says nothing new.
            answer = self._answers.pop(_key(completion, messages[:-2], in_words(messages[-2:-1])), None)
            turn = None if answer is None else Turn(answer, record)
        if messages:
            for choice in completion.choices:
                self._remember(_key(completion, messages, choice.text), completion, choice.index, record)
        return turn

    def _remember(self, key: bytes, completion: Completion, choice: int, record: Record) -> None:
        self._answers[key] = Answer(completion.completion_id, choice, record)
        self._answers.move_to_end(key)
        while len(self._answers) > self._most:
            self._answers.popitem(last=False)

    def before(self, cursor: Cursor) -> dict[str, int]:
        """The cursor, but where the oldest answer lies: whoever goes on there knows the same answers."""
        return before(cursor, (answer.record for answer in self._answers.values()))


def _key(completion: Completion, history: Sequence[Mapping[str, Any]], answer: str) -> bytes:
    """Names an answer by whose it is, its place and its words. The words before it are not compared: what
    a person asks for in every answer stands in the newest message alone."""
    told = [completion.tenant, completion.user, completion.episode_id, len(history), answer.strip()]
    return hashlib.sha256(json.dumps(told).encode()).digest()


class Listening:
    """One listener on one log. `state`: the file that says how far it has come."""

    def __init__(
        self, log: EventLog, sealer: Sealer, reader: TurnReader, settings: ListenSettings, state: Path
    ) -> None:
        self._log, self._sealer, self._reader, self._state = log, sealer, reader, state
        self._concurrency = settings.concurrency
        self._turns = Turns(settings.answers_remembered)
        self._due: list[Turn] = []
        self._saved = State({}, {})._asdict() | load(state)
        self._cursor: Cursor = self._saved["begin"]
        self._done: Cursor = self._saved["done"]
        self.progress = Progress("next messages read")

    def turn(self, wait_seconds: float) -> int:
        """Read what is new and say what it tells; how many records that were.

        Raises `LogError`, and `JudgeAway`: the next turn reads the same messages again.
        """
        read, since = 0, self._sealer.begin()
        if not self._due:
            records, self._cursor = self._log.read([COMPLETIONS], self._cursor, READ_LIMIT, wait_seconds)
            self._due = [turn for record in records if (turn := self._new(record)) is not None]
            read = len(records)
        with ThreadPoolExecutor(self._concurrency) as pool:
            found = list(pool.map(self._heard, self._due))
        self._write([each for each in found if not isinstance(each, str)], since)
        self.progress.take(found)
        self._due = []
        reached = State(self._turns.before(self._cursor), dict(self._cursor))
        self._saved = save(self._state, reached._asdict(), self._saved)
        return read

    def _new(self, record: Record) -> Turn | None:
        """The turn that a record brings, if it has one that was not read before."""
        completion = completion_in(record, self._sealer)
        turn = None if completion is None else self._turns.add(completion, record)
        is_new = record.offset >= self._done.get(f"{record.topic}/{record.partition}", 0)
        return turn if is_new else None

    def _heard(self, turn: Turn) -> list[Feedback] | str:
        """The signals of a turn, or why there are none. Raises `JudgeAway`.

        Its texts are opened now, and not before: a person may be erased while a message waits.
        """
        before, after = (
            self._sealer.open(Completion.model_validate_json(record.value))
            for record in (turn.answer.record, turn.record)
        )
        answers = [choice.text for choice in before.choices if choice.index == turn.answer.choice]
        said = without_preferences(in_words(after.messages[-1:])) if after.messages else ""
        if not before.messages or not any(answers) or not said.strip():
            return GONE
        try:
            reaction = self._reader.reaction(before.messages[-1:], answers[0], said)
        except CannotJudge as error:
            logger.warning("after %s: %s", before.completion_id, error)
            return UNREAD
        return [self._signal(turn.answer, after, name, reaction) for name in REACTIONS]

    def _signal(self, answer: Answer, after: Completion, name: Reaction, reaction: Reaction) -> Feedback:
        target = Target(completion_id=answer.completion_id, choice=answer.choice)
        return Feedback(
            event_id=vote_id(after.tenant, after.user, f"signal:{name}", [target.place]),
            at=time.time(),
            tenant=after.tenant,
            revision=self._log.stamp(),
            kind="signal",
            rater=after.user,
            targets=[target],
            value=0.5,
            label="yes" if reaction == name else "no",
            name=name,
            amount=float(reaction == name),
            shown=True,
            source="app",
            occurred_at=after.at,
        )

    def _write(self, found: Sequence[Sequence[Feedback]], since: int) -> None:
        """Log signals. Those of anybody who was erased since the turn began are left out."""
        signals = [
            signal
            for each in found
            for signal in each
            if not self._sealer.is_erased(signal.tenant, signal.rater, since)
        ]
        entries = [Entry(FEEDBACK, signal.rater, signal.model_dump_json().encode()) for signal in signals]
        if entries:
            self._log.append(entries).result()


def run(settings: ListenSettings, *, once: bool) -> int:
    """Listen until SIGTERM, or with `once` to what is in the log now. Raises UsageError and LogError."""
    reader, state = TurnReader(settings), settings.data / "listener.json"

    def listening(log: EventLog) -> Listening:
        return Listening(log, open_sealer(settings.data), reader, settings, state)

    return work_off(settings, "listener", listening, logger, once=once)
