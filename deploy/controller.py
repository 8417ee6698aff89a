"""The release controller: a loop that reads the log, lets pure functions decide, and appends the decisions.

It holds no state of its own. What it knows is the fold of the `releases` topic, and of the completions and
votes since the cursor in the newest state; a controller that dies between any two lines is continued by the
next one.
"""

import hashlib
import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import start_http_server

from deploy import release
from deploy.drain import Drain
from deploy.engine import EngineClient
from deploy.fleet import Fleet, Problem
from deploy.gate import verdict
from deploy.guardrails import Failure
from deploy.leases import held
from deploy.metrics import ControllerMetrics
from deploy.observation import Observation
from deploy.registry import Registry, RegistryError, seq_of
from deploy.releases import Candidate, Decision, History, decision_of, entry, parse
from deploy.settings import ControllerSettings
from deploy.stages import ReleaseState, Step
from feedback.events import BASE, COMPLETIONS, FEEDBACK, RELEASES
from feedback.files import Held, only_one
from feedback.log import Cursor, EventLog, LogError, Record
from feedback.opening import open_log, open_shared
from feedback.secret import load_secret
from feedback.shared import SharedStore

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
        shared: SharedStore,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._log = log
        self._registry = registry
        self._fleet = fleet
        self._settings = settings
        self._rules = settings.release_rules
        self._metrics = metrics
        self._shared = shared
        self._clock = clock
        self._history: History | None = None  # None until the topic was replayed
        self._releases_cursor: dict[str, int] = {}
        self._arrived: list[Record] = []  # before that cursor, and not taken in yet
        self._unconfirmed: deque[Decision] = deque()  # appended by us, not read back yet
        self._observation: Observation | None = None
        self._cursor: dict[str, int] = {}
        self._tended_at = float("-inf")
        self._drain = Drain(settings.drain_seconds, settings.longest_answer_seconds)
        self._rejected: set[tuple[str, str]] = set()  # (version, engine) that a decision told of

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
        self._metrics.losses.show(self._log)

    def wait(self, seconds: float) -> None:
        """Wait for the next candidate or command, at most `seconds`. Raises `LogError`."""
        if not self._arrived:
            self._arrived, self._releases_cursor = self._log.read(
                [RELEASES], self._releases_cursor, wait_seconds=seconds
            )

    # -- the log ----------------------------------------------------------------------------------------

    def _follow(self, now: float) -> None:
        """Take in what is new on the topic; the first time, all of it."""
        if self._history is None:
            self._replay()
        records, self._arrived = self._arrived, []
        if not records:
            records, self._releases_cursor = self._log.read([RELEASES], self._releases_cursor)
        for record in records:
            if not self._take(record):
                logger.error("another controller writes to this log: going on from what the log says")
                self._replay()
                break
        if self._history is not None and self._history.state is None:
            first = next((v for v in self._registry.versions() if seq_of(v) == 0), BASE)
            self._decide(release.begin(now, first), now)

    def _replay(self) -> None:
        """Rebuild everything from the log."""
        self._history, self._releases_cursor, self._arrived = None, {}, []
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
        for version in sorted(step.state.table.adapters - before.table.adapters):
            self._fleet.prepare(version, now)  # no table names what no engine has; mostly it has it already
        number = self._history.number + 1
        decision = decision_of(step, before, number, now, answers=answers, cursor=self._cursor)
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
        misfit = self._misfit(version)
        if misfit is not None:
            self._decide(release.refuse(self.state, version, misfit), now)
            return
        self._fleet.look()
        problems = self._fleet.prepare(version, now)
        parity = self._fleet.parity_of(version)
        if problems:
            self._decide(release.refuse(self.state, version, problems[0].sentence, problems[0].numbers), now)
        elif parity is not None:  # None: no engine answers, it waits for one
            cursor = self._log.end(EVIDENCE_TOPICS, wait_seconds=self._settings.poll_seconds)
            self._decide(release.start(self.state, self._rules, now, cursor, parity), now)

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
            self._log.release_hold("controller")  # the next observation begins where the log ends then
        elif self._observation is None or self._observation.stage_epoch != self.state.first_epoch:
            self._observation = Observation(self.state, self._settings, self._bury)
            self._cursor = dict(self.state.cursor)
            self._log.hold("controller", self._cursor)
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

    def _bury(self, record: Record, reason: str) -> None:
        self._metrics.dead_letters.inc()
        self._log.bury("controller", record, reason)

    # -- engines ----------------------------------------------------------------------------------------

    def _tend(self, now: float) -> None:
        """See that every engine has what the table names, and nothing that nobody needs any more."""
        if now - self._tended_at < ENGINE_SECONDS:
            return
        self._tended_at = now
        self._fleet.look()
        used = self.state.table.adapters | {v for v in self.state.lives[-2:] if v != BASE}
        for version in sorted(used):
            self._report(version, self._fleet.prepare(version, now), now)
        used = used | self.state.table.adapters | ({self.state.waiting} if self.state.waiting else set())
        spare = self._fleet.versions - used
        leased = held(self._shared) if spare else None
        self._fleet.unload(self._drain.due(spare, used, leased, now))
        self._metrics.show_engines(self._fleet)

    def _report(self, version: str, problems: list[Problem], now: float) -> None:
        """Decide what follows from the engines that do not have a version in use; once for each of them."""
        rejected = {(version, problem.engine) for problem in problems}
        fresh = [p for p in problems if (version, p.engine) not in self._rejected]
        self._rejected = {r for r in self._rejected if r[0] != version} | rejected
        for problem in fresh:
            if self.state.stage == "canary" and version == self.state.table.canary:
                failure = Failure(PARITY, problem.sentence, problem.numbers)
                self._decide(release.fail(self.state, failure, now), now)
                return
            self._decide(release.reject(self.state, version, problem.sentence, problem.numbers), now)


