"""The policy's way from live: rollouts, the optimiser's steps within the KL limits, and the ways back."""

import logging
import math
import random
import time
from dataclasses import dataclass

import torch

from deploy.engines.client import Sample
from feedback.joining.labels import Label
from feedback.updates.steps import step_record
from learner.batching import Item
from learner.examples import draw
from learner.loop.drawing import Drawing
from learner.loop.parts import Parts
from learner.loop.scoring import Scoring
from learner.loop.second_domain import SecondDomain
from learner.model.shared import LIVE, POLICY
from learner.monitor.lengths import after_cut_off, kl_limit
from learner.optimiser import StepMetrics
from learner.rollouts.measuring import Measured
from learner.state import stages

logger = logging.getLogger("hearken.learner")

UNDO_STEPS = 2
"""How many steps can be undone before the policy starts again from live."""


@dataclass(frozen=True, slots=True)
class Rollouts:
    """A batch of rollouts, measured and scored (scores: (B,)). gains: by token, (B, T), or None."""

    measured: Measured
    scores: torch.Tensor
    gains: torch.Tensor | None
    limit_share: float


class Improving:
    """Takes steps, and takes them back."""

    def __init__(self, parts: Parts, drawing: Drawing, scoring: Scoring, domain: SecondDomain) -> None:
        self._parts, self._drawing, self._scoring, self._domain = parts, drawing, scoring, domain

    @property
    def is_live(self) -> bool:
        """Whether the policy is live's copy."""
        return self._parts.model.same(POLICY, LIVE)

    def kl_limits(self, tokens: float) -> tuple[float, float]:
        """The hard KL limits to base and to live of answers of `tokens` tokens, in nats per response.

        That to the base counts from where live is: what a version 0 has, or what went live before, is not
        counted again.
        """
        parts = self._parts
        room = stages.room_nats(parts.state, parts.limits)
        to_base = (parts.state.live_nats or 0.0) + kl_limit(room, tokens)
        return to_base, kl_limit(parts.settings.kl_publish_nats, tokens)

    def limit_share(self, measured: Measured) -> float:
        """How much of the KL limit that is nearer the policy may have used, by the upper confidence bound."""
        to_base, to_live = self.kl_limits(measured.response_tokens)
        return max(_share(measured.kl_nats_base_high, to_base), _share(measured.kl_nats_live_high, to_live))

    def sample(self) -> Rollouts | None:
        """Rollouts of the policy, measured and scored; None when the log has no prompts.

        Raises `PromptsRefused` and `EngineError`.
        """
        parts, longest = self._parts, self._drawing.longest()
        parts.metrics.show_phase("rollout")
        samples = self._logged(longest) or self._fresh(longest)
        if not samples:
            return None
        measured = parts.optimiser.measure(samples, parts.features)
        parts.place.rollout_tokens = after_cut_off(longest, measured.cut_off_ratio, parts.settings.max_tokens)
        if self.is_live and parts.state.live_nats is None:
            parts.state = stages.met_live(parts.state, measured.kl_nats_base)
        tokens = measured.response_tokens
        parts.metrics.show_rollouts(measured, self.kl_limits(tokens))
        parts.metrics.kl_target.set(parts.optimiser.kl_target(tokens))
        read = parts.features.at_hand([sample.judged for sample in samples])
        parts.metrics.show_objectives(parts.reward.by_objective(read))
        return Rollouts(measured, *self._scoring.scores(samples), self.limit_share(measured))

    def _logged(self, longest: int) -> list[Sample]:
        """What users got of live, while the policy is its copy or a few steps away: rollouts that need no
        engine. None where there are fewer than an ordinary step has."""
        parts, settings = self._parts, self._parts.settings
        step = 0 if self.is_live else parts.optimiser.steps - settings.ppo.critic_warmup_steps
        if not settings.logged_rollouts or step >= settings.logged_steps:
            return []
        most = settings.logged_rollouts if parts.optimiser.learns_from_rollouts else 0
        found = self._drawing.logged(
            max(most, settings.rollouts_per_step), longest, step, settings.logged_steps
        )
        return found if len(found) >= settings.rollouts_per_step else []

    def _fresh(self, longest: int) -> list[Sample]:
        prompts = self._drawing.prompts(self._parts.settings.rollouts_per_step, longest, held_out=False)
        return self._drawing.of_policy(prompts, longest) if prompts else []

    def observe(self, rollouts: Rollouts) -> None:
        """Show a batch to the self-check."""
        parts = self._parts
        owners = self._drawing.owners()
        parts.watch.observe(rollouts.measured, rollouts.scores, owners, parts.state.updates)
        parts.metrics.judge_agreement.set(parts.watch.history[-1].judge_agreement)

    def step(self, rollouts: Rollouts) -> None:
        """One step of the optimiser on measured rollouts; two where there are many and the first one would
        leave the policy where it is.

        Raises `EngineError`, before anything moves.
        """
        parts = self._parts
        self._domain.taught()  # sampled now if they never were
        parts.metrics.show_phase("ppo")
        parts.earlier = [*parts.earlier, parts.optimiser.snapshot()][-UNDO_STEPS:]
        count, usual = len(rollouts.scores), parts.settings.rollouts_per_step
        first = usual if parts.optimiser.warms_up and count >= 2 * usual else count
        logger.info(
            "step %d on %d answers: mean score %.2f, KL %.2f nats to live",
            parts.place.steps + 1,
            count,
            float(rollouts.scores.mean()),
            rollouts.measured.kl_nats_live,
        )
        for start, end in ((0, first), (first, count)):
            if start < end:
                self._learn(rollouts, start, end)
        parts.state = stages.stepped(parts.state, rollouts.limit_share, max(1, round(count / usual)))

    def _learn(self, rollouts: Rollouts, start: int, end: int) -> None:
        parts = self._parts
        with parts.metrics.times.step.time():
            report = parts.optimiser.step(
                rollouts.measured.part(start, end),
                rollouts.scores[start:end],
                self._demonstrations(),
                parts.state.pace,
                self._votes(),
                None if rollouts.gains is None else rollouts.gains[start:end],
            )
        parts.place.steps += 1
        parts.metrics.show_step(report)
        self._record(report, rollouts.measured)

    def _record(self, report: StepMetrics, measured: Measured) -> None:
        """Note what the step was like, to be told once a checkpoint holds it."""
        parts = self._parts
        record = step_record(
            parts.place.steps,
            time.time(),
            parts.place.grew_from,
            parts.labels.used,
            kl_nats=measured.kl_nats_base,
            kl_budget_nats=self.kl_limits(measured.response_tokens)[0],
            reward=report.reward_mean,
            accuracy=parts.accuracy,
            entropy_nats=report.entropy_nats,
            response_tokens=measured.response_tokens,
            cut_off=measured.cut_off_ratio,
        )
        parts.untold_steps.append(record)

    def _votes(self) -> list[Label]:
        """The votes that the optimiser learns from in its next step, as many as it asks for."""
        parts = self._parts
        count = parts.optimiser.votes_per_step
        if not count:
            return []
        known = [vote for vote in self._scoring.votes_to_learn() if parts.optimiser.teaches(vote)]
        return draw(known, count, parts.settings.seed, parts.place.steps)

    def _demonstrations(self) -> list[Item]:
        """What is to be imitated: some of the answers that raters wrote, a quarter of a batch at most, and
        half as many of the base's own on the second domain."""
        parts = self._parts
        most = parts.settings.rollouts_per_step // 4
        drawn = random.Random(f"{parts.settings.seed} {parts.place.steps} demonstrations")
        shown = []
        for known, count in ((parts.labels.demonstrations, most), (self._domain.taught(), most // 2)):
            shown += drawn.sample(known, min(len(known), count))
        return shown

    def undo(self, measured: Measured) -> None:
        """Go back before the newest step, which passed a KL limit; a nat of KL costs more from now on."""
        parts = self._parts
        logger.warning(
            "undid a step, it went past a limit: KL %.2f nats to base and %.2f to live, "
            "at most %.2f and %.2f",
            measured.kl_nats_base,
            measured.kl_nats_live,
            measured.kl_nats_base_high,
            measured.kl_nats_live_high,
        )
        parts.metrics.ppo_undone.inc()
        price = parts.optimiser.kl_coefficient
        parts.optimiser.restore(parts.earlier.pop())
        parts.optimiser.kl_coefficient = max(price, parts.optimiser.kl_coefficient)
        parts.optimiser.raise_price()
        is_live = self.is_live
        if is_live:
            parts.go_back_to_live()
        parts.state = stages.undone(parts.state, is_live=is_live)

    def start_over(self) -> None:
        """Back to live, to try again with half the learning rate."""
        self._refuse()
        self._parts.go_back_to_live()
        self._parts.state = stages.started_over(self._parts.state, slower=True)

    def give_up(self) -> None:
        """Back to live, to wait for votes: the same ones would lead to the same place again."""
        self._refuse()
        self._parts.go_back_to_live()
        self._parts.state = stages.gave_up(self._parts.state)

    def _refuse(self) -> None:
        """Say what the self-check has against the policy, if anything."""
        if concern := self._parts.watch.concern():
            logger.warning("did not publish: %s", concern.sentence)
            self._parts.metrics.refused.labels(concern.reason).inc()


def _share(nats: float, limit: float) -> float:
    """nats / limit; infinite when the KL is not a number, 0 when there is no limit or nothing to limit."""
    if math.isnan(nats):
        return math.inf
    if nats <= 0 or math.isinf(limit):
        return 0.0
    return nats / limit if limit > 0 else math.inf
