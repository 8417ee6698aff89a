"""Would other settings have decided otherwise? History, judged anew, up to where it first differs.

A rehearsal knows what users did under the tables that were in force. Where other settings decide otherwise,
users would have been routed otherwise from there on, and nobody knows what they would have said: so a
release is followed up to its first difference and no further.

Decisions are rehearsed where they were made, with all that the log held then. A setting that decides sooner
is found between them, every `SLICE` records: only where the recorded settings decide nothing, as else the
controller had decided there, and so it never looked at that point.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from deploy.audit.replay import Verdict, compared, is_judged, step_of
from deploy.audit.walking import Missing, NotKept, Walk, counted
from deploy.decide import release
from deploy.decide.gate import verdict
from deploy.decide.release import ReleaseRules
from deploy.evidence.preference import Reading, unproven
from deploy.evidence.reader import TOPICS
from deploy.history.releases import Decision
from deploy.history.states import ReleaseState, Step
from deploy.registry.errors import RegistryError
from deploy.registry.registry import Registry
from deploy.reports.observation import Observation
from deploy.reports.recorded import judging, settings_of
from deploy.reports.why import evidence_words
from deploy.settings import ControllerSettings
from feedback.core.log import EventLog, Record

SLICE = 500
"""Records between two looks at a release under way."""

Changes = Mapping[tuple[str, ...], Any]
"""Place of a setting below `controller`, as ("guardrails", "z") -> the value to try."""


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What became of one release, or of one candidate at the gate. at: Unix time of the first difference, or
    of the newest decision that was rehearsed. what: the difference, or why it is not known."""

    version: str
    release_id: str
    at: float
    verdict: Verdict
    what: str = ""


def changed(recorded: Mapping[str, Any], changes: Changes) -> dict[str, Any]:
    """Recorded settings with some of them changed."""
    found = dict(recorded)
    for (name, *rest), value in changes.items():
        found[name] = changed(found.get(name, {}), {tuple(rest): value}) if rest else value
    return found


def rehearse(
    log: EventLog,
    registry: Registry | None,
    changes: Changes,
    otherwise: ControllerSettings,
    since: float,
    wait_seconds: float = 30.0,
) -> Iterator[Rehearsed]:
    """Rehearse every release that began at `since` (Unix seconds) or later, and every candidate's gate.

    registry: with the manifests that a gate is judged by, None where there are none. otherwise: the settings
    for decisions of before, which recorded none. Raises `LogError`, and `ValueError` for settings that
    cannot be beside those that were recorded.
    """
    walk = Walk(log, TOPICS, wait_seconds)
    before, trial = ReleaseState(), None
    for decision, _ in counted(log, wait_seconds):
        recorded = decision.settings or judging(otherwise)
        if decision.at >= since:
            yield from _gate(registry, recorded, changes, decision)
        if trial is not None and before.stage != "idle":
            trial.take(before, recorded, decision)
        if trial is not None and decision.state.stage == "idle":
            yield trial.found
            trial = None
        if decision.outcome == "started" and decision.at >= since:
            trial = _Trial(walk, changes, decision)
        before = decision.state
    if trial is not None:
        yield trial.found


def _gate(
    registry: Registry | None, recorded: dict[str, Any], changes: Changes, decision: Decision
) -> Iterator[Rehearsed]:
    """Whether a candidate's manifest would have been judged otherwise."""
    is_of_gate = any(name == "gate" for name, *_ in changes)
    judged = decision.outcome in ("accepted", "refused") and decision.answers is not None
    if registry is None or not is_of_gate or not judged:
        return
    version = decision.version or ""
    try:
        numbers = registry.manifest(version, decision.state.manifests.get(version)).gate
        then = verdict(numbers, settings_of(recorded).gate)
    except (RegistryError, ValueError):
        return  # it was refused for that, or its files are not here
    now = verdict(numbers, settings_of(changed(recorded, changes)).gate)
    if then.passed != now.passed and then.passed == (decision.outcome == "accepted"):
        what = f"the gate would have {'let it pass' if now.passed else 'refused it'}: {now.sentence}"
        yield Rehearsed(version, "", decision.at, "differs", what)


