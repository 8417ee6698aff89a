"""`hearken revise`: comments become pairs, an answer and the answer revised in the comment's light.

What is made of a comment is a correction in the commenter's name, of lower weight, so it is joined, weighed,
bounded, sealed, erased and told of as the commenter's votes are. What is made of none is told as well (see
`feedback.updates.revisions`). Nothing else comes of a comment: its effect goes through learning, gate and
canary.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from feedback.core.events import COMPLETIONS, FEEDBACK, Completion, Feedback
from feedback.core.log import Cursor, Entry, EventLog, Record
from feedback.joining.opened import Name, head_of, name_of
from feedback.opening import open_sealer
from feedback.privacy.sealing import Sealer
from feedback.updates.revisions import REFUSED, revision_id
from hearken.data.reviser import Refused, Reviser, ReviseSettings
from hearken.data.working import READ_LIMIT, Progress, before, load, save, work_off

logger = logging.getLogger("hearken.revise")

_SINGLE = ("thumbs", "rating")
_LIKED = 0.5  # a comment beside a better value praises: there is nothing to revise


class State(NamedTuple):
    """How far a reviser has come, and the comments of which there is a revision, oldest first."""

    cursor: dict[str, int]
    revised: list[str]


class Answers:
    """The newest answers, sealed as they lie in the log, by what votes call them. `most`: how many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._records: OrderedDict[Name, Record] = OrderedDict()

    def add(self, record: Record) -> list[Name]:
        """Remember a completion; what votes may call it."""
        try:
            head = head_of(record.value)
        except ValueError:
            return []  # those who need it count it
        names: list[Name] = [("id", "", head.completion_id)]
        names += [name for name in head.names if name[0] == "external" and head.role == "answer"]
        for name in names:
            self._records[name] = record
            self._records.move_to_end(name)
        while len(self._records) > self._most:
            self._records.popitem(last=False)
        return names

    def get(self, name: Name) -> Record | None:
        """The answer of a name, None when it is not there (any more)."""
        return self._records.get(name)

    def before(self, cursor: Cursor) -> dict[str, int]:
        """The cursor, but where the oldest answer lies: whoever goes on there knows the same answers."""
        return before(cursor, self._records.values())


class Made(NamedTuple):
    """What became of a comment. user: whose answer it is about, where it was revised."""

    event: Feedback
    user: str | None = None


