"""Dry run of an optimiser on the votes in the log: trained and compared with live, and nothing published.

A dry run is the learner itself up to the comparison that its gate would judge. It begins at what is live, as
if no vote had been used yet. It reads what is in the log when it starts, and writes nothing there; what it
remembers lies in a folder of its own.
"""

import dataclasses
import logging
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from deploy.engines.client import EngineClient, PromptsRefused
from deploy.engines.thoughts import thoughts_of
from deploy.registry.manifest import GateNumbers
from feedback.core.events import COMPLETIONS, FEEDBACK, RELEASES
from feedback.core.log import Cursor, Entry, EventLog, Place, Record
from feedback.opening import open_log
from learner.examples import is_pair, pairs
from learner.loop.learner import Learner
from learner.loop.metrics import LearnerMetrics
from learner.loop.offering import Comparison
from learner.main import registry_of
from learner.model.shared import LIVE, POLICY, SharedModel
from learner.settings import LearnerSettings
from learner.state.stages import LearnerState
from learner.state.table import Action

logger = logging.getLogger("hearken.learner")

TOPICS = (COMPLETIONS, FEEDBACK, RELEASES)

FIRST_BATCH = 1_000_000
"""The number of the first batch of rollouts: a learner that runs on the same engine names its adapters by
such numbers too, and has not come as far."""

SEALED_WITH = ("secret", "vault")
"""What of a data folder opens the texts in the log."""

TRIES = 3
"""Reads of the log that bring nothing before it is taken to have no more."""

PAIRS = 500
"""Judging raters' pairs, the newest, that the trained policy is held against."""


class DryLog:
    """A log as it is at one moment, to which nothing is written. Raises `LogUnavailable` when it does not say
    where its end is."""

    def __init__(self, log: EventLog, wait_seconds: float = 60.0) -> None:
        self._log = log
        self._end = log.end(TOPICS, wait_seconds)

    def read(
        self, topics: Sequence[str], cursor: Cursor, limit: int = 1000, wait_seconds: float = 0.0
    ) -> tuple[list[Record], dict[str, int]]:
        """What there was. There will be no more, so nobody waits for it, but for a broker that is slow."""
        left = self.behind(topics, cursor)[0]
        if not left:
            return [], dict(cursor)
        records, after = self._log.read(topics, cursor, limit, max(wait_seconds, 1.0))
        kept = [r for r in records if r.offset < self._end.get(f"{r.topic}/{r.partition}", 0)]
        return kept, {place: min(offset, self._end.get(place, 0)) for place, offset in after.items()}

    def fetch(self, places: Sequence[Place], wait_seconds: float = 0.0) -> list[Record | None]:
        """As the log has them."""
        return self._log.fetch(places, wait_seconds)

    def end(self, topics: Sequence[str], wait_seconds: float = 0.0) -> dict[str, int]:
        """Where it ended."""
        return {place: at for place, at in self._end.items() if place.partition("/")[0] in topics}

    def behind(self, topics: Sequence[str], cursor: Cursor) -> tuple[int, float]:
        """What is left of it, of no age."""
        ends = self.end(topics).items()
        return sum(max(0, at - cursor.get(place, 0)) for place, at in ends), 0.0

    def stamp(self) -> int:
        """As the log has it."""
        return self._log.stamp()

    def append(self, entries: Sequence[Entry]) -> "Future[None]":
        """Nothing is written."""
        return _done()

    def hold(self, reader: str, cursor: Cursor) -> "Future[None]":
        """Nothing is held."""
        return _done()

    def release_hold(self, reader: str) -> "Future[None]":
        """Nothing was held."""
        return _done()

    def bury(self, reader: str, record: Record, reason: str) -> "Future[None]":
        """The learner that learns from this log buries it."""
        return _done()

    def close(self) -> None:
        """The log is closed by whoever opened it."""


def _done() -> "Future[None]":
    found: Future[None] = Future()
    found.set_result(None)
    return found


class NoPrompts(RuntimeError):
    """The log has no prompts that the engine can be asked."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one optimiser.

    votes: that train, and the `usable` ones of them, which the optimiser can learn from; steps: taken, and
    how many of them were `undone`; pair_accuracy: the share of judging raters' pairs (NaN without any) of
    which the policy has raised the answer that they like better above the other, against live; gate: None
    where the policy did not come to be compared; `sentence` says what the gate makes of it, or why not.
    """

    optimiser: str
    votes: int
    usable: int
    steps: int
    undone: int
    pair_accuracy: float
    gate: GateNumbers | None
    passed: bool
    sentence: str
    seconds: float