class _Sides:
    """One stage, observed by the settings of then and by those that are tried."""

    def __init__(self, before: ReleaseState, then: ControllerSettings, now: ControllerSettings) -> None:
        self.settings = now
        self.same = then == now
        self.observation = Observation(before, now)
        self._then = (Observation(before, then), then)

    def sooner(self, before: ReleaseState, records: list[Record]) -> Step | None:
        """What the tried settings decide after some more records, where those of then decide nothing."""
        self.observation.feed(records)
        if self.same:
            return None
        observation, then = self._then
        observation.feed(records)
        at = self.observation.evidence.clock
        if release.judge(before, then.release_rules, observation.known(before, {}), at) is not None:
            return None
        return release.judge(before, self.settings.release_rules, self.observation.known(before, {}), at)


class _Trial:
    """One release, rehearsed from decision to decision."""

    def __init__(self, walk: Walk, changes: Changes, started: Decision) -> None:
        self._walk, self._changes = walk, changes
        self.found = Rehearsed(started.version or "", started.release_id, started.at, "same")
        self._stage: tuple[int, dict[str, int], dict[str, Any]] | None = None
        self._sides: _Sides | None = None

    def take(self, before: ReleaseState, recorded: dict[str, Any], decision: Decision) -> None:
        """Go on to the next decision, unless there was a difference already."""
        if self.found.verdict != "same":
            return
        try:
            self._take(before, recorded, decision)
        except (NotKept, Missing) as why:
            self._end(decision.at, "not kept", str(why))

    def _take(self, before: ReleaseState, recorded: dict[str, Any], decision: Decision) -> None:
        stage, sides = (before.first_epoch, before.cursor, recorded), self._sides
        if stage != self._stage or sides is None or self._walk.is_beyond(decision.cursor):
            try:
                then = settings_of(recorded)
            except ValueError as error:
                self._end(decision.at, "differs", f"decision {decision.number} recorded no settings: {error}")
                return
            sides = _Sides(before, then, settings_of(changed(recorded, self._changes)))
            self._stage, self._sides = stage, sides
            self._walk.begin(before.cursor)
        for records in self._walk.to(decision.cursor):
            for first in range(0, len(records), SLICE):
                step = sides.sooner(before, records[first : first + SLICE])
                if step is not None:
                    at = sides.observation.evidence.clock
                    self._end(at, "differs", f"sooner than decision {decision.number}: {step.sentence}")
                    return
        self._compare(before, sides, decision)

    def _compare(self, before: ReleaseState, sides: _Sides, decision: Decision) -> None:
        """A decision against what the tried settings say of the same records."""
        self._end(decision.at, "same")
        if not is_judged(decision) or (decision.action is not None and not sides.same):
            return  # an operator's, an engine's, or no step of the release: history goes on with it
        known = sides.observation.known(before, decision.cursor)
        step = step_of(before, sides.settings, known, decision)
        if sides.same:
            again = compared(step, before, decision)
            self._end(decision.at, again.verdict, again.why)
        elif step is None:
            what = f"not {decision.outcome} at decision {decision.number}: "
            self._end(decision.at, "differs", what + _so_far(known.reading, sides.settings.release_rules))
        elif (step.outcome, step.state.table) != (decision.outcome, decision.state.table):
            what = f"{step.outcome}, not {decision.outcome} at decision {decision.number}: {step.sentence}"
            self._end(decision.at, "differs", what)

    def _end(self, at: float, verdict: Verdict, what: str = "") -> None:
        self.found = Rehearsed(self.found.version, self.found.release_id, at, verdict, what)


def _so_far(reading: Reading, rules: ReleaseRules) -> str:
    """What votes said, and what they had not shown of what a promotion needs."""
    missing = unproven(reading, rules.promote_bound)
    also = f"; not shown: {', '.join(missing)}" if missing else ""
    return evidence_words(reading, rules.promote_bound, rules.harm_bound) + also
