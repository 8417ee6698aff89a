"""Checking decisions afterwards: the log, replayed with the same settings, must give the same verdicts."""

from collections.abc import Sequence

from deploy import anchor, release
from deploy.evidence_reader import TOPICS
from deploy.observation import Observation
from deploy.quarantine import PARITY
from deploy.releases import Decision, read_history
from deploy.settings import ControllerSettings
from deploy.stages import Outcome, ReleaseState
from deploy.standing import StandingTest, standing_test
from feedback.log import Cursor, EventLog

JUDGED: frozenset[Outcome] = frozenset(
    {"raised", "promoted", "harmful", "guardrail", "inconclusive", "finished"}
)
"""The outcomes that follow from completions and votes, not from an operator, an engine or a manifest."""


def audit(log: EventLog, settings: ControllerSettings) -> list[str]:
    """One line for each judged decision that a replay does not confirm. Reads the whole log."""
    decisions: Sequence[Decision] = read_history(log, remembered=1_000_000).decisions
    differences = []
    for previous, decision in zip(decisions, list(decisions)[1:], strict=False):
        if decision.outcome not in JUDGED or decision.action is not None:
            continue  # it did not follow from the log, or an operator decided it
        if decision.numbers.get("guardrail") != PARITY:
            again = judge_again(log, settings, previous.state, decision)
            if again != (decision.outcome, decision.sentence):
                differences.append(
                    f"decision {decision.number} was {decision.sentence!r}, a replay gives {again}"
                )
    return differences


def judge_again(
    log: EventLog, settings: ControllerSettings, before: ReleaseState, decision: Decision
) -> tuple[Outcome, str] | None:
    """Outcome and sentence from what the log held when the decision was made; None: nothing was due."""
    if "anchor" in decision.numbers:
        return _judge_standing_again(log, settings, before, decision)
    observation = Observation(before, settings)
    _feed(log, observation, before.cursor, decision.cursor)
    known = observation.known(before, decision.cursor)
    step = release.judge(before, settings.release_rules, known, decision.at)
    return None if step is None else (step.outcome, step.sentence)


def _judge_standing_again(
    log: EventLog, settings: ControllerSettings, before: ReleaseState, decision: Decision
) -> tuple[Outcome, str] | None:
    test = standing_test(before, settings.evidence_rules)
    if test is None:
        return None
    _feed(log, test, test.standing.cursor, decision.cursor)
    steps = anchor.judge(before, settings.release_rules, test.reading(), decision.at)
    return (steps[0].outcome, steps[0].sentence) if steps else None


def _feed(log: EventLog, observation: Observation | StandingTest, start: Cursor, stop: Cursor) -> None:
    cursor = dict(start)
    while any(cursor.get(partition, 0) < offset for partition, offset in stop.items()):
        records, cursor = log.read(TOPICS, cursor, wait_seconds=1.0)
        observation.feed(r for r in records if r.offset < stop.get(f"{r.topic}/{r.partition}", 0))