def _reached(cursor: Cursor, end: Cursor) -> bool:
    return all(cursor.get(partition, 0) >= offset for partition, offset in end.items())


class AlreadyRunning(Exception):
    """Another controller runs on this data folder."""


@contextmanager
def _alone(data: Path) -> Iterator[None]:
    """Hold the folder's controller lock. Raises `AlreadyRunning`."""
    try:
        with only_one(data / "controller.lock"):
            yield
    except Held as held:
        raise AlreadyRunning(
            f"another controller runs on {data} (process {held.holder}); stop it first"
        ) from None


def _own_name(data: Path) -> str:
    """Six hexadecimal digits of a folder's controllers: one that follows a dead one tidies up for it."""
    return hashlib.sha256(load_secret(data / "controller.id")).hexdigest()[:6]


def run(settings: ControllerSettings) -> None:
    """Run until SIGTERM or SIGINT. Raises `AlreadyRunning`, and `LogUnavailable` where it cannot write."""
    stop = threading.Event()
    with _alone(settings.data):
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: stop.set())
        log = open_log(settings.data, settings.kafka, "controller")
        shared = open_shared(settings.data, settings.redis)
        registry = Registry(settings.data / "adapters")
        clients = [EngineClient(url, ENGINE_TIMEOUT_SECONDS) for url in settings.engines]
        fleet = Fleet(clients, registry, settings.parity_limits, _own_name(settings.data))
        metrics = ControllerMetrics(settings)
        server, _ = start_http_server(settings.metrics_port, settings.metrics_host, metrics.registry)
        controller = Controller(log, registry, fleet, settings, metrics, shared)
        try:
            while not stop.is_set():
                try:
                    controller.tick()
                    controller.wait(settings.poll_seconds)
                except LogError as error:
                    logger.warning("the log is away, trying again: %s", error)
                    stop.wait(settings.poll_seconds)
        finally:
            server.shutdown()
            server.server_close()
            fleet.close()
            shared.close()
            log.close()
