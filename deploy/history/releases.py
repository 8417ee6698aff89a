"""The events of the `releases` topic, and the folds over them: the topic is the controller's only memory."""

import hashlib
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from deploy.history.shadowed import Shadowed, Shadows
from deploy.history.states import SETTLING, Action, Number, Outcome, ReleaseState, Stage, Step
from deploy.history.table import RoutingTable
from feedback.core.events import RELEASES, Event
from feedback.core.log import Entry, EventLog
from feedback.core.replay import replay

RELEASE_KEY = "release"
"""One key for all of the topic: what happens to releases has one order."""


class Candidate(Event):
    """The learner published a version and offers it. All else about it is in its manifest."""

    type: Literal["candidate"] = "candidate"
    version: str
    reward_updates: int | None = None  # of the reward model that it was trained with last
    parent: str | None = None  # the version that its training went on from; None where that is not known
    manifest: str | None = None  # sha256 of its manifest; None in events of before

    @classmethod
    def announce(
        cls,
        version: str,
        at: float | None = None,
        reward_updates: int | None = None,
        parent: str | None = None,
        manifest: str | None = None,
    ) -> "Candidate":
        """The event for a version; the same one however often it is announced."""
        return cls(
            event_id=f"candidate-{version}",
            at=time.time() if at is None else at,
            version=version,
            reward_updates=reward_updates,
            parent=parent,
            manifest=manifest,
        )


class Command(Event):
    """An operator's wish. One decision of the controller answers it; another one may come before.

    version: the one to pin; of a promotion or a rollback the one that it is for, whatever that is where None.
    """

    type: Literal["command"] = "command"
    action: Action
    version: str | None = None
    reason: str = ""
    who: str = "operator"


class Decision(Event):
    """What the controller decided, why, and all that it takes to go on from there.

    `number` counts decisions from 1. `admit` says whether one counts: that is how repeated records and a
    second controller are harmless.

    It is a certificate, too: with what it was judged by, the sums of the records that it rests on, the sum of
    the decision before, and a signature over all of it. Decisions of before have none of these.
    """

    type: Literal["decision"] = "decision"
    number: int = Field(ge=1)
    # of the lease that it was made under (deploy/controller/leading.py); 0: of none
    fence: int = Field(default=0, ge=0)
    outcome: Outcome
    release_id: str = ""
    stage_before: Stage
    stage_after: Stage
    version: str | None = None  # the version concerned
    table: RoutingTable | None = None  # set when routing changed
    sentence: str
    numbers: dict[str, Number] = Field(default_factory=dict)
    answers: str | None = None  # the event_id of the candidate or command that it answers
    action: Action | None = None  # that an operator asked for, with who it was and why; None: nobody did
    who: str = ""
    reason: str = ""
    cursor: dict[str, int] = Field(default_factory=dict)  # how far completions and feedback were read for it
    digests: dict[str, str] = Field(default_factory=dict)  # of the records of its stage up to there
    settings: dict[str, Any] | None = None  # that judge, as they were (deploy/reports/recorded.py)
    previous: str = ""  # sha256 of the record of the decision before; the first one has none
    state: ReleaseState
    signature: str = ""  # of all else here (deploy/history/signing.py)

    @property
    def settled(self) -> bool:
        """Whether the trial of `version` is over with this: promoted, refused or rolled back."""
        return self.outcome in SETTLING


class Basis(NamedTuple):
    """What a decision rests on, by the names of `Decision`."""

    cursor: dict[str, int]
    digests: dict[str, str]
    settings: dict[str, Any] | None


def decision_of(
    step: Step,
    before: ReleaseState,
    number: int,
    at: float,
    *,
    answers: str | None = None,
    command: Command | None = None,
    basis: Basis | None = None,
    fence: int = 0,
    previous: str = "",
) -> Decision:
    """A step as the decision of this number. command: what an operator asked for that led to it. previous:
    the sum of the decision before, as `History.digest` has it."""
    basis = basis or Basis({}, {}, None)
    return Decision(
        event_id=f"decision-{number}-{uuid.uuid4().hex[:12]}",
        at=at,
        number=number,
        fence=fence,
        outcome=step.outcome,
        release_id=step.state.release_id,
        stage_before=before.stage,
        stage_after=step.state.stage,
        version=step.version,
        table=step.state.table if step.state.table.epoch != before.table.epoch else None,
        sentence=step.sentence,
        numbers=step.numbers,
        answers=answers,
        action=command.action if command is not None else None,
        who=command.who if command is not None else "",
        reason=command.reason if command is not None else "",
        cursor=dict(basis.cursor),
        digests=basis.digests,
        settings=basis.settings,
        previous=previous,
        state=step.state,
    )


ReleaseEvent = Candidate | Command | Decision | Shadowed
_EVENT: TypeAdapter[ReleaseEvent] = TypeAdapter(Annotated[ReleaseEvent, Field(discriminator="type")])


def parse(value: bytes) -> ReleaseEvent | None:
    """The event in a record, or None: not an event, or of a kind that a newer writer knows."""
    try:
        return _EVENT.validate_json(value)
    except ValidationError:
        return None