class DryRun(Learner):
    """A learner that ends with the comparison, and saves nothing."""

    _found: Comparison | None = None
    _left = ""  # why the policy went back to live, the last time

    def run(self) -> Outcome:
        """Train on all votes, and compare with live.

        Raises `NoPrompts`, `EngineError` when the engine is away, and `CompletionsUnavailable`.
        """
        started = time.monotonic()
        self._read_all()
        # What the service's own learner has made of these votes, and a trial under way, do not count here.
        self.go_back_to_live()
        self.state = LearnerState(new_labels=len(self.labels.training))
        self.place.rollouts = FIRST_BATCH
        while self._found is None and (action := self._next()) != "wait":
            try:
                self._act(action)
            except PromptsRefused as error:
                self.askable.leave_out(error)
        undone = self.metrics.registry.get_sample_value("hearken_ppo_undone_total")
        return Outcome(
            optimiser=self.settings.optimiser,
            votes=len(self.labels.training),
            usable=self.teaching,
            steps=self.place.steps,
            undone=int(undone or 0),
            pair_accuracy=self._pair_accuracy(),
            gate=self._found.numbers if self._found else None,
            passed=self._found is not None and self._found.passed,
            sentence=self._found.sentence if self._found else self._why_not(),
            seconds=time.monotonic() - started,
        )

    def _read_all(self) -> None:
        tries = 0
        while (left := self.log.behind(TOPICS, self.place.cursor)[0]) and tries < TRIES:
            before = self.place.cursor
            self.reading.read(1.0, math.inf)
            tries = tries + 1 if self.place.cursor == before else 0
        if left:
            logger.warning("%d records of the log cannot be read now; the dry run goes without them", left)
        self.reading.reopen()

    def _offer(self) -> None:
        self._found = self.offering.compare()
        if self._found is None:
            self._read(0.0)

    def _read(self, wait_seconds: float) -> None:
        """The learner would wait for a chat to bring a prompt; here none will come."""
        raise NoPrompts("the log has no prompts that the engine could answer")

    def _go_back(self, action: Action) -> None:
        concern = self.watch.concern()
        self._left = concern.sentence if concern else "it passed a KL limit again and again"
        super()._go_back(action)

    def _why_not(self) -> str:
        if self.teaching < self.settings.min_labels:
            return f"it can learn from {self.teaching} votes, and min_labels is {self.settings.min_labels}"
        return self._left or "it never left live"

    def _pair_accuracy(self) -> float:
        room = self.model.context or math.inf
        votes = [
            vote
            for vote in self.labels.judging
            if is_pair(vote)
            and not vote.is_selected
            and vote.value != 0.5
            and all(len(a.prompt_token_ids) + len(a.token_ids) <= room for a in vote.answers)
        ][-PAIRS:]
        if not votes:
            return math.nan
        examples = pairs(votes, 0)
        policy, live = (self.model.answer_logprobs(examples.items, name).sum(1) for name in (POLICY, LIVE))
        margins = (policy - live).view(-1, 2) @ torch.tensor([1.0, -1.0])
        agree = margins.sign() * (examples.value - 0.5).sign()
        return float((agree + 1).mean() / 2)


def outcomes(settings: LearnerSettings, optimisers: Sequence[str]) -> Iterator[Outcome]:
    """A dry run of each of some optimisers, one after the other, on the same votes. Raises as `DryRun.run`.

    Adapters for rollouts lie in the service's data folder while a run lasts: an engine finds them there.
    """
    engine = EngineClient(settings.engine, thoughts=thoughts_of(Path(settings.model)))
    with (
        closing(engine),
        tempfile.TemporaryDirectory(prefix="dry-run-", dir=settings.data) as scratch,
        closing(_open(settings, Path(scratch))) as log,
    ):
        seen = DryLog(log)
        for number, name in enumerate(optimisers):
            own = dataclasses.replace(
                settings, data=_folder(settings, Path(scratch) / str(number)), optimiser=name
            )
            registry, model = registry_of(settings), SharedModel.of(own)
            dry = DryRun(own, seen, engine, registry, model, LearnerMetrics())
            with closing(dry.memory):
                yield dry.run()


def _open(settings: LearnerSettings, scratch: Path) -> EventLog:
    """The service's log. What a broker's reader keeps of its own lies in the scratch folder."""
    return open_log(settings.data if settings.kafka is None else scratch, settings.kafka, "dry-run")


def _folder(settings: LearnerSettings, folder: Path) -> Path:
    """A data folder, but for the log, in which the service's texts can be opened."""
    folder.mkdir()
    for part in SEALED_WITH:
        (folder / part).symlink_to(settings.data / part)
    return folder
