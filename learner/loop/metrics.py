"""The learner's metrics for Prometheus."""

import math
from collections import Counter as Tally
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from feedback.core.build_info import build_info
from feedback.core.loss_metrics import LossMetrics
from learner.monitor.guard_metrics import GuardMetrics
from learner.monitor.self_check import REASONS as REFUSALS
from learner.monitor.times import Times
from learner.optimiser import StepMetrics
from learner.policy.ppo import PPOMetrics
from learner.preferences import PreferenceMetrics
from learner.reward.calibration import Report
from learner.reward.ladder import RewardLadder
from learner.rollouts.measuring import Measured
from learner.state.stages import STAGES, Stage
from learner.votes.believing import Belief
from learner.votes.objectives import Objective
from learner.votes.reliability import Reliability
from learner.votes.trust import REASONS

GATE = "gate"
"""A candidate was refused by the offline comparison; else the reason is one of the self-check's."""

PHASES = ("waiting", "reward", "rollout", "ppo", "gate")


class LearnerMetrics:
    """The learner's instruments, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.build, self.times = build_info(self.registry), Times(self.registry)
        self.guards = GuardMetrics(self.registry)

        def gauge(name: str, help_text: str, *labels: str) -> Gauge:
            return Gauge(name, help_text, labels, registry=self.registry)

        def counter(name: str, help_text: str, *labels: str) -> Counter:
            return Counter(name, help_text, labels, registry=self.registry)

        self.labels = counter("hearken_labels", "Votes joined with their completions", "kind")
        self.dead_letters = counter(
            "hearken_learner_dead_letters", "Records and votes that make no sense to the learner, set aside"
        )
        self.votes_usable = gauge(
            "hearken_learner_votes_usable", "Votes that train and that the optimiser can learn from"
        )
        lost = "Votes on what is no longer in the log, or never came"
        self.votes_lost = counter("hearken_learner_votes_lost", lost)
        self.losses = LossMetrics(self.registry)
        self.vault_lost = gauge(
            "hearken_learner_vault_lost",
            "1 while the users' keys cannot be used: nothing is read, learned or saved",
        )
        self.registry_away = gauge(
            "hearken_registry_away",
            "1 while the bucket of adapters cannot be used, else 0: the learner waits when it needs it",
        )
        self.lag_events = gauge("hearken_learner_lag_events", "Events in the log that were not read yet")
        self.lag_seconds = gauge("hearken_learner_lag_seconds", "Age of the oldest event not read yet")
        self.reward_updates = counter("hearken_reward_updates", "Reward-model updates")
        self.reward_accuracy = gauge(
            "hearken_reward_accuracy_ratio", "Share of held-out raters' votes that the reward model predicts"
        )
        self.reward_source_accuracy = gauge(
            "hearken_reward_source_accuracy_ratio", "The same for the votes of each source", "source"
        )
        self.reward_calibration_error = gauge(
            "hearken_reward_calibration_error_ratio",
            "Expected calibration error on held-out raters' votes, without and with the temperature",
            "stage",
        )
        self.reward_temperature = gauge(
            "hearken_reward_temperature", "What the reward model's logits are divided by"
        )
        self.reward_rung = gauge("hearken_reward_rung", "1 for the kind of reward model that serves", "rung")
        self.reward_rung_loss = gauge(
            "hearken_reward_rung_loss_nats",
            "Mean loss of a held-out rater's vote, foreseen before the update, of each kind of reward model",
            "rung",
        )
        self.half_life = gauge(
            "hearken_reward_half_life_votes", "Newer votes after which a vote weighs half as much"
        )
        self.half_life.set(math.inf)
        self.taste_turns = counter(
            "hearken_taste_turns", "Alarms that people like something else than the reward model expects"
        )
        self.taste_evidence = gauge(
            "hearken_taste_turn_evidence",
            "Capital of who bets on that, 1 at first; an alarm at 1 / turn_alpha",
        )
        self.judge_agreement = gauge(
            "hearken_judge_agreement_ratio",
            "Share of pairs of the newest rollouts that reward model and judging model put in the same order",
        )
        self.model_agreement = gauge(
            "hearken_model_agreement_ratio",
            "How often a model that votes agrees with people; its votes weigh twice what is above a half",
            "rater",
        )
        self.signal_weight = gauge(
            "hearken_signal_weight",
            "What a signal weighs beside a thumb, from -1 to 1; 0 while it is not shown to agree with votes",
            "signal",
        )
        self.signal_events = gauge(
            "hearken_signal_events", "Signals that the learner remembers and that mean something", "signal"
        )
        self.reward_disagreement = gauge(
            "hearken_reward_disagreement", "Mean spread of the reward model's heads on the newest rollouts"
        )
        self.reward_mean = gauge("hearken_reward_mean", "Mean pessimistic score of the newest rollouts")
        told = "Mean score of the newest rollouts in an objective, in deviations of voted answers"
        self.reward_objective = gauge("hearken_reward_objective", told, "objective")
        self.ppo_steps = counter("hearken_ppo_steps", "Steps taken by the optimiser, which need not be PPO")
        self.ppo_undone = counter("hearken_ppo_undone", "Steps undone because they passed a KL limit")
        self.ppo_skipped = counter("hearken_ppo_skipped_updates", "Updates skipped as not finite")
        self.gradient_norm = gauge("hearken_ppo_gradient_norm", "Norm of the newest gradient, unclipped")
        self.learning_rate = gauge("hearken_learning_rate", "Learning rate of the newest step")
        self.kl_step = gauge("hearken_ppo_step_kl_nats", "KL per response that the newest step moved")
        self.perplexity = gauge("hearken_perplexity", "Perplexity of rollouts under the base")
        self.mismatch = gauge(
            "hearken_engine_mismatch_nats",
            "Engine's against trainer's logprobs of rollout tokens",
            "statistic",
        )
        self.capped_ratio = gauge(
            "hearken_importance_capped_ratio", "Share of tokens whose importance weight was truncated"
        )
        self.effective_ratio = gauge(
            "hearken_importance_effective_ratio", "Effective share of tokens under importance weights"
        )
        self.kl = gauge("hearken_kl_nats", "KL of the trained policy per response", "reference")
        self.kl_high = gauge(
            "hearken_kl_high_nats", "Its upper confidence bound, which the limits judge", "reference"
        )
        self.kl_budget = gauge(
            "hearken_kl_budget_nats", "The hard KL limits per response, at the rollouts' length", "reference"
        )
        self.kl_target = gauge("hearken_kl_target_nats", "KL to live per response that its price aims at")
        self.kl_coefficient = gauge(
            "hearken_kl_coefficient", "Price of a nat of KL to the live policy, in units of the reward"
        )
        self.clip_ratio = gauge("hearken_ppo_clip_ratio", "Share of tokens whose PPO ratio was clipped")
        self.entropy = gauge("hearken_entropy_nats", "Mean entropy of the policy per token")
        self.response_tokens = gauge("hearken_response_tokens", "Mean length of rollouts in tokens")
        self.rollouts = counter(
            "hearken_rollouts",
            "Answers of the policy that was trained, sampled to learn from and to measure it",
        )
        self.rollouts_cut_off = counter(
            "hearken_rollouts_cut_off", "Those that reached the longest rollout without an end"
        )
        self.explained_variance = gauge(
            "hearken_explained_variance", "Share of the returns' variance that the critic explains"
        )
        self.preference_loss = gauge(
            "hearken_preference_loss", "Mean loss of the votes that the newest step learned from itself"
        )
        self.preference_accuracy = gauge(
            "hearken_preference_accuracy_ratio", "Share of these that the policy already put as the voter did"
        )
        self.prompts_left_out = gauge(
            "hearken_learner_prompts_left_out",
            "Prompts that the engine has no room for or refused, when some were last drawn",
            "use",
            "reason",
        )
        self.waiting = gauge("hearken_votes_waiting", "Votes in quarantine", "reason")
        self.stage = gauge("hearken_learner_stage", "1 for the learner's stage", "stage")
        self.phase = gauge("hearken_learner_phase", "1 for what the learner is doing", "phase")
        self.candidates = counter("hearken_candidates", "Candidates published")
        self.refused = counter(
            "hearken_candidates_refused", "Candidates that the learner did not publish", "reason"
        )
        for reason in (GATE, *REFUSALS):
            self.refused.labels(reason)
        self.win_ratio = gauge(
            "hearken_win_ratio", "Judged win rate of the newest candidate against live, held-out prompts"
        )
        self.candidate_scale = gauge(
            "hearken_candidate_scale_ratio",
            "Share of the trained change of the base that the newest compared policy had",
        )

    def show_rollouts(self, measured: Measured, kl_limits_nats: tuple[float, float]) -> None:
        """Show what a batch of rollouts was like, with the KL limits (to base, to live) at its length."""
        self.rollouts.inc(len(measured.items))
        self.rollouts_cut_off.inc(int(measured.cut_off.sum()))
        for reference, limit in zip(("base", "live"), kl_limits_nats, strict=True):
            self.kl.labels(reference).set(getattr(measured, f"kl_nats_{reference}"))
            self.kl_high.labels(reference).set(getattr(measured, f"kl_nats_{reference}_high"))
            self.kl_budget.labels(reference).set(limit)

    def show_objectives(self, scores: Mapping[Objective, float]) -> None:
        """Show what the reward model says of a batch of rollouts in each objective."""
        self.reward_objective.clear()
        for objective, score in scores.items():
            self.reward_objective.labels(objective).set(score)

    def show_step(self, step: StepMetrics) -> None:
        """Show what a step was like."""
        self.ppo_steps.inc()
        self.times.last_step.set_to_current_time()
        self.reward_mean.set(step.reward_mean)
        self.kl_coefficient.set(step.kl_coefficient)
        self.entropy.set(step.entropy_nats)
        self.response_tokens.set(step.response_tokens)
        self.ppo_skipped.inc(step.skipped_updates)
        self.gradient_norm.set(step.grad_norm)
        self.learning_rate.set(step.learning_rate)
        self.kl_step.set(step.kl_nats_step)
        self.perplexity.set(step.perplexity)
        for statistic in ("mean", "max", "kl"):
            self.mismatch.labels(statistic).set(getattr(step.mismatch, f"{statistic}_nats"))
        self.capped_ratio.set(step.mismatch.capped_ratio)
        self.effective_ratio.set(step.mismatch.effective_ratio)
        if isinstance(step, PPOMetrics):
            self.clip_ratio.set(step.clip_ratio)
            self.explained_variance.set(step.explained_variance)
        elif isinstance(step, PreferenceMetrics):
            self.preference_loss.set(step.preference_loss)
            self.preference_accuracy.set(step.preference_accuracy)

    def show_calibration(self, report: Report) -> None:
        """Show how well the reward model foresaw held-out raters' votes."""
        self.reward_accuracy.set(report.accuracy)
        for source, accuracy in report.by_source.items():
            self.reward_source_accuracy.labels(source).set(accuracy)
        self.reward_calibration_error.labels("raw").set(report.error_before)
        self.reward_calibration_error.labels("calibrated").set(report.error)
        self.reward_temperature.set(report.temperature)

    def show_rungs(self, ladder: RewardLadder) -> None:
        """Show which kind of reward model serves, and how well each one foresees votes."""
        for rung in ladder.rungs:
            self.reward_rung.labels(rung.kind.name).set(rung is ladder.model)
        for name, nats in ladder.mean_losses().items():
            self.reward_rung_loss.labels(name).set(nats)

    def show_models(self, found: Mapping[str, Reliability]) -> None:
        """Show how far each model that votes is to be relied on."""
        for rater, each in found.items():
            self.model_agreement.labels(rater).set(each.agreement)

    def show_signals(self, found: Mapping[str, Belief], slopes: Mapping[str, float]) -> None:
        """Show how many signals of each name there are, and what one weighs."""
        self.signal_weight.clear()
        self.signal_events.clear()
        for name, belief in found.items():
            self.signal_weight.labels(name).set(slopes.get(name, 0.0))
            self.signal_events.labels(name).set(belief.events)

    def show_waiting(self, reasons: Iterable[str]) -> None:
        """Show how many votes are in quarantine, and why."""
        counts = Tally(reasons)
        for reason in REASONS:
            self.waiting.labels(reason).set(counts[reason])

    def show_stage(self, current: Stage) -> None:
        """Mark one of `STAGES` as current."""
        for stage in STAGES:
            self.stage.labels(stage).set(stage == current)

    def show_phase(self, current: str) -> None:
        """Mark one of `PHASES` as current."""
        for phase in PHASES:
            self.phase.labels(phase).set(phase == current)