def entry(event: ReleaseEvent) -> Entry:
    """The log entry of an event."""
    return Entry(RELEASES, RELEASE_KEY, event.model_dump_json().encode())


def digest_of(value: bytes) -> str:
    """What the decision after names a decision by: the sha256 of its record, in hex."""
    return hashlib.sha256(value).hexdigest()


def make_command(
    action: Action, version: str | None = None, *, reason: str = "", who: str = "operator", key: str = ""
) -> Command:
    """A command, to be appended to the log.

    With the same `key`, unless that is empty, it is the same one however often it is made, and done once.
    """
    name = hashlib.sha256(key.encode()).hexdigest()[:32] if key else uuid.uuid4().hex
    return Command(
        event_id=f"command-{name}", at=time.time(), action=action, version=version, reason=reason, who=who
    )


def append_command(
    log: EventLog, action: Action, version: str | None = None, *, reason: str = "", who: str = "operator"
) -> Command:
    """Ask the controller for something, durably. Raises `LogUnavailable`."""
    command = make_command(action, version, reason=reason, who=who)
    log.append([entry(command)]).result()
    return command


class Reached(NamedTuple):
    """How far the decisions that count have come. Whoever keeps a fold of them keeps this with it."""

    number: int = 0  # of the newest that counts
    fence: int = 0  # the highest of all that were seen, also of those that do not count


def admit(reached: Reached, decision: Decision) -> tuple[Reached, bool]:
    """Whether the next decision of the log counts, and what is reached with it.

    Of two with one number the first counts. What was made under an older lease than a decision before it does
    not: who held that lease has been replaced. Decisions without a lease go by their number alone, because
    a service may go on without Redis, or for a while with a version that knows no leases.

    All who read decisions ask this and nothing else, so controllers, gateways, learner and receipts see the
    same history. Each decision follows from the one before, as a controller reads its last one back first.
    """
    fence = max(reached.fence, decision.fence)
    counts = decision.number > reached.number and decision.fence in (0, fence)
    return Reached(decision.number if counts else reached.number, fence), counts


class History:
    """The fold of the topic: the newest decision's state, and what nobody has answered yet.

    `remembered` decisions are kept for people to read: the newest, or of those with a number below
    `before`.
    """

    def __init__(self, remembered: int = 50, before: int | None = None) -> None:
        self.reached = Reached()
        self.state: ReleaseState | None = None  # None before the first decision
        self.decisions: deque[Decision] = deque(maxlen=remembered)
        self.shadows = Shadows()
        self._before = before
        self._newest: tuple[Decision, bytes | None] | None = None  # with the bytes of its record, where known
        self._answered: set[str] = set()
        self._open: dict[str, Candidate | Command] = {}

    def apply(self, event: ReleaseEvent, value: bytes | None = None) -> bool:
        """Take in the next event of the log, and say whether it is a decision that counts.

        value: the bytes of its record, which whoever decides next needs; without them they are taken to be
        those that this version would write. Repetitions change nothing.
        """
        if isinstance(event, Shadowed):
            self.shadows.take(event)
            return False
        if not isinstance(event, Decision):
            if event.event_id not in self._answered:
                self._open.setdefault(event.event_id, event)
            return False
        self.reached, counts = admit(self.reached, event)
        if counts:
            self.state = event.state
            self.shadows.follow(event.state)
            self._newest = (event, value)
            if self._before is None or event.number < self._before:
                self.decisions.append(event)
            if event.answers is not None:
                self._answered.add(event.answers)
                self._open.pop(event.answers, None)
        return counts

    @property
    def digest(self) -> str:
        """Of the newest decision's record; "" before the first."""
        if self._newest is None:
            return ""
        event, value = self._newest
        return digest_of(entry(event).value if value is None else value)

    @property
    def candidates(self) -> list[Candidate]:
        """Candidates without a decision, oldest first."""
        return [event for event in self._open.values() if isinstance(event, Candidate)]

    @property
    def commands(self) -> list[Command]:
        """Commands without a decision, oldest first."""
        return [event for event in self._open.values() if isinstance(event, Command)]


def read_history(
    log: EventLog, remembered: int = 50, wait_seconds: float = 30.0, before: int | None = None
) -> History:
    """Replay the topic from its beginning to its present end, keeping decisions as `History` does.

    Raises `LogUnavailable` when that end is not known or not reached within `wait_seconds`.
    """
    history = History(remembered, before)
    for records, _ in replay(log, [RELEASES], {}, wait_seconds):
        for record in records:
            event = parse(record.value)
            if event is not None:
                history.apply(event, record.value)
    return history


def append_step(
    log: EventLog,
    history: History,
    step: Step,
    at: float,
    answers: str | None = None,
    sign: Callable[[Decision], Decision] = lambda decision: decision,
) -> ReleaseState:
    """Make a step durable where no controller runs; gives the state after it. Raises `LogUnavailable`."""
    number, before = history.reached.number + 1, history.state or ReleaseState()
    decision = sign(decision_of(step, before, number, at, answers=answers, previous=history.digest))
    log.append([entry(decision)]).result()
    history.apply(decision)
    return step.state
