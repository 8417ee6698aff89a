"""What `hearken status` tells: a summary of the release history for people."""

from typing import TYPE_CHECKING, Any

from deploy.history.releases import Decision, History
from deploy.history.states import Shadow
from deploy.registry.versions import seq_of

if TYPE_CHECKING:  # it needs the evidence and so numpy, which no gateway loads
    from deploy.reports.running import Running


def summary(history: History, decisions: int = 5, found: "Running | None" = None) -> dict[str, Any]:
    """Where releases stand, as JSON types; the last decisions newest first. Times are Unix time in seconds.

    found: the evidence of the release that is under way, and what its guardrails say. Before a controller
    ever ran, `stage` is None and the rest is empty.
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
        "anchor": state.table.anchor,
        "anchor_weight": state.table.anchor_weight,
        "table_epoch": state.table.epoch,
        "since": state.entered_at,
        "waiting": state.waiting,
        "shadow": None if state.shadow is None else _shadow(state.shadow, len(history.shadows.pairs)),
        "paused": state.paused,
        "frozen": state.frozen,
        "pinned": state.pinned,
        "evidence": None if found is None else found.told(state.stage),
        "guardrails": {} if found is None else dict(found.guardrails),
        "quarantined": list(state.quarantined),
        "unanswered": [event.event_id for event in [*history.commands, *history.candidates]],
        "decisions": [told(decision) for decision in recent],
    }


def _shadow(shadow: Shadow, prompts: int) -> dict[str, Any]:
    """The candidate that is shadowed, and how many prompts it has answered of those that it is judged by."""
    return {"version": shadow.version, "since": shadow.began_at, "prompts": prompts, "of": shadow.prompts}


def told(decision: Decision) -> dict[str, Any]:
    """A decision as JSON types, for people and their programs. action, who and reason: of the operator who
    asked for it; None where nobody did."""
    return {
        "number": decision.number,
        "at": decision.at,
        "outcome": decision.outcome,
        "version": decision.version,
        "live": decision.state.table.live,
        "stage": decision.stage_after,
        "sentence": decision.sentence,
        "numbers": decision.numbers,
        "action": decision.action,
        "who": decision.who or None,
        "reason": decision.reason or None,
    }
