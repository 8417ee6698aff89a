"""The release controller: a loop that reads the log, lets pure functions decide, and appends the decisions.

It holds no state of its own. What it knows is the fold of the `releases` topic, and of the completions and
votes since the cursor in the newest state; a controller that dies between any two lines is continued by the
next one.
"""

import fcntl
import logging
import os
import signal
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import start_http_server

from deploy import release
from deploy.engine import EngineClient
from deploy.fleet import Fleet
from deploy.gate import verdict
from deploy.guardrails import Failure
from deploy.metrics import ControllerMetrics
from deploy.observation import Observation
from deploy.registry import Registry, RegistryError
from deploy.releases import Candidate, Decision, History, entry, parse
from deploy.settings import ControllerSettings
from deploy.stages import ReleaseState, Step
from feedback.events import BASE, COMPLETIONS, FEEDBACK, RELEASES
from feedback.log import Cursor, EventLog, LogError, Record
from feedback.opening import open_log

logger = logging.getLogger(__name__)

ENGINE_SECONDS = 1.0
"""How often engines are asked what they serve."""

ENGINE_TIMEOUT_SECONDS = 30.0
"""How long an engine that hangs can keep the controller from everything else."""

PARITY = "parity"
"""The guardrail that an engine fails, not the log: its name in a decision's numbers."""

READS_PER_TICK = 20
"""So that an operator's command does not wait for a long catching up."""

EVIDENCE_TOPICS = (COMPLETIONS, FEEDBACK)


