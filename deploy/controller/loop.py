"""The release controller: a loop that reads the log, lets pure functions decide, and appends the decisions.

It holds no state of its own. What it knows is the fold of the `releases` topic, and of the completions and
votes since the cursor in the newest state; a controller that dies between any two lines is continued by the
next one. Of several that run, one leads (deploy/controller/leading.py). The others read what it reads, so
that each could go on at once, and touch nothing.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from deploy.controller import operators
from deploy.controller.leading import Leadership
from deploy.controller.metrics import ControllerMetrics
from deploy.controller.notices import Notices
from deploy.controller.operators import Grounds, promotes
from deploy.controller.pinning import obstacle
from deploy.controller.starting import Starting
from deploy.controller.tending import Tending
from deploy.decide import anchor, release
from deploy.decide.gate import verdict
from deploy.engines.drain import Drain
from deploy.engines.fleet import Fleet
from deploy.evidence.reader import TOPICS, EvidenceReader, F
from deploy.history.releases import Basis, Candidate, Command, Decision, decision_of
from deploy.history.signing import sign, signing_key
from deploy.history.states import ReleaseState, Step
from deploy.history.topic import Overtaken, Topic
from deploy.registry.errors import RegistryAway, RegistryError
from deploy.registry.registry import Registry
from deploy.registry.versions import seq_of
from deploy.reports.observation import Observation
from deploy.reports.recorded import judging
from deploy.reports.running import seen
from deploy.reports.standing import StandingTest, same, standing_test
from deploy.settings import ControllerSettings
from feedback.core.events import BASE
from feedback.core.log import Cursor, EventLog, Record
from feedback.shared import SharedStore

logger = logging.getLogger(__name__)

STANDING_SECONDS = 5.0
"""How often live is judged against the anchor: what shows after days can wait for seconds, and a look at the
day of a large service takes one."""


class Controller:
    """One tick reads what is new, decides what is due and tends the engines. A controller that does not lead
    only reads. `clock`: Unix time in seconds. `secret`: the service's, which signs decisions.

    `tick` raises `LogError` when the log cannot be read or written, and `RegistryAway` when the registry
    cannot say what a new service begins with; nothing is lost then, tick again.
    """

    def __init__(
        self,
        log: EventLog,
        registry: Registry,
        fleet: Fleet,
        settings: ControllerSettings,
        metrics: ControllerMetrics,
        shared: SharedStore,
        leadership: Leadership,
        clock: Callable[[], float] = time.time,
        secret: bytes | None = None,
    ) -> None:
        self._log = log
        self._registry = registry
        self._fleet = fleet
        self._settings = settings
        self._rules = settings.release_rules
        self._recorded = judging(settings)
        self._key = None if secret is None else signing_key(secret)
        self._metrics = metrics
        self._leadership = leadership
        self._clock = clock
        self._fence: int | None = None  # under which this controller leads; None while it does not
        self._topic = Topic(log, self._count)
        self._history = self._topic.history
        self._observed: ReleaseState | None = None  # the state that the observation was last told
        self._running: EvidenceReader[Observation] | None = None  # the release
        self._standing: EvidenceReader[StandingTest] | None = None  # live against its anchor
        self._standing_judged_at = float("-inf")
        self.is_ready = False  # to judge whatever comes: it has read the log to its end once
        drain = Drain(settings.drain_seconds, settings.longest_answer_seconds)
        self._tending = Tending(fleet, drain, shared, metrics, self._decided)
        self._starting = Starting(log, registry, fleet, settings, metrics.shadow)
        self._notices = Notices(shared)

    @property
    def state(self) -> ReleaseState:
        """Where the release stands. Only after the first tick of a controller that leads."""
        if self._history.state is None:
            raise RuntimeError("there is no state before the first decision")
        return self._history.state

    @property
    def leads(self) -> bool:
        """Whether this controller led in its last round."""
        return self._fence is not None

    def tick(self) -> None:
        """One round."""
        now = self._clock()
        try:
            self._topic.follow()
            leads = self._may_lead()
            self._resume_observing()
            if leads:
                self._lead(now)
            else:
                self._stand_by()
        except Overtaken as why:
            logger.warning("%s: going on from what the log says", why)
        self.is_ready |= all(r is None or r.is_at_end for r in (self._running, self._standing))
        running = None if self._running is None else self._running.fold
        standing = None if self._standing is None else self._standing.fold
        self._metrics.show(self.leads, self._history.state, running, standing)
        self._metrics.shadow.prompts.set(len(self._history.shadows.pairs))
        self._metrics.losses.show(self._log)
        self._metrics.registry_away.set(self._registry.away is not None or self._fleet.waits_for_files)

    def _lead(self, now: float) -> None:
        if self._topic.pending is None:  # else it may count yet, and nothing can be decided on top of it
            if self._history.state is None:
                first = next((v for v in self._registry.versions() if seq_of(v) == 0), BASE)
                self._decide(release.begin(now, first), now)
            self._obey(now)
            self._consider(now)
            self._judge(now)
            self._judge_standing(now)
            self._tell(now)
        if self._history.state is not None:
            self._tending.tend(self.state, now, may_decide=self._topic.pending is None)
        if self._topic.pending is None:
            self._turn_anchor(now)
            with suppress(RegistryAway):  # the candidate waits for it
                self._start_next(now)

    def _may_lead(self) -> bool:
        """Whether this controller decides now. Who has just come to it reads first what others left."""
        fence = self._leadership.fence(self._history.reached.fence)
        if fence is not None and fence != self._fence:
            self._topic.replay()
            fence = self._leadership.fence(self._history.reached.fence)
            if fence:
                logger.info("this controller leads now, with fence %d", fence)
        if fence is None and self._fence is not None:
            logger.warning("this controller does not lead any more")
            self._fleet.forget()
            self._metrics.show_engines(self._fleet, ())
        self._fence = fence
        return fence is not None

    def _stand_by(self) -> None:
        """Know what the leader knows, so that nothing is left to read when it is gone."""
        for reader in (self._running, self._standing):
            if reader is not None:
                reader.read()

    def wait(self, seconds: float) -> None:
        """Wait for the next candidate or command, at most `seconds`. Raises `LogError`."""
        self._topic.wait(seconds)

    # -- deciding ---------------------------------------------------------------------------------------

    def _decide(
        self,
        step: Step,
        now: float,
        *,
        answers: str | None = None,
        command: Command | None = None,
        basis: Basis | None = None,
    ) -> None:
        """Make a step durable, and go on from it. basis: what it rests on; None: on the running release.
        Raises as `Topic.append` does."""
        before, last = self._history.state or ReleaseState(), self._history.reached
        for version in sorted(step.state.table.adapters - before.table.adapters):
            self._fleet.bring(version, now)  # no table names what no engine has; mostly it has it already
        fence = self._leadership.fence(last.fence)
        if fence is None or fence != self._fence:
            raise Overtaken(f"the lease was lost before decision {last.number + 1}")
        number = last.number + 1
        decision = decision_of(
            step,
            before,
            number,
            now,
            answers=answers,
            command=command,
            basis=basis or self._basis(self._running),
            fence=fence,
            previous=self._history.digest,
        )
        self._topic.append(decision if self._key is None else sign(decision, self._key))
        self._resume_observing()

    def _basis(self, reader: EvidenceReader[Any] | None) -> Basis:
        """What was read, and by which settings it is judged."""
        if reader is None:
            return Basis({}, {}, self._recorded)
        return Basis(reader.cursor, reader.digests.told(), self._recorded)

    def _decided(self, step: Step, now: float) -> ReleaseState:
        self._decide(step, now)
        return self.state

    def _count(self, decision: Decision) -> None:
        self._metrics.count(decision.outcome)
        logger.info("%s", decision.sentence)

    # -- operators and candidates -----------------------------------------------------------------------

    def _obey(self, now: float) -> None:
        """Answer every command, in their order.

        A promotion waits until the log was read to its end, for what would refuse it may be there. Other
        commands do not wait for it: a rollback that was asked for later comes first.
        """
        for command in self._history.commands:
            grounds = self._grounds(command, now)
            if grounds is None:
                continue
            steps = operators.obey(self.state, command, grounds)
            for step in steps:
                answers = command.event_id if step is steps[-1] else None
                self._decide(step, now, answers=answers, command=command)

    def _grounds(self, command: Command, now: float) -> Grounds | None:
        """What a command is decided by; None while that is not known."""
        known, version = None, command.version
        if self.state.stage == "canary" and promotes(self.state, command) and self._running is not None:
            if not self._running.read():
                return None
            known = self._running.fold.known(self.state, self._running.cursor)
        if command.action != "pin" or version is None:
            return Grounds(self._rules, now, known)
        found, digest = obstacle(self._registry, self._fleet, self.state, version, now)
        return Grounds(self._rules, now, known, found, digest)

    def _consider(self, now: float) -> None:
        """Give every new candidate its gate verdict; the newest that passes waits for its canary. All wait
        while the registry is away."""
        with suppress(RegistryAway):
            while self._history.candidates:
                self._gate(self._history.candidates[0], now)

    def _gate(self, candidate: Candidate, now: float) -> None:
        try:
            digest = candidate.manifest or self._registry.manifest_digest(candidate.version)
            gate = self._registry.manifest(candidate.version, digest).gate
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
            step = release.accept(self.state, candidate.version, judged.sentence, digest)
        self._decide(step, now, answers=candidate.event_id)

    def _start_next(self, now: float) -> None:
        """Bring the waiting candidate nearer to its first users. Raises `RegistryAway`, before anything is
        decided."""
        step = self._starting.due(self.state, self._history.shadows, now)
        if step is not None:
            self._decide(step, now)

    # -- the running release ----------------------------------------------------------------------------

    def _resume_observing(self) -> None:
        """Observe what the state says, from the beginning of its stage, and of the anchor's period."""
        if self._history.state is None or self._history.state is self._observed:
            return
        self._observed = state = self.state
        self._fleet.manifests = state.manifests
        if state.stage == "idle":
            self._running = None
            self._log.release_hold("controller")  # the next observation begins where the log ends then
        elif self._running is None or self._running.fold.stage_epoch != state.first_epoch:
            observation = Observation(state, self._settings, self._bury)
            self._running = self._read_from("controller", state.cursor, observation)
        if same(None if self._standing is None else self._standing.fold, state):
            return
        test = standing_test(state, self._settings.evidence_rules)
        if test is None:
            self._standing = None
            self._log.release_hold("anchor")
        else:
            self._standing = self._read_from("anchor", test.standing.cursor, test)

    def _read_from(self, name: str, cursor: Cursor, fold: F) -> EvidenceReader[F]:
        return EvidenceReader(self._log, name, cursor, fold, self._settings.poll_seconds)

    def _judge(self, now: float) -> None:
        if self._running is None or not self._running.read():
            return  # no verdict on half of what is known
        known = self._running.fold.known(self.state, self._running.cursor)
        step = release.judge(self.state, self._rules, known, now)
        if step is not None:
            self._decide(step, now)

    def _judge_standing(self, now: float) -> None:
        """Harm of live that shows late."""
        if self._standing is None or not self._standing.read():
            return
        if abs(now - self._standing_judged_at) < STANDING_SECONDS:
            return
        self._standing_judged_at = now
        basis = self._basis(self._standing)
        for step in anchor.judge(self.state, self._rules, self._standing.fold.reading(), now):
            self._decide(step, now, basis=basis)

    def _turn_anchor(self, now: float) -> None:
        """A period of the anchor begins when the one before is over, and read to its end."""
        if not anchor.is_due(self.state, self._rules, now):
            return
        if self._standing is not None and not self._standing.read():
            return
        reading = None if self._standing is None else self._standing.fold.reading()
        cursor = self._log.end(TOPICS, wait_seconds=self._settings.poll_seconds)
        step = anchor.turn(self.state, self._rules, now, cursor, reading)
        self._decide(step, now, basis=self._basis(self._standing))

    def _tell(self, now: float) -> None:
        """Tell who asks gateways why the release stands where it does."""
        number = self._history.reached.number
        if not self._notices.are_due(number, now):
            return
        found, rules = None, self._settings.evidence_rules
        if self._running is not None:
            reader = self._running
            found = seen(reader.fold, self.state, reader.cursor, rules, complete=reader.is_at_end)
        self._notices.tell(self.state, number, found, self._rules, now)

    def _bury(self, record: Record, reason: str) -> None:
        self._metrics.dead_letters.inc()
        self._log.bury("controller", record, reason)
