"""Offering a policy: the comparison with live on held-out prompts, and the publication of a candidate."""

import logging
from dataclasses import dataclass

from deploy.gate import verdict
from deploy.manifest import GateNumbers
from deploy.releases import Candidate, entry
from learner import candidate as candidates
from learner import stages
from learner.drawing import Drawing
from learner.improving import Improving
from learner.measuring import Measured
from learner.metrics import GATE
from learner.parts import Parts
from learner.scoring import Scoring

logger = logging.getLogger("hearken.learner")


@dataclass(frozen=True, slots=True)
class Comparison:
    """The policy against live, and what the gate says of it."""

    numbers: GateNumbers
    measured: Measured
    limit_share: float
    passed: bool
    sentence: str


class Offering:
    """Compares the policy with live, and publishes it or says why not."""

    def __init__(self, parts: Parts, drawing: Drawing, scoring: Scoring, improving: Improving) -> None:
        self._parts, self._drawing, self._scoring, self._improving = parts, drawing, scoring, improving

    def compare(self) -> Comparison | None:
        """The offline comparison; None when the log has no held-out prompts.

        Raises `PromptsRefused`, and `EngineError` when the engine cannot answer now.
        """
        parts, longest = self._parts, self._drawing.longest()
        prompts = self._drawing.prompts(parts.settings.gate_prompts, longest, held_out=True)
        if not prompts:
            return None
        parts.metrics.show_phase("gate")
        ours, live = self._drawing.of_both(prompts, longest)
        measured = parts.optimiser.measure(ours)
        numbers = candidates.compare(
            ours,
            live,
            (self._scoring.judged(ours), self._scoring.judged(live)),
            (measured.kl_nats_base, measured.kl_nats_live),
            (measured.kl_nats_base_high, measured.kl_nats_live_high),
            self._improving.kl_limits(measured.response_tokens),
        )
        parts.metrics.win_ratio.set(numbers.win_rate)
        judged = verdict(numbers, parts.settings.gate)
        share = self._improving.limit_share(measured)
        return Comparison(numbers, measured, share, judged.passed, judged.sentence)

    def publish(self, numbers: GateNumbers) -> None:
        """Put the policy into the registry and offer it to the controller."""
        parts = self._parts
        manifest = candidates.publish(
            parts.registry,
            parts.model,
            parent=parts.place.live,
            training={
                "labels": parts.labels.used,
                "reward_updates": parts.state.updates,
                "ppo_steps": parts.place.steps,
            },
            offsets=parts.place.cursor,
            gate=numbers,
            probes=candidates.make_probes(parts.model),
        )
        event = Candidate.announce(manifest.version, reward_updates=parts.state.updates)
        parts.log.append([entry(event)]).result()
        parts.state = stages.published(parts.state, manifest.version)
        parts.metrics.candidates.inc()
        logger.info("offered %s: judged win rate %.2f against live", manifest.version, numbers.win_rate)

    def refuse(self, sentence: str) -> None:
        """The gate refused the policy, which is trained on."""
        self.tell(sentence)
        self._parts.state = stages.refused(self._parts.state, self._parts.limits)

    def tell(self, sentence: str) -> None:
        """Say that the gate refused the policy, and why."""
        logger.warning("did not publish: %s", sentence)
        self._parts.metrics.refused.labels(GATE).inc()
