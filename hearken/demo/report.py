"""`--report r.json`: what a run did and achieved, in numbers that can be checked."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.decide.gate import GateLimits, verdict
from deploy.history.releases import Decision
from deploy.registry.registry import Registry
from hearken.base.conversation import shown
from hearken.data.audit import Audit
from hearken.demo.evaluate import Evaluation
from hearken.demo.simulate import Tally
from hearken.story.outcomes import count_outcomes

SAMPLES = 20


@dataclass(frozen=True, slots=True)
class Run:
    """All that a report is made of. `seconds`: how long the simulated users were there."""

    seconds: float
    persona: str
    world: str
    tally: Tally
    decisions: list[Decision]
    evaluation: Evaluation | None  # None: the engine could not be asked
    kl_budget_nats: float
    rollouts_cut_off: float | None  # the share of rollouts that their limit ended, as the learner last told
    audit: Audit | None  # None: the learner has no checkpoint
    votes_in_log: int | None  # None: the log could not be asked


def build(run: Run, registry: Registry) -> dict[str, Any]:
    """The report as JSON types."""
    return {
        "persona": run.persona,
        "world": run.world,
        "seconds": round(run.seconds, 1),
        "chat_requests": run.tally.chat_requests,
        "chat_failures": run.tally.chat_failures,
        "feedback_events": run.tally.feedback_events,
        "feedback_failures": run.tally.feedback_failures,
        "feedback_events_in_log": run.votes_in_log,
        "failures": list(run.tally.failures),
        **count_outcomes(run.decisions),
        **_achieved(run.evaluation),
        "kl_budget_nats": run.kl_budget_nats,
        "rollouts_cut_off": run.rollouts_cut_off,
        **_votes(run.audit),
        "versions": [_version(registry, version, run.decisions) for version in registry.versions()],
        "samples": _samples(run.evaluation),
    }


def write(path: Path, report: dict[str, Any]) -> None:
    """Write the report where `--report` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def summary(report: dict[str, Any]) -> str:
    """The report in a few lines for the terminal."""
    lines = [
        f"persona {report['persona']}: {report['chat_requests']} chats ({report['chat_failures']} failed), "
        f"{report['feedback_events']} votes in {report['seconds']:.0f} s",
        f"  {report['promotions']} promotions, {report['rollbacks']} roll-backs, "
        f"{report['inconclusive']} inconclusive, {report['refused']} refused",
    ]
    if report["true_win_rate"] is not None:
        lines.append(
            f"  {report['live_version']} wins {report['true_win_rate']:.1%} "
            f"(± {report['true_win_rate_standard_error']:.1%}) against the base, by the persona's own taste"
        )
        lines.append(
            f"  its answers have {report['response_tokens_live']:.0f} tokens "
            f"({report['cut_off_live']:.0%} cut off), the base's {report['response_tokens_base']:.0f} "
            f"({report['cut_off_base']:.0%})"
        )
        lines.append(
            f"  KL to base {report['kl_nats_base']:.2f} nats of {report['kl_budget_nats']:g} allowed"
        )
    if report["votes_used_once"] is not None:
        once = "yes" if report["votes_used_once"] else "NO"
        lines.append(
            f"  every vote used exactly once: {once} "
            f"({report['votes_used']} used, {report['votes_to_use']} in the log)"
        )
    return "\n".join(lines)


def _achieved(evaluation: Evaluation | None) -> dict[str, Any]:
    if evaluation is None:
        return {"live_version": None, "true_win_rate": None, "kl_nats_base": None}
    return {
        "live_version": evaluation.version,
        "true_win_rate": round(evaluation.win_rate.mean, 4),
        "true_win_rate_standard_error": round(evaluation.win_rate.standard_error, 4),
        "true_win_rate_prompts": evaluation.win_rate.count,
        "utility_base": round(evaluation.utility_base, 4),
        "utility_live": round(evaluation.utility_live, 4),
        "kl_nats_base": round(evaluation.kl_nats_base.mean, 4),
        "kl_nats_base_standard_error": round(evaluation.kl_nats_base.standard_error, 4),
        "kl_nats_base_responses": evaluation.kl_nats_base.count,
        "response_tokens_base": round(evaluation.tokens_base, 1),
        "response_tokens_live": round(evaluation.tokens_live, 1),
        "cut_off_base": round(evaluation.cut_off_base, 4),
        "cut_off_live": round(evaluation.cut_off_live, 4),
    }


def _votes(audit: Audit | None) -> dict[str, Any]:
    if audit is None:
        return {"votes_used_once": None, "votes_used": 0, "votes_to_use": 0}
    return {
        "votes_used_once": audit.votes_used_once,
        "votes_used": audit.labels_used,
        "votes_to_use": audit.labels_in_log,
    }


def _version(registry: Registry, version: str, decisions: list[Decision]) -> dict[str, Any]:
    """The story of one version: where it came from, what the gate saw, what users said, how it ended."""
    manifest = registry.manifest(version)
    about = [decision for decision in decisions if decision.version == version]
    settled = [decision for decision in about if decision.settled]
    told = settled or about  # what came of it; while nothing did, how far it got
    judged = [decision.numbers for decision in told if "evidence_promote" in decision.numbers]
    evidence = judged[-1] if judged else {}
    return {
        "version": version,
        "seq": manifest.seq,
        "parent": manifest.parent,
        "training": manifest.training,
        "offsets": manifest.offsets,
        "gate": {
            **_finite(manifest.gate.model_dump(mode="json")),
            "verdict": verdict(manifest.gate, GateLimits()).sentence,
        },
        "canary_users": evidence.get("canary_users"),
        "control_users": evidence.get("control_users"),
        "e_values": {
            "promote": evidence.get("evidence_promote"),
            "harm": evidence.get("evidence_harm"),
            "pairs": evidence.get("pairs"),
        },
        "outcome": settled[-1].outcome if settled else None,
        "decision": told[-1].sentence if told else None,
        "decisions": [decision.sentence for decision in about],
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: a budget without limit becomes null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def _samples(evaluation: Evaluation | None) -> list[dict[str, str]]:
    if evaluation is None:
        return []
    return [
        {"prompt": shown(conversation), "base": base, "live": live}
        for conversation, base, live in evaluation.pairs[:SAMPLES]
    ]
