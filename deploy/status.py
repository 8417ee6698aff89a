"""What `hearken status` tells: a summary of the release history for people."""

from typing import Any

from deploy.controller import EVIDENCE_TOPICS
from deploy.observation import Observation
from deploy.registry import seq_of
from deploy.releases import History, read_history
from deploy.settings import ControllerSettings
from deploy.stages import ReleaseState
from feedback.log import EventLog
from feedback.replay import replay

NEWEST = 50_000
"""Records of a partition that guardrails are told from: their windows are of the newest users."""


def release_status(
    log: EventLog, settings: ControllerSettings, decisions: int = 5, wait_seconds: float = 30.0
) -> dict[str, Any]:
    """The summary, and as `guardrails` what became of each of them by now: held, failed or not judged yet.

    Raises `LogUnavailable` as `read_history`.
    """
    history = read_history(log, decisions, wait_seconds)
    state = history.state
    watched = {} if state is None else guardrails(log, settings, state, wait_seconds)
    return {**summary(history, decisions), "guardrails": watched}


def guardrails(
    log: EventLog, settings: ControllerSettings, state: ReleaseState, wait_seconds: float = 30.0
) -> dict[str, str]:
    """What became of each guardrail of the running stage; empty while none runs."""
    if state.stage == "idle":
        return {}
    observation = Observation(state, settings)
    end = log.end(EVIDENCE_TOPICS, wait_seconds)
    start = {name: max(state.cursor.get(name, 0), offset - NEWEST) for name, offset in end.items()}
    for records, _ in replay(log, EVIDENCE_TOPICS, start, wait_seconds):
        observation.feed(records)
    return {found.guardrail: found.state for found in observation.guardrails.findings()}


def summary(history: History, decisions: int = 5) -> dict[str, Any]:
    """Where releases stand, as JSON types; the last decisions newest first.

    Before a controller ever ran, `stage` is None and the rest is empty.
    """
    state = history.state
    if state is None:
        return {"stage": None, "live": None, "decisions": []}
    recent = list(history.decisions)[::-1][:decisions]
    return {
        "stage": state.stage,
        "live": state.table.live,
        "live_seq": seq_of(state.table.live),
        "previous": state.lives[-2] if len(state.lives) > 1 else None,
        "canary": state.table.canary,
        "control": state.table.control,
        "weight": state.table.weight,
        "table_epoch": state.table.epoch,
        "since": state.entered_at,
        "waiting": state.waiting,
        "paused": state.paused,
        "quarantined": list(state.quarantined),
        "unanswered": [event.event_id for event in [*history.commands, *history.candidates]],
        "decisions": [
            {
                "at": d.at,
                "outcome": d.outcome,
                "version": d.version,
                "sentence": d.sentence,
                "numbers": d.numbers,
            }
            for d in recent
        ],
    }