class Controller:
    """One tick reads what is new, decides what is due and tends the engines. `clock`: Unix time in seconds.

    `tick` raises `LogError` when the log cannot be read or written; nothing is lost then, tick again.
    """

    def __init__(
        self,
        log: EventLog,
        registry: Registry,
        fleet: Fleet,
        settings: ControllerSettings,
        metrics: ControllerMetrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._log = log
        self._registry = registry
        self._fleet = fleet
        self._settings = settings
        self._rules = settings.release_rules
        self._metrics = metrics
        self._clock = clock
        self._history: History | None = None  # None until the topic was replayed
        self._releases_cursor: dict[str, int] = {}
        self._unconfirmed: deque[Decision] = deque()  # appended by us, not read back yet
        self._observation: Observation | None = None
        self._cursor: dict[str, int] = {}
        self._tended_at = float("-inf")
        self._complaints: dict[str, str] = {}

    @property
    def state(self) -> ReleaseState:
        """Where the release stands. Only after the first tick."""
        if self._history is None or self._history.state is None:
            raise RuntimeError("the controller has no state before its first tick")
        return self._history.state

    def tick(self) -> None:
        """One round."""
        now = self._clock()
        self._follow(now)
        self._obey(now)
        self._consider(now)
        self._judge(now)
        self._tend(now)
        self._start_next(now)
        self._metrics.show(self.state, self._observation)

    # -- the log ----------------------------------------------------------------------------------------

    def _follow(self, now: float) -> None:
        """Take in what is new on the topic; the first time, all of it."""
        if self._history is None:
            self._replay()
        records, self._releases_cursor = self._log.read([RELEASES], self._releases_cursor)
        for record in records:
            if not self._take(record):
                logger.error("another controller writes to this log: going on from what the log says")
                self._replay()
                break
        if self._history is not None and self._history.state is None:
            self._decide(release.begin(now), now)

    def _replay(self) -> None:
        """Rebuild everything from the log."""
        self._history, self._releases_cursor = None, {}
        self._unconfirmed.clear()
        self._observation = None
        end = self._log.end([RELEASES], wait_seconds=ENGINE_TIMEOUT_SECONDS)
        history = History()
        while not _reached(self._releases_cursor, end):
            records, self._releases_cursor = self._log.read(
                [RELEASES], self._releases_cursor, wait_seconds=1.0
            )
            for record in records:
                event = parse(record.value)
                if event is not None:
                    history.apply(event)
        self._history = history
        self._resume_observing()

    def _take(self, record: Record) -> bool:
        """Apply one record. False when the log has another decision where we thought ours would be."""
        assert self._history is not None
        event = parse(record.value)
        if isinstance(event, Decision):
            if self._unconfirmed and event.event_id == self._unconfirmed[0].event_id:
                self._unconfirmed.popleft()
                return True
            if any(event.number == ours.number for ours in self._unconfirmed):
                return False
        if event is not None:
            self._history.apply(event)
        return True

    def _decide(self, step: Step, now: float, *, answers: str | None = None) -> None:
        """Make a step durable, then go on from it."""
        assert self._history is not None
        before = self._history.state or ReleaseState()
        number = self._history.number + 1
        decision = Decision(
            event_id=f"decision-{number}-{uuid.uuid4().hex[:12]}",
            at=now,
            number=number,
            outcome=step.outcome,
            release_id=step.state.release_id,
            stage_before=before.stage,
            stage_after=step.state.stage,
            version=step.version,
            table=step.state.table if step.state.table.epoch != before.table.epoch else None,
            sentence=step.sentence,
            numbers=step.numbers,
            answers=answers,
            cursor=dict(self._cursor),
            state=step.state,
        )
        self._log.append([entry(decision)]).result()
        self._unconfirmed.append(decision)
        self._history.apply(decision)
        self._metrics.count(step.outcome)
        logger.info("%s", step.sentence)
        self._resume_observing()

    # -- operators and candidates -----------------------------------------------------------------------

    def _obey(self, now: float) -> None:
        assert self._history is not None
        for command in self._history.commands:
            step = release.obey(self.state, command.action, command.who, command.reason, now)
            self._decide(step, now, answers=command.event_id)

    def _consider(self, now: float) -> None:
        """Give every new candidate its gate verdict; the newest that passes waits for its canary."""
        assert self._history is not None
        for candidate in self._history.candidates:
            self._gate(candidate, now)

    def _gate(self, candidate: Candidate, now: float) -> None:
        try:
            gate = self._registry.manifest(candidate.version).gate
        except RegistryError as error:
            step = release.refuse(self.state, candidate.version, str(error))
            self._decide(step, now, answers=candidate.event_id)
            return
        judged = verdict(gate, self._settings.gate)
        if not judged.passed:
            step = release.refuse(self.state, candidate.version, judged.sentence)
        else:
            if self.state.waiting is not None:
                self._decide(release.supersede(self.state, candidate.version), now)
            step = release.accept(self.state, candidate.version, judged.sentence)
        self._decide(step, now, answers=candidate.event_id)

    def _start_next(self, now: float) -> None:
        """Load and probe the waiting candidate on the engines, and only then name it in a table."""
        version = self.state.waiting
        if version is None or not release.may_start(self.state, self._rules, now):
            return
        self._fleet.look()
        if not self._fleet.is_up:
            return  # it waits for an engine
        problem = self._misfit(version) or self._fleet.prepare(version)
        parity = self._fleet.parity_of(version)
        if problem is not None:
            self._decide(release.refuse(self.state, version, problem, {"parity_nats": parity}), now)
        elif parity is not None:  # None: the engines went away meanwhile
            cursor = self._log.end(EVIDENCE_TOPICS, wait_seconds=self._settings.poll_seconds)
            self._decide(release.start(self.state, self._rules, now, cursor), now)

    def _misfit(self, version: str) -> str | None:
        live = self.state.table.live
        try:
            live_manifest = None if live == BASE else self._registry.manifest(live)
            return release.misfit(self._registry.manifest(version), live, live_manifest)
        except RegistryError as error:
            return str(error)

    # -- the running release ----------------------------------------------------------------------------

    def _resume_observing(self) -> None:
        """Observe what the state says, from the beginning of its stage."""
        if self._history is None or self._history.state is None or self.state.stage == "idle":
            self._observation = None
        elif self._observation is None or self._observation.stage_epoch != self.state.first_epoch:
            self._observation = Observation(self.state, self._settings)
            self._cursor = dict(self.state.cursor)
        else:
            self._observation.follow(self.state)

    def _judge(self, now: float) -> None:
        if self._observation is None or not self._observe(self._observation):
            return  # no verdict on half of what is known
        step = release.judge(self.state, self._rules, self._observation.known(self.state, self._cursor), now)
        if step is not None:
            self._decide(step, now)

    def _observe(self, observation: Observation) -> bool:
        """Read on. True when everything in the log by now was taken in."""
        end = self._log.end(EVIDENCE_TOPICS, wait_seconds=self._settings.poll_seconds)
        for _ in range(READS_PER_TICK):
            if _reached(self._cursor, end):
                return True
            records, self._cursor = self._log.read(EVIDENCE_TOPICS, self._cursor)
            observation.feed(records)
        return _reached(self._cursor, end)

    # -- engines ----------------------------------------------------------------------------------------

    def _tend(self, now: float) -> None:
        """See that every engine has what the table names, and nothing that is long out of use."""
        if now - self._tended_at < ENGINE_SECONDS:
            return
        self._tended_at = now
        self._fleet.look()
        used = self.state.table.adapters | {v for v in self.state.lives[-2:] if v != BASE}
        for version in sorted(used):
            problem = self._fleet.prepare(version)
            if problem is not None and self.state.stage == "canary" and version == self.state.table.canary:
                self._decide(release.fail(self.state, Failure(PARITY, problem, {}), now), now)
            elif problem is not None and self._complaints.get(version) != problem:
                logger.error("%s is in use, but %s", version, problem)
            self._complaints[version] = problem or ""
        if self.state.waiting is not None:
            used.add(self.state.waiting)
        self._fleet.unload_unused(used, now, self._settings.drain_seconds)
        self._metrics.show_engines(self._fleet)


def _reached(cursor: Cursor, end: Cursor) -> bool:
    return all(cursor.get(partition, 0) >= offset for partition, offset in end.items())


class AlreadyRunning(Exception):
    """Another controller runs on this data folder."""


@contextmanager
def _only_one(data: Path) -> Iterator[None]:
    """Hold the folder's controller lock; the kernel frees it however the process ends."""
    data.mkdir(parents=True, exist_ok=True)
    with (data / "controller.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(f"another controller runs on {data}; stop it first") from None
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def run(settings: ControllerSettings) -> None:
    """Run until SIGTERM or SIGINT. Raises `AlreadyRunning`, and `LogUnavailable` where it cannot write."""
    stop = threading.Event()
    with _only_one(settings.data):
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: stop.set())
        log = open_log(settings.data, settings.kafka, "controller")
        registry = Registry(settings.data / "adapters")
        clients = [EngineClient(url, ENGINE_TIMEOUT_SECONDS) for url in settings.engines]
        fleet = Fleet(clients, registry, settings.parity_tolerance_nats)
        metrics = ControllerMetrics(settings)
        server, _ = start_http_server(settings.metrics_port, settings.metrics_host, metrics.registry)
        controller = Controller(log, registry, fleet, settings, metrics)
        try:
            while not stop.is_set():
                try:
                    controller.tick()
                except LogError as error:
                    logger.warning("the log is away, trying again: %s", error)
                stop.wait(settings.poll_seconds)
        finally:
            server.shutdown()
            server.server_close()
            fleet.close()
            log.close()
