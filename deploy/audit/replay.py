"""Judging releases again: the log, read once more by the settings that decisions recorded, gives the same.

What an operator, an engine or a manifest decided does not follow from completions and votes, and is not
judged again; what votes said when an operator promoted is, and so is what came of a candidate's shadow.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deploy.audit.walking import Missing, NotKept, Walk, counted
from deploy.decide import anchor, release, shadow
from deploy.decide.release import Known
from deploy.engines.quarantine import PARITY
from deploy.evidence.preference import Reading
from deploy.evidence.reader import TOPICS
from deploy.history.releases import Decision, decision_of
from deploy.history.shadowed import Shadowed, Shadows
from deploy.history.states import Outcome, ReleaseState, Step
from deploy.reports.observation import Observation
from deploy.reports.recorded import judging, settings_of
from deploy.reports.standing import StandingTest, begun, is_standing, standing_test
from deploy.settings import ControllerSettings
from feedback.core.log import EventLog

JUDGED: frozenset[Outcome] = frozenset(
    {"raised", "promoted", "harmful", "guardrail", "inconclusive", "finished"}
)
"""The outcomes that follow from completions and votes."""

Verdict = Literal["same", "differs", "not kept"]
"""not kept: the records that it rests on are not in the log (any more), so nobody knows."""

COMPARED = ("outcome", "version", "stage_after", "sentence", "numbers", "table", "state")

CLOSE = 1e-9
"""Relative: another machine's arithmetic may differ in the last bits."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """One judged decision, and what judging again came to. why: what differs, or is not there."""

    decision: Decision
    verdict: Verdict
    why: str = ""


def is_judged(decision: Decision) -> bool:
    """Whether a decision followed from what users did with a release, or has numbers that do."""
    by_engines = decision.numbers.get("guardrail") == PARITY
    by_operator = decision.action is not None and decision.outcome != "promoted"
    return decision.outcome in JUDGED and not (by_engines or by_operator or is_standing(decision))


def replayed(
    log: EventLog, otherwise: ControllerSettings, release_id: str | None = None, wait_seconds: float = 30.0
) -> Iterator[Replayed]:
    """Judge every judged decision again, or those of one release.

    otherwise: the settings for decisions of before, which recorded none. Raises `LogError`.
    """
    again, before, shadows = Again(log, otherwise, wait_seconds), ReleaseState(), Shadows()
    for decision, _ in counted(log, wait_seconds, shadows.take):
        if shadow.is_judged(before, decision) and release_id in (None, decision.release_id):
            yield again.judge_shadow(before, decision, shadows.pairs)
        if (is_judged(decision) or is_standing(decision)) and release_id in (None, decision.release_id):
            yield again.judge(before, decision)
        before = decision.state
        shadows.follow(before)


def audit(log: EventLog, settings: ControllerSettings) -> list[str]:
    """One line for each judged decision that a replay does not confirm."""
    return [
        f"decision {each.decision.number} was {each.decision.sentence!r}, a replay differs: {each.why}"
        for each in replayed(log, settings)
        if each.verdict != "same"
    ]


