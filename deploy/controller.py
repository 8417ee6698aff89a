"""The release controller: a loop that reads the log, lets pure functions decide, and appends the decisions.

It holds no state of its own. What it knows is the fold of the `releases` topic, and of the completions and
votes since the cursor in the newest state; a controller that dies between any two lines is continued by the
next one. Of several that run, one leads (deploy/leading.py). The others read what it reads, so that each
could go on at once, and touch nothing.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from deploy import operators, release
from deploy.drain import Drain
from deploy.fleet import Fleet
from deploy.gate import verdict
from deploy.leading import Leadership
from deploy.metrics import ControllerMetrics
from deploy.notices import Notices
from deploy.observation import Observation
from deploy.operators import Grounds, promotes
from deploy.pinning import obstacle
from deploy.quarantine import refusal
from deploy.recorded import judging
from deploy.registry import Registry, RegistryError, seq_of
from deploy.releases import Basis, Candidate, Command, Decision, decision_of
from deploy.running import seen, written
from deploy.settings import ControllerSettings
from deploy.signing import sign, signing_key
from deploy.stages import ReleaseState, Step
from deploy.tending import Tending
from deploy.topic import Overtaken, Topic
from feedback.events import BASE, COMPLETIONS, FEEDBACK
from feedback.log import EventLog, Record, reached
from feedback.shared import SharedStore

logger = logging.getLogger(__name__)

READS_PER_TICK = 20
"""So that an operator's command does not wait for a long catching up."""

EVIDENCE_TOPICS = (COMPLETIONS, FEEDBACK)


class Controller:
    """One tick reads what is new, decides what is due and tends the engines. A controller that does not lead
    only reads. `clock`: Unix time in seconds. `secret`: the service's, which signs decisions.

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
        self._observation: Observation | None = None
        self._cursor: dict[str, int] = {}
        self._is_read = False  # whether that is the end of the log, as far as it was known in this round
        drain = Drain(settings.drain_seconds, settings.longest_answer_seconds)
        self._tending = Tending(fleet, drain, shared, metrics, self._decided)
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
        self._metrics.show(self.leads, self._history.state, self._observation)
        self._metrics.losses.show(self._log)

    def _lead(self, now: float) -> None:
        if self._topic.pending is None:  # else it may count yet, and nothing can be decided on top of it
            if self._history.state is None:
                first = next((v for v in self._registry.versions() if seq_of(v) == 0), BASE)
                self._decide(release.begin(now, first), now)
            self._obey(now)
            self._consider(now)
            self._judge(now)
            self._tell(now)
        if self._history.state is not None:
            self._tending.tend(self.state, now, may_decide=self._topic.pending is None)
        if self._topic.pending is None:
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
        if self._observation is not None:
            self._observe(self._observation)

    def wait(self, seconds: float) -> None:
        """Wait for the next candidate or command, at most `seconds`. Raises `LogError`."""
        self._topic.wait(seconds)

    # -- deciding ---------------------------------------------------------------------------------------

    def _decide(
        self, step: Step, now: float, *, answers: str | None = None, command: Command | None = None
    ) -> None:
        """Make a step durable, and go on from it. Raises as `Topic.append` does."""
        before, last = self._history.state or ReleaseState(), self._history.reached
        for version in sorted(step.state.table.adapters - before.table.adapters):
            self._fleet.bring(version, now)  # no table names what no engine has; mostly it has it already
        fence = self._leadership.fence(last.fence)
        if fence is None or fence != self._fence:
            raise Overtaken(f"the lease was lost before decision {last.number + 1}")
        number = last.number + 1
        decision = decision_of(
            step, before, number, now, answers=answers, command=command, basis=self._basis(), fence=fence,
            previous=self._history.digest,
        )  # fmt: skip
        self._topic.append(decision if self._key is None else sign(decision, self._key))
        self._resume_observing()

    def _basis(self) -> Basis:
        digests = {} if self._observation is None else self._observation.digests.told()
        return Basis(self._cursor, digests, self._recorded)

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
        if self.state.stage == "canary" and promotes(self.state, command) and self._observation is not None:
            if not self._observe(self._observation):
                return None
            known = self._observation.known(self.state, self._cursor)
        if command.action != "pin" or version is None:
            return Grounds(self._rules, now, known)
        found, digest = obstacle(self._registry, self._fleet, self.state, version, now)
        return Grounds(self._rules, now, known, found, digest)

    def _consider(self, now: float) -> None:
        """Give every new candidate its gate verdict; the newest that passes waits for its canary."""
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
        """Load and probe the waiting candidate on the engines, and only then name it in a table."""
        version = self.state.waiting
        if version is None or not release.may_start(self.state, self._rules, now):
            return
        misfit = self._misfit(version)
        if misfit is not None:
            self._decide(release.refuse(self.state, version, misfit), now)
            return
        self._fleet.look()
        standing = self._fleet.standing(version, self._fleet.prepare(version, now))
        if standing.at_work:
            return  # with a large adapter, for example
        problem = refusal(standing, self.state.quarantined)
        parity = self._fleet.parity_of(version)
        if problem is not None:
            self._decide(release.refuse(self.state, version, problem.sentence, problem.numbers), now)
        elif parity is not None:  # None: no engine that answers proves it, it waits for one
            cursor = self._log.end(EVIDENCE_TOPICS, wait_seconds=self._settings.poll_seconds)
            length = self._registry.manifest(version, self.state.manifests.get(version)).gate.length_ratio
            step = release.start(self.state, self._rules, now, cursor, parity, length)
            rules = written(self._settings.evidence_rules)  # for who counts the evidence anew
            self._decide(replace(step, numbers=step.numbers | rules), now)

    def _misfit(self, version: str) -> str | None:
        live, known = self.state.table.live, self.state.manifests
        try:
            live_manifest = None if live == BASE else self._registry.manifest(live, known.get(live))
            return release.misfit(self._registry.manifest(version, known.get(version)), live, live_manifest)
        except RegistryError as error:
            return str(error)

    # -- the running release ----------------------------------------------------------------------------

    def _resume_observing(self) -> None:
        """Observe what the state says, from the beginning of its stage."""
        if self._history.state is None or self._history.state is self._observed:
            return
        self._observed = self.state
        self._fleet.manifests = self.state.manifests
        if self.state.stage == "idle":
            self._observation = None
            self._log.release_hold("controller")  # the next observation begins where the log ends then
        elif self._observation is None or self._observation.stage_epoch != self.state.first_epoch:
            self._observation = Observation(self.state, self._settings, self._bury)
            self._cursor = dict(self.state.cursor)
            self._log.hold("controller", self._cursor)

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
            if reached(self._cursor, end):
                break
            records, self._cursor = self._log.read(EVIDENCE_TOPICS, self._cursor)
            observation.feed(records)
        self._is_read = reached(self._cursor, end)
        return self._is_read

    def _tell(self, now: float) -> None:
        """Tell who asks gateways why the release stands where it does."""
        number = self._history.reached.number
        if not self._notices.are_due(number, now):
            return
        found, rules = None, self._settings.evidence_rules
        if self._observation is not None:
            found = seen(self._observation, self.state, self._cursor, rules, complete=self._is_read)
        self._notices.tell(self.state, number, found, self._rules, now)

    def _bury(self, record: Record, reason: str) -> None:
        self._metrics.dead_letters.inc()
        self._log.bury("controller", record, reason)