class Revising:
    """One reviser on one log. `state`: the file that says how far it has come."""

    def __init__(
        self, log: EventLog, sealer: Sealer, reviser: Reviser, settings: ReviseSettings, state: Path
    ) -> None:
        self._log, self._sealer, self._reviser, self._state = log, sealer, reviser, state
        self._settings = settings
        self._answers = Answers(settings.answers_remembered)
        self._waiting: OrderedDict[str, tuple[Feedback, Record]] = OrderedDict()  # by the comment's id
        self._due: dict[str, tuple[Feedback, Record | None]] = {}  # comments, each with its answer
        self._withdrawn: list[Feedback] = []
        self._saved = State({}, [])._asdict() | load(state)
        self._cursor: Cursor = self._saved["cursor"]
        self._revised = dict.fromkeys(self._saved["revised"])  # comments of which there is a revision
        self.progress = Progress("comments became revised answers")

    def turn(self, wait_seconds: float) -> int:
        """Read what is new and work on it; how many records that were.

        Raises `LogError`, and `JudgeAway`: the next turn works on the same comments again.
        """
        read, since = 0, self._sealer.begin()
        if not self._due:
            topics = [COMPLETIONS, FEEDBACK]
            records, self._cursor = self._log.read(topics, self._cursor, READ_LIMIT, wait_seconds)
            for record in records:
                self._take(record)
            read = len(records)
        with ThreadPoolExecutor(self._settings.concurrency) as pool:
            found = [each for each in pool.map(lambda due: self._made(*due), self._due.values()) if each]
        found += [self._refusal(vote, "withdrawn") for vote in self._withdrawn]
        self._write(found, since)
        self._due, self._withdrawn = {}, []
        self._save()
        return read

    # ---- reading. Comments stay sealed until they are worked on, for their users may be erased meanwhile.

    def _take(self, record: Record) -> None:
        if record.topic == COMPLETIONS:
            names = self._answers.add(record)
            for vote, _ in [each for each in self._waiting.values() if _named(each[0]) in names]:
                del self._waiting[vote.event_id]
                self._due[vote.event_id] = vote, record
            return
        try:
            vote = Feedback.model_validate_json(record.value)
        except ValueError:
            return
        if vote.revises is not None:
            return  # our own
        self._waiting.pop(vote.event_id, None)  # an earlier wording
        self._due.pop(vote.event_id, None)
        if not _may_ask(vote):
            if vote.event_id in self._revised:
                self._withdrawn.append(vote)
        elif (answer := self._answers.get(_named(vote))) is not None:
            self._due[vote.event_id] = vote, answer
        else:
            self._waiting[vote.event_id] = vote, record
            if len(self._waiting) > self._settings.comments_waiting:
                event_id, (oldest, _) = self._waiting.popitem(last=False)
                self._due[event_id] = oldest, None

    # ---- what becomes of a comment

    def _made(self, sealed: Feedback, answer: Record | None) -> Made | None:
        """What becomes of a comment; None for a vote without words. Raises `JudgeAway`."""
        vote = self._sealer.open(sealed)
        if not _words(vote):
            return self._refusal(vote, "withdrawn") if vote.event_id in self._revised else None
        try:
            if answer is None:
                raise Refused("answer_gone")
            return self._correction(vote, answer)
        except Refused as reason:
            return self._refusal(vote, str(reason))

    def _correction(self, vote: Feedback, record: Record) -> Made:
        completion = self._sealer.open(Completion.model_validate_json(record.value))
        if completion.tenant != vote.tenant:
            raise Refused("answer_gone")
        chosen = [each for each in completion.choices if each.index == vote.targets[0].choice]
        if not chosen or not chosen[0].text.strip() or not completion.messages:
            raise Refused("not_kept")
        text = self._reviser.revised(completion.messages, chosen[0].text, _words(vote))
        said = {"kind": "correction", "label": "corrected", "text": text, "weight": self._settings.weight}
        return Made(self._event(vote, said), completion.user)

    def _refusal(self, vote: Feedback, reason: str) -> Made:
        said = {"kind": "retraction", "label": "retracted", "retracts": "correction", "refused": reason}
        return Made(self._event(vote, said))

    def _event(self, vote: Feedback, said: Mapping[str, object]) -> Feedback:
        event = {
            "event_id": revision_id(vote.tenant, vote.rater, vote.event_id),
            "at": time.time(),
            "tenant": vote.tenant,
            "revision": self._log.stamp(),
            "rater": vote.rater,
            "targets": vote.targets,
            "value": 0.5,
            "source": "app",  # no person's word, so it is no evidence; bounded with the rest of the rater's
            "key_id": vote.key_id,
            "revises": vote.event_id,
        }
        return Feedback.model_validate({**event, **said})

    def _write(self, found: Sequence[Made], since: int) -> None:
        """Log what became of comments. Texts of anybody who was erased since the turn began are left out."""
        kept = [
            made.event
            for made in found
            if made.user is None or not self._sealer.is_erased(made.event.tenant, made.user, since)
        ]
        sealed = self._sealer.seal_all([(event, False) for event in kept], since)
        entries = []
        for made in sealed:
            assert isinstance(made, Feedback)
            if made.kind == "retraction" or made.sealed is not None:
                entries.append(Entry(FEEDBACK, made.rater, made.model_dump_json().encode()))
                self._count(made)
        if entries:
            self._log.append(entries).result()

    def _count(self, made: Feedback) -> None:
        assert made.revises is not None
        self._revised.pop(made.revises, None)
        if made.refused is None:
            self.progress.judged += 1
            self._revised[made.revises] = None
            while len(self._revised) > self._settings.answers_remembered:
                del self._revised[next(iter(self._revised))]
        elif made.refused != "withdrawn":
            self.progress.skipped[REFUSED[made.refused]] += 1

    def _save(self) -> None:
        waiting = [record for _, record in self._waiting.values()]
        reached = State(before(self._answers.before(self._cursor), waiting), list(self._revised))
        self._saved = save(self._state, reached._asdict(), self._saved)


def _may_ask(vote: Feedback) -> bool:
    """Whether a vote may have words about one answer that ask for another one; they may be sealed."""
    if vote.kind not in ("comment", *_SINGLE) or vote.source == "model":
        return False
    if len(vote.targets) != 1 or vote.targets[0].episode_id is not None:
        return False
    if vote.kind in _SINGLE and vote.value > _LIKED:
        return False
    return vote.sealed is not None or bool(_words(vote))


def _named(vote: Feedback) -> Name:
    return name_of(vote.tenant, vote.targets[0])


def _words(vote: Feedback) -> str:
    return ((vote.text if vote.kind == "comment" else vote.comment) or "").strip()


def run(settings: ReviseSettings, *, once: bool) -> int:
    """Revise until SIGTERM, or with `once` what is in the log now. Raises UsageError and LogError."""
    reviser, state = Reviser(settings), settings.data / "reviser.json"

    def revising(log: EventLog) -> Revising:
        return Revising(log, open_sealer(settings.data), reviser, settings, state)

    return work_off(settings, "reviser", revising, logger, once=once)
