"""Engines get what tables name and lose what nobody needs; decisions follow where they cannot serve it."""

from collections.abc import Callable

from deploy.controller.metrics import ControllerMetrics
from deploy.decide import anchor, engine_steps, release
from deploy.engines.drain import Drain
from deploy.engines.fleet import Fleet
from deploy.engines.one_engine import Problem
from deploy.engines.quarantine import PARITY, Standing, is_lost
from deploy.evidence.comparing import Failure
from deploy.history.leases import held
from deploy.history.states import ReleaseState, Step
from feedback.core.events import BASE
from feedback.shared import SharedStore

ENGINE_SECONDS = 1.0
"""How often engines are asked what they serve."""

Decide = Callable[[Step, float], ReleaseState]
"""Makes a step durable and gives the state after it."""


class Tending:
    """What the controller does about engines. `decide` raises as `Topic.append` does."""

    def __init__(
        self, fleet: Fleet, drain: Drain, shared: SharedStore, metrics: ControllerMetrics, decide: Decide
    ) -> None:
        self._fleet = fleet
        self._drain = drain
        self._shared = shared
        self._metrics = metrics
        self._decide = decide
        self._tended_at = float("-inf")
        self._told: set[tuple[str, str]] | None = None  # (version, engine) that a decision told of
        self._unserved_since: dict[str, float] = {}  # versions in use that no engine has

    def tend(self, state: ReleaseState, now: float, *, may_decide: bool) -> None:
        """See that every engine has what the table names, and nothing that nobody needs any more."""
        if now - self._tended_at < ENGINE_SECONDS:
            return
        self._tended_at = now
        self._fleet.look()
        used = in_use(state)
        standings = {version: self._standing(version, now) for version in sorted(used)}
        self._unserved_since = {
            v: self._unserved_since.get(v, now) for v, standing in standings.items() if not standing.proven
        }
        if may_decide:
            state = self._tell(state, standings, now)
            state = self._replace_what_is_lost(state, standings, now)
        used = used | in_use(state) | ({state.waiting} if state.waiting else set())
        spare = self._fleet.versions - used
        leased = held(self._shared) if spare else None
        self._fleet.unload(self._drain.due(spare, used, leased, now))
        self._metrics.show_engines(self._fleet, state.quarantined)

    def _standing(self, version: str, now: float) -> Standing:
        return self._fleet.standing(version, self._fleet.prepare(version, now))

    def _tell(self, state: ReleaseState, standings: dict[str, Standing], now: float) -> ReleaseState:
        """Put engines into quarantine, once for each version that they cannot prove, and let them out."""
        found = [(version, p) for version, s in standings.items() for p in s.problems]
        problems = {(version, p.engine): p for version, p in found if p.kind != "away"}
        if self._told is None:  # a controller that has just begun: the state says whom it was told of
            self._told = {told for told in problems if told[1] in state.quarantined}
        for (version, engine), problem in problems.items():
            if (version, engine) not in self._told and not self._is_trial(state, version, standings, now):
                at_fault = None if problem.kind == "files" else engine
                step = engine_steps.reject(
                    state, version, problem.sentence, problem.numbers, quarantine=at_fault
                )
                state = self._decide(step, now)
        self._told = set(problems)
        troubled = {engine for _, engine in problems}
        for engine in state.quarantined:
            if engine not in troubled and self._fleet.proves(engine, standings):
                state = self._decide(engine_steps.restore(state, engine), now)
        return state

    def _is_trial(
        self, state: ReleaseState, version: str, standings: dict[str, Standing], now: float
    ) -> bool:
        """Whether a version is a canary that no engine serves: it is rolled back, and no engine is blamed."""
        is_canary = state.stage == "canary" and version == state.table.canary
        return is_canary and self._is_lost(version, standings, now)

    def _is_lost(self, version: str, standings: dict[str, Standing], now: float) -> bool:
        standing = standings.get(version)
        since = self._unserved_since.get(version, now)
        return standing is not None and is_lost(standing, now - since)

    def _replace_what_is_lost(
        self, state: ReleaseState, standings: dict[str, Standing], now: float
    ) -> ReleaseState:
        """Roll back what no engine can serve: a canary, and live, for the newest version that one can. An
        anchor is done without."""
        lost = {v: s.problems[0] for v, s in standings.items() if self._is_lost(v, standings, now)}
        live, canary = state.table.live, state.table.canary
        trouble = lost.get(canary or "") or lost.get(live)
        if state.stage == "canary" and trouble is not None:
            state = self._decide(release.fail(state, _failure(trouble), now), now)
        unserved = lost.get(state.table.anchor or "")
        if unserved is not None:
            state = self._decide(anchor.give_up(state, unserved.sentence, unserved.numbers), now)
        if live in lost:
            back = next((v for v in reversed(state.lives[:-1]) if v == BASE or self._brings(v, now)), BASE)
            state = self._decide(engine_steps.fall_back(state, back, _failure(lost[live]), now), now)
        return state

    def _brings(self, version: str, now: float) -> bool:
        return self._fleet.bring(version, now)


def in_use(state: ReleaseState) -> set[str]:
    """The versions that engines must have: of the table, live, and the one before it for a rollback."""
    return state.table.adapters | {version for version in state.lives[-2:] if version != BASE}


def _failure(problem: Problem) -> Failure:
    return Failure(PARITY, problem.sentence, problem.numbers)
