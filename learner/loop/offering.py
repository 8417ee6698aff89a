"""Offering a policy: the comparison with live on held-out prompts, and the publication of a candidate."""

import logging
from dataclasses import dataclass

from deploy.decide.gate import verdict
from deploy.history.releases import Candidate, entry
from deploy.registry.manifest import GateNumbers
from learner.loop.answer_guarding import AnswerGuarding
from learner.loop.drawing import Drawing
from learner.loop.guarding import Guarding
from learner.loop.improving import Improving
from learner.loop.metrics import GATE
from learner.loop.parts import Parts
from learner.loop.scoring import Scoring
from learner.policy import candidate as candidates
from learner.policy.probing import Prober
from learner.policy.scaling import Tried, choose, scaled
from learner.rollouts.measuring import Measured
from learner.state import stages

logger = logging.getLogger("hearken.learner")


@dataclass(frozen=True, slots=True)
class Comparison:
    """The policy against live, and what the gate says of it.

    digest: of the weights that were measured, which are the trained ones at the scale in `numbers`.
    """

    numbers: GateNumbers
    measured: Measured
    limit_share: float
    digest: str
    passed: bool
    sentence: str


class Offering:
    """Compares the policy with live, and publishes it or says why not."""

    def __init__(
        self, parts: Parts, drawing: Drawing, scoring: Scoring, improving: Improving, guarding: Guarding
    ) -> None:
        self._parts, self._drawing, self._scoring, self._improving = parts, drawing, scoring, improving
        self._guarding, self._answers = guarding, AnswerGuarding(parts, drawing)
        self._prober = Prober(parts.model)

    def prepare(self) -> None:
        """Have done what the next offer needs of the base, while there is nothing else to do."""
        self._prober.prepare()

    def compare(self) -> Comparison | None:
        """The offline comparison of the policy, at the scale that promises most; None when the log has no
        held-out prompts.

        Raises `PromptsRefused`, and `EngineError` when the engine cannot answer now.
        """
        parts, longest = self._parts, self._drawing.longest()
        prompts = self._drawing.gate_prompts(longest)
        if not prompts.judging:
            return None
        parts.metrics.show_phase("gate")
        scale = self._choose(prompts.choosing, longest)
        with scaled(parts.model, scale):
            found = self._compare(scale, prompts.judging, longest)
        parts.metrics.win_ratio.set(found.numbers.win_rate)
        parts.metrics.candidate_scale.set(scale)
        return found

    def _choose(self, prompts: list[list[int]], longest: int) -> float:
        """The scale to compare with live; that of the trained policy where there is nothing to choose by."""
        if not prompts:
            return 1.0
        samples, shares, forgets = {}, {}, {}
        for scale in self._parts.settings.gate_scales:
            with scaled(self._parts.model, scale):
                samples[scale] = self._drawing.of_policy(prompts, longest)
                shares[scale] = self._improving.limit_share(self._parts.optimiser.measure(samples[scale]))
                forgets[scale] = self._guarding.forgets()
        live = self._scoring.judged(self._drawing.of_live(prompts, longest)).scores
        tried = [
            Tried(
                scale,
                candidates.win_rate(self._scoring.judged(ours).scores, live)[0],
                shares[scale],
                forgets[scale],
            )
            for scale, ours in samples.items()
        ]
        for each in tried:
            logger.info(
                "tried %g of the policy on %d prompts: judged win rate %.2f, KL %.2f of its limit%s",
                each.scale,
                len(prompts),
                each.win_rate,
                each.limit_share,
                ", and a guard is against it" if each.forgets else "",
            )
        return choose(tried)

    def _compare(self, scale: float, prompts: list[list[int]], longest: int) -> Comparison:
        """The comparison of the policy as it is now, which is the trained one at this scale."""
        parts = self._parts
        drawn, others = self._drawing.of_both(prompts, longest)
        measured = parts.optimiser.measure(drawn, parts.features)
        ours, live = map(self._scoring.judged, (drawn, others))
        guards = self._guarding.guards(prompts, ours, live, longest)
        guards += self._answers.guards(ours, live, longest)
        numbers = candidates.compare(
            ours.samples,
            live.samples,
            (ours.scores, live.scores),
            (measured.kl_nats_base, measured.kl_nats_live),
            (measured.kl_nats_base_high, measured.kl_nats_live_high),
            self._improving.kl_limits(measured.response_tokens),
            scale,
            guards,
            self._answers.vetoes(ours, live),
        )
        parts.metrics.guards.show(numbers.guards)
        judged = verdict(numbers, parts.settings.gate)
        for line in judged.report:
            logger.info("guard of %s", line)
        share = self._improving.limit_share(measured)
        return Comparison(numbers, measured, share, parts.model.policy_digest, judged.passed, judged.sentence)

    def publish(self, numbers: GateNumbers, digest: str) -> None:
        """Put the policy into the registry at the scale that was compared, and offer it to the controller.

        From now on the policy is what was published. digest: of the weights that were compared.
        """
        parts = self._parts
        parts.take_scale(numbers.scale)
        if parts.model.policy_digest != digest:
            raise AssertionError("the policy is another one than was compared with live")
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
            probes=self._prober.probes(),
        )
        event = Candidate.announce(
            manifest.version,
            reward_updates=parts.state.updates,
            parent=parts.place.grew_from,
            manifest=parts.registry.manifest_digest(manifest.version),
        )
        parts.log.append([entry(event)]).result()
        parts.place.grew_from = manifest.version
        parts.state = stages.published(parts.state, manifest.version)
        parts.metrics.candidates.inc()
        logger.info(
            "offered %s, %g of what was trained: judged win rate %.2f against live",
            manifest.version,
            numbers.scale,
            numbers.win_rate,
        )

    def refuse(self, sentence: str) -> None:
        """The gate refused the policy, which is trained on."""
        self.tell(sentence)
        self._parts.state = stages.refused(self._parts.state, self._parts.limits)

    def tell(self, sentence: str) -> None:
        """Say that the gate refused the policy, and why."""
        logger.warning("did not publish: %s", sentence)
        self._parts.metrics.refused.labels(GATE).inc()
