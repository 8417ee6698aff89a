"""The evidence of a release that is under way, read from the log by whoever wants to know.

Decisions tell what the evidence was when they were made. Between two of them only the controller knows it;
this counts it anew, as a controller does that has just started.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from deploy.evidence.guardrails import GuardrailLimits
from deploy.evidence.preference import EvidenceRules, Reading, unproven, votes_needed
from deploy.evidence.reader import TOPICS
from deploy.history.releases import Decision, History
from deploy.history.states import Number, ReleaseState
from deploy.reports.observation import Observation
from deploy.settings import ControllerSettings
from feedback.core.log import Cursor, EventLog, Record, reached

PROOFS = ("not_awful", "no_worse", "no_worse_compared", "voters_alike")
"""By the names of `deploy.evidence.preference.Reading`."""


@dataclass(frozen=True, slots=True)
class Running:
    """reading: of all that was read. guardrails: held, failed or not judged yet, each. complete: False when
    time was up before the log's end. rules: that it goes by. exposed: canary users who were served under the
    table in force. met: since the release began. judged: whether there were users enough for guardrails."""

    reading: Reading
    guardrails: Mapping[str, str]
    complete: bool
    rules: EvidenceRules
    exposed: int = 0
    met: int = 0
    judged: bool = False

    def told(self, stage: str) -> dict[str, Any]:
        """As JSON types. A holdback can only find harm, so it has no bound to promote, and needs no proofs.

        tests: what decides. proofs: what else a promotion or the next step takes, see `unproven`.
        """
        bounds = {"promote": self.rules.promote_bound, "harm": self.rules.harm_bound}
        reading = self.reading
        forward = stage != "holdback" and math.isfinite(self.rules.promote_bound)
        return {
            "complete": self.complete,
            "pairs": reading.pairs,
            "mean_difference": reading.mean_difference,
            "compared": reading.compared,
            "preferred": reading.preferred,
            "tests": {
                test: {"evidence": getattr(reading, test), "bound": bound}
                for test, bound in bounds.items()
                if math.isfinite(bound) and (forward or test != "promote")
            },
            "proofs": {
                name: {"evidence": getattr(reading, name), "bound": self.rules.promote_bound}
                for name in (PROOFS if forward else ())
            },
            "unproven": unproven(reading, self.rules.promote_bound) if forward else [],
            "votes_needed": votes_needed(reading, self.rules.promote_bound) if forward else None,
            "users": {arm: getattr(reading, f"{arm}_users") for arm in ("canary", "control")},
            "values": {arm: getattr(reading, f"{arm}_value") for arm in ("canary", "control")},
        }


def written(rules: EvidenceRules) -> dict[str, Number]:
    """Rules as numbers of the decision that starts a release."""
    return {name: value if math.isfinite(value) else None for name, value in asdict(rules).items()}


def running(
    log: EventLog, history: History, patience_seconds: float, guardrails: GuardrailLimits | None = None
) -> Running | None:
    """The evidence of the release that `history` ends in, and what its guardrails say; None when there is
    none under way.

    Reads for `patience_seconds` at most. Raises `LogError`.
    """
    state = history.state
    if state is None or state.stage == "idle":
        return None
    rules = _rules(history, state)
    limits = guardrails or GuardrailLimits()
    # Nothing but the rules of evidence and the guardrails is asked of these settings.
    settings = ControllerSettings(
        data=Path(), engines=("http://none",), guardrails=limits, rung_users=limits.min_users, **asdict(rules)
    )
    observation, cursor, complete = observed(log, state, settings, patience_seconds)
    return seen(observation, state, cursor, rules, complete=complete)


def observed(
    log: EventLog, state: ReleaseState, settings: ControllerSettings, patience_seconds: float
) -> tuple[Observation, dict[str, int], bool]:
    """All that users did since a state's stage began, how far the log was read, and whether that is its end.

    Reads for `patience_seconds` at most. Raises `LogError`.
    """
    observation = Observation(state, settings)
    cursor, complete = read_on(log, state.cursor, observation.feed, patience_seconds)
    return observation, cursor, complete


def read_on(
    log: EventLog, cursor: Cursor, feed: Callable[[Sequence[Record]], object], patience_seconds: float
) -> tuple[dict[str, int], bool]:
    """Show `feed` the completions and votes from `cursor` to where the log ends now; how far it was read, and
    whether that is the end.

    Reads for `patience_seconds` at most. Raises `LogError`.
    """
    until = time.monotonic() + patience_seconds
    after, end = dict(cursor), log.end(TOPICS, patience_seconds)
    while not reached(after, end) and time.monotonic() < until:
        records, after = log.read(TOPICS, after)
        feed(records)
    return after, reached(after, end)


def seen(
    observation: Observation,
    state: ReleaseState,
    cursor: dict[str, int],
    rules: EvidenceRules,
    *,
    complete: bool,
) -> Running:
    """What an observation that was fed up to `cursor` has come to."""
    known = observation.known(state, cursor)
    guardrails = {each.guardrail: each.state for each in observation.guardrails.findings()}
    return Running(known.reading, guardrails, complete, rules, known.exposed, known.met, known.judged)


def _rules(history: History, state: ReleaseState) -> EvidenceRules:
    """Those that the release was started with; of a controller that did not write them down, the defaults."""
    starts = [d for d in history.decisions if d.outcome == "started" and d.release_id == state.release_id]
    return rules_of(starts[-1]) if starts else EvidenceRules()


def rules_of(started: Decision) -> EvidenceRules:
    """The rules of evidence that are among the numbers of a decision that started a release."""
    known: dict[str, Any] = {}
    for field in fields(EvidenceRules):
        if field.name in started.numbers:
            value = started.numbers[field.name]
            known[field.name] = math.inf if value is None else value
    return EvidenceRules(**known)