class Again:
    """A second look at what the log held when decisions were made, one stage of a release at a time."""

    def __init__(self, log: EventLog, otherwise: ControllerSettings, wait_seconds: float) -> None:
        self._walk = Walk(log, TOPICS, wait_seconds)
        self._otherwise = judging(otherwise)
        self._seen: tuple[int, dict[str, int], dict[str, Any]] | None = None
        self._fold: Observation | StandingTest | None = None

    def judge(self, before: ReleaseState, decision: Decision) -> Replayed:
        """Judge a decision again that was made in the state `before`."""
        recorded = decision.settings or self._otherwise
        try:
            settings = settings_of(recorded)
        except ValueError as error:
            return Replayed(decision, "differs", f"its settings are none: {error}")
        try:
            fold = self._read(before, decision, recorded, settings)
        except NotKept as why:
            return Replayed(decision, "not kept", str(why))
        except Missing as why:
            return Replayed(decision, "differs", str(why))
        if isinstance(fold, StandingTest):
            step = standing_step(before, settings, fold.reading(), decision)
        else:
            step = step_of(before, settings, fold.known(before, decision.cursor), decision)
        return compared(step, before, decision)

    def judge_shadow(self, before: ReleaseState, decision: Decision, pairs: Sequence[Shadowed]) -> Replayed:
        """Hold the answers of a shadow against live's again, by the settings of the decision after it."""
        try:
            settings = settings_of(decision.settings or self._otherwise)
        except ValueError as error:
            return Replayed(decision, "differs", f"its settings are none: {error}")
        assert before.shadow is not None
        found = shadow.judge(before.shadow, pairs, settings.answers, settings.guardrails)
        then = {name: value for name, value in decision.numbers.items() if name.startswith(shadow.NUMBER)}
        if (found.problem is not None) != (decision.outcome == "refused"):
            return Replayed(decision, "differs", f"its shadow says {found.problem or 'nothing against it'}")
        if _alike(then, found.numbers):
            return Replayed(decision, "same")
        return Replayed(decision, "differs", _difference("numbers", then, found.numbers))

    def _read(
        self,
        before: ReleaseState,
        decision: Decision,
        recorded: dict[str, Any],
        settings: ControllerSettings,
    ) -> Observation | StandingTest:
        """What was known when a decision was made. Raises as `Walk.to` does."""
        start = begun(before, decision)
        if start is None:
            raise Missing("no version was on trial, and live was not tested against another one")
        seen = (*start, recorded)
        fold = self._fold
        if seen != self._seen or fold is None or self._walk.is_beyond(decision.cursor):
            test = standing_test(before, settings.evidence_rules) if is_standing(decision) else None
            fold = self._fold = Observation(before, settings) if test is None else test
            self._walk.begin(start[1])
        self._seen = None  # until all of it was taken in
        for records in self._walk.to(decision.cursor):
            fold.feed(records)
        self._seen = seen
        return fold


def standing_step(
    before: ReleaseState, settings: ControllerSettings, reading: Reading, decision: Decision
) -> Step | None:
    """What follows from the test of live against the anchor."""
    rules, after = settings.release_rules, decision.state.standing
    if decision.outcome == "anchored":
        return None if after is None else anchor.turn(before, rules, decision.at, after.cursor, reading)
    return next(iter(anchor.judge(before, rules, reading, decision.at)), None)


def step_of(
    before: ReleaseState, settings: ControllerSettings, known: Known, decision: Decision
) -> Step | None:
    """What follows from what was known; that an operator promoted follows from their word."""
    rules = settings.release_rules
    if decision.action is not None and before.stage == "canary":
        return release.promotion(before, rules, known, decision.at, decision.sentence)
    return release.judge(before, rules, known, decision.at)


def compared(step: Step | None, before: ReleaseState, decision: Decision) -> Replayed:
    """Whether a step is what was decided."""
    if step is None:
        return Replayed(decision, "differs", "nothing was due")
    then, again = map(_compared, (decision, decision_of(step, before, decision.number, decision.at)))
    other = [name for name in COMPARED if not _alike(then[name], again[name])]
    if not other:
        return Replayed(decision, "same")
    why = "; ".join(_difference(name, then[name], again[name]) for name in other)
    return Replayed(decision, "differs", why)


def _compared(decision: Decision) -> dict[str, Any]:
    return decision.model_dump(mode="json", include=set(COMPARED))


def _difference(name: str, then: Any, again: Any) -> str:
    """What differs, by its names where there are several."""
    if isinstance(then, dict) and isinstance(again, dict):
        other = [key for key in sorted({*then, *again}) if not _alike(then.get(key), again.get(key))]
        return ", ".join(f"{name} {key} was {then.get(key)!r}, is {again.get(key)!r}" for key in other)
    return f"{name} was {then!r}, is {again!r}"


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=CLOSE)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[name], other[name]) for name in one)
    return bool(one == other)
