"""The way of the candidate that waits to its first users: proven on an engine, shadowed, then a canary."""

from dataclasses import replace

from deploy.controller.shadow_metrics import ShadowMetrics
from deploy.controller.tending import ENGINE_SECONDS
from deploy.decide import release, shadow
from deploy.engines.fleet import Fleet
from deploy.engines.parity import Parity
from deploy.engines.quarantine import refusal
from deploy.evidence.reader import TOPICS
from deploy.history.shadowed import Shadows
from deploy.history.states import ReleaseState, Step
from deploy.registry.errors import RegistryError
from deploy.registry.registry import Registry
from deploy.reports.running import written
from deploy.settings import ControllerSettings
from feedback.core.events import BASE
from feedback.core.log import EventLog


class Starting:
    """Says what is due for the candidate that waits. It loads and probes it; it decides nothing."""

    def __init__(
        self,
        log: EventLog,
        registry: Registry,
        fleet: Fleet,
        settings: ControllerSettings,
        metrics: ShadowMetrics,
    ) -> None:
        self._log, self._registry, self._fleet = log, registry, fleet
        self._settings, self._metrics = settings, metrics
        self._rules = settings.release_rules
        self._prepared_at = float("-inf")

    def due(self, state: ReleaseState, shadows: Shadows, now: float) -> Step | None:
        """The next step of the candidate that waits; None where there is none, or it is not its turn.

        Raises `RegistryAway`, and `LogUnavailable` where the log's end is not known.
        """
        version = state.waiting
        if version is None or not release.may_start(state, self._rules, now):
            return None
        if self._is_shadowed(state, shadows, now):
            return None
        misfit = self._misfit(state, version)
        if misfit is not None:
            return release.refuse(state, version, misfit)
        self._fleet.look()
        standing = self._fleet.standing(version, self._fleet.prepare(version, now))
        if standing.at_work:
            return None  # with a large adapter, for example
        problem = refusal(standing, state.quarantined)
        if problem is not None:
            return release.refuse(state, version, problem.sentence, problem.numbers)
        parity = self._fleet.parity_of(version)
        if parity is None:  # no engine that answers proves it, it waits for one
            return None
        return self._shadowed(state, version, parity, shadows, now)

    def _shadowed(
        self, state: ReleaseState, version: str, parity: Parity, shadows: Shadows, now: float
    ) -> Step | None:
        """What is due for a version that an engine has proven."""
        rules, limits = self._rules, self._settings.answers
        length = self._registry.manifest(version, state.manifests.get(version)).gate.length_ratio
        if not rules.shadow_prompts:
            return self._start(state, parity, length, now)
        if state.shadow is None:
            return shadow.begin(state, rules, limits, now, length)
        found = shadow.judge(state.shadow, shadows.pairs, limits, self._settings.guardrails)
        self._metrics.show(found.guards)
        if found.problem is not None:
            return release.refuse(state, version, found.problem, found.numbers)
        start = self._start(state, parity, length, now)
        sentence = f"{start.sentence} {found.told}." if found.told else start.sentence
        return replace(start, sentence=sentence, numbers=start.numbers | found.numbers)

    def _is_shadowed(self, state: ReleaseState, shadows: Shadows, now: float) -> bool:
        """Whether a shadow goes on. Engines that were restarted meanwhile get its candidate again."""
        current = state.shadow
        if current is None or current.live != state.table.live:
            return False
        if shadow.is_over(current, len(shadows.pairs), self._rules, now):
            return False
        if abs(now - self._prepared_at) >= ENGINE_SECONDS:
            self._prepared_at = now
            self._fleet.prepare(current.version, now)
        return True

    def _start(self, state: ReleaseState, parity: Parity, length: float | None, now: float) -> Step:
        cursor = self._log.end(TOPICS, wait_seconds=self._settings.poll_seconds)
        step = release.start(state, self._rules, now, cursor, parity, length)
        rules = written(self._settings.evidence_rules)  # for who counts the evidence anew
        return replace(step, numbers=step.numbers | rules)

    def _misfit(self, state: ReleaseState, version: str) -> str | None:
        live, known = state.table.live, state.manifests
        try:
            live_manifest = None if live == BASE else self._registry.manifest(live, known.get(live))
            return release.misfit(self._registry.manifest(version, known.get(version)), live, live_manifest)
        except RegistryError as error:
            return str(error)
