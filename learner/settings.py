"""Everything that a learner process can be told. The text beside a field's type is its documentation.

No torch here: the command line reads it too.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

from deploy.answer_guards import OfferLimits
from deploy.decide.gate import GateLimits
from deploy.engines.discovery import check_one_engine
from deploy.guards import GuardLimits
from deploy.registry.bucket import COPIES
from deploy.registry.registries import FetchPort, RegistryCopies, RegistryPlace, check_registry
from learner.monitor.self_check import SelfCheckLimits
from learner.optimiser_names import check_name
from learner.votes.trust import TrustRules

Products = Literal["auto", "float32", "bfloat16"]
PRODUCTS: tuple[Products, ...] = get_args(Products)
BASE_BITS = (16, 8, 4)


@dataclass(frozen=True, slots=True)
class PPOSettings:
    """Hyperparameters. Where no source is named, the value was measured on small models."""

    learning_rate: Annotated[
        float | None, "of the adapter, at its peak; without it by the model's width (learner/model/width.py)"
    ] = None
    warmup_steps: Annotated[int, "steps over which the learning rate rises"] = 2
    decay_steps: Annotated[
        int,
        "steps over which it falls in a straight line to final_learning_rate_ratio of its peak (Stiennon et "
        "al. 2020, where it falls to 0: a service has no last step)",
    ] = 2000
    final_learning_rate_ratio: Annotated[float, "share of the learning rate that is left at the end"] = 0.1
    epochs: Annotated[
        int,
        "passes over the rollouts of one step (Schulman et al. 2017 and Ouyang et al. 2022 take 4 and more)",
    ] = 3
    minibatches: Annotated[int, "minibatches of one pass"] = 2
    clip: Annotated[float, "of the probability ratio (Schulman et al. 2017)"] = 0.2
    value_clip: Annotated[
        float,
        "of the critic's change, in units of the returns' spread; off, as the critic shares no weights with "
        "the policy (Andrychowicz et al. 2021, arXiv:2006.05990, found no use in it)",
    ] = math.inf
    gamma: Annotated[float, "discount of a token's reward (Ouyang et al. 2022)"] = 1.0
    lam: Annotated[
        float | None,
        "of generalised advantage estimation (Schulman et al. 2017); without it 0.95, or more for long "
        "answers whose reward comes with the last token (learner/monitor/lengths.py)",
    ] = None
    max_grad_norm: Annotated[float, "longest gradient of one update"] = 1.0
    kl_coefficient: Annotated[float, "price of a nat of KL to the live policy, at the first step"] = 0.1
    kl_target_nats: Annotated[
        float,
        "KL to the live policy, per response of up to 64 tokens, above which the price rises and below which "
        "it falls (dual ascent as in Moskovitz et al. 2023, arXiv:2310.04373); it grows with longer answers "
        "(learner/monitor/lengths.py)",
    ] = 3.0
    kl_rate: Annotated[
        float, "largest change of the price's logarithm in one step; a step that is undone counts as five"
    ] = 0.1
    kl_coefficient_min: Annotated[float, "the price falls no lower"] = 0.01
    kl_coefficient_max: Annotated[float, "the price rises no higher"] = 2.0
    kl_step_nats: Annotated[
        float,
        "a minibatch that finds the policy further than this from the rollouts' policy, per response of up "
        "to 64 tokens, ends the step before its update; it grows with longer answers "
        "(learner/monitor/lengths.py)",
    ] = 0.6
    cut_off_penalty: Annotated[
        float,
        "an answer without its end counts as its batch's average whole one at most, less this, in units of "
        "the score (Stiennon et al. 2020 give such answers a fixed low score), or less of it where few are "
        "cut off (learner/monitor/lengths.py): otherwise people who like long answers teach a policy never "
        "to end "
        "one; at 0 it counts like any other",
    ] = 1.0
    importance_cap: Annotated[
        float,
        "truncation of the weights that correct the engine's logprobs to the trainer's (Ionides 2008)",
    ] = 2.0
    ptx_coefficient: Annotated[
        float,
        "weight of a demonstration's token; 1 makes imitating it as strong as an advantage of one standard "
        "deviation (the gamma of Ouyang et al. 2022, equation 2, in these units)",
    ] = 1.0
    update_tokens: Annotated[
        int,
        "padded tokens of one backward pass; gradients are summed, so it bounds memory and no more",
    ] = 2048
    critic_learning_rate: Annotated[float, "of the critic"] = 3e-3
    critic_epochs: Annotated[int, "passes of the critic over the rollouts of one step"] = 20
    critic_warmup_steps: Annotated[int, "first steps in which the critic learns and the policy stays"] = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "minibatches", "update_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be above 0")
        for name in ("clip", "max_grad_norm", "kl_target_nats", "importance_cap"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not 0 <= self.kl_coefficient_min <= self.kl_coefficient <= self.kl_coefficient_max:
            raise ValueError(
                f"kl_coefficient is {self.kl_coefficient}; it must lie between kl_coefficient_min and "
                f"kl_coefficient_max, {self.kl_coefficient_min} and {self.kl_coefficient_max}"
            )
        if not self.kl_rate >= 0:
            raise ValueError(f"kl_rate is {self.kl_rate}; it must not be below 0")
        if not 0 <= self.gamma <= 1 or not 0 <= (self.lam or 0.0) <= 1:
            raise ValueError("gamma and lam must lie between 0 and 1")


@dataclass(frozen=True, slots=True)
class PreferenceSettings:
    """How dpo, ipo and kto go through the votes. What regularises them (beta of dpo and kto, tau of ipo) is
    the price of KL, as rates and limits are, in [learner.ppo]; how many votes are mistaken, in
    [learner.reward].
    """

    votes_per_step: Annotated[int, "votes of one step, which goes through them once"] = 128
    votes_per_update: Annotated[int, "votes of one update in a step"] = 32

    def __post_init__(self) -> None:
        for name in ("votes_per_step", "votes_per_update"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True, slots=True)
class RewardSettings:
    """What the reward model takes votes for. Where no source is named, the value was measured on 400 to 900
    noisy votes about a small model's answers.
    """

    heads: Annotated[int, "so many heads, each with a bootstrap and a prior centre of its own"] = 8
    prior_std: Annotated[float, "spread of the prior of a head's weights around its centre"] = 1.0
    complaint_prior_std: Annotated[
        float, "the same for safety and truth, where a single word may explain all complaints"
    ] = 3.0
    rater_cap: Annotated[float, "no rater has more than this share of all votes' weight"] = 0.2
    model_vote_weight: Annotated[
        float,
        "weight of a vote of a model that nothing is known of; then by how often it agrees with people about "
        "the same two answers (see docs/learning.md)",
    ] = 0.5
    leniency_std: Annotated[float, "how far raters' habits of liking differ a priori, in logits"] = 0.5
    noise: Annotated[
        float,
        "share of votes that say the opposite of what was meant (Touvron et al. 2023, arXiv:2307.09288, and "
        "Wang et al. 2024, arXiv:2401.06080, find a good tenth of human preferences wrong or arbitrary)",
    ] = 0.05
    signals_read: Annotated[
        int,
        "answers that people did something with and did not vote on, the newest, that the base reads for one "
        "update at most, which bounds the update's time; what was read stays known",
    ] = 2000
    correction_margin: Annotated[
        float,
        "by how many logits a written answer has to beat its original (Touvron et al. 2023, equation 2)",
    ] = 0.5
    length_doubt: Annotated[
        float,
        "how much of what votes do not surely say about length is taken out; 0 nothing, inf all that is said "
        "about length (see `Heads`)",
    ] = 1.0
    min_scale: Annotated[
        float,
        "the raw scores' standard deviation is not taken for less, so that noise is not blown up",
    ] = 0.3
    helpful: Annotated[float, "weight of helpfulness in the reward"] = 1.0
    safe: Annotated[float, "weight of safety in the reward"] = 0.5
    truthful: Annotated[float, "weight of truth in the reward"] = 0.5
    implied_weight: Annotated[
        float, "what a liked answer's vote without a complaint weighs as a word for its safety and truth"
    ] = 0.25
    veto_odds: Annotated[
        float,
        "an answer whose odds of being called unsafe are e to this number times those of ordinary answers is "
        "vetoed; inf for no veto",
    ] = 1.0
    veto_floor: Annotated[
        float, "no answer without a veto has a reward below minus this, every vetoed one has"
    ] = 4.0
    rung_votes: Annotated[
        int, "another kind of reward model may take over once it foresaw so many votes of judging raters"
    ] = 100
    rung_confidence: Annotated[
        float, "and foresaw them better than the serving one by so many standard errors of the advantage"
    ] = 1.0
    half_life_min: Annotated[
        float,
        "newer votes after which a vote weighs half as much, when tastes move fastest; which of 1, 4, 16 "
        "times as many, or never, is chosen by how well new votes are foreseen; inf for votes without an age",
    ] = 250.0
    turn_share: Annotated[
        float,
        "when more than this share of votes says the opposite of what is expected, people's taste has "
        "turned: votes age fastest from then on, and the learner does not wait for labels_per_update",
    ] = 0.15
    turn_alpha: Annotated[
        float, "chance that this is ever said while it is not so; 0 for never saying it"
    ] = 0.01
    reader_tokens: Annotated[
        int,
        "the newest votes of so many tokens, prompts included, are what the reward model with an adapter of "
        "its own learns from in an update, which bounds the update's time; 0 for no such model",
    ] = 0
    reader_votes: Annotated[int, "votes from which on it learns"] = 1000
    reader_learning_rate: Annotated[float, "of its adapter; its head has ten times that"] = 3e-4

    def __post_init__(self) -> None:
        if not 0 <= self.noise < 0.5:
            raise ValueError(f"noise is {self.noise}; it must lie between 0 and 0.5")
        if not 0 <= self.model_vote_weight <= 1:
            raise ValueError(f"model_vote_weight is {self.model_vote_weight}; it must lie between 0 and 1")
        if not 0 < self.turn_share < 1:
            raise ValueError(f"turn_share is {self.turn_share}; it must lie between 0 and 1")
        if not 0 <= self.turn_alpha < 1:
            raise ValueError(f"turn_alpha is {self.turn_alpha}; it must be below 1, and 0 or above")
        for name in (
            "heads",
            "prior_std",
            "complaint_prior_std",
            "rater_cap",
            "leniency_std",
            "min_scale",
            "veto_odds",
            "veto_floor",
            "rung_votes",
            "half_life_min",
            "reader_votes",
            "reader_learning_rate",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in (
            "helpful",
            "safe",
            "truthful",
            "length_doubt",
            "implied_weight",
            "rung_confidence",
            "reader_tokens",
            "signals_read",
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be below 0")


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """Settings of one learner. Invalid combinations raise `ValueError`."""

    data: Annotated[Path, "folder of the service's data; checkpoint, adapters and the log are in it"]
    model: Annotated[str, "folder or Hugging Face name of the frozen base, which its engine serves"]
    engine: Annotated[str, "base URL of the vLLM server that samples rollouts"]
    metrics_port: Annotated[int, "port of the Prometheus metrics"] = 8002
    metrics_host: Annotated[str, "address of the Prometheus metrics"] = "127.0.0.1"
    kafka: Annotated[
        str | None,
        "HOST:PORT[,HOST:PORT...] of Kafka, or a file of client settings (docs/kafka.md); without it the "
        "embedded log is used",
    ] = None
    registry: RegistryPlace = None
    fetch_port: FetchPort = None
    registry_copies: RegistryCopies = COPIES
    seed: Annotated[int, "seed of everything random"] = 0
    threads: Annotated[int | None, "torch's CPU threads; without it torch's own choice"] = None
    products: Annotated[
        Products,
        "arithmetic of the base's matrix products; auto is bfloat16 where the hardware is fast at it",
    ] = "auto"
    base_bits: Annotated[
        int,
        "bits of a weight of the frozen base's blocks: 16 is the arithmetic of products; 8 or 4 (NF4, "
        "Dettmers et al. 2023) take a half or a quarter of bfloat16's memory, for gradients of a base that "
        "is not quite the served one, and need the extra hearken[quant]",
    ] = 16
    recompute: Annotated[
        bool,
        "keep for the backward pass only what goes into each block, and compute the rest again: less memory, "
        "a third more time",
    ] = False
    rank: Annotated[
        int | None, "LoRA rank; without it that of the adapters that there are, else by the model's width"
    ] = None
    adapted_layers: Annotated[
        float,
        "share of the model's layers that adapters change, counted from the last; with 0.5 the passes of a "
        "step go through half of the layers, and adapters are half as large",
    ] = 1.0
    kl_publish_nats: Annotated[
        float,
        "most KL to the live policy that a policy may have, per response of up to 64 tokens; it grows in "
        "proportion with longer answers",
    ] = 4.0
    kl_budget_nats: Annotated[
        float,
        "so much KL to the base, in the same unit, may policies add to that of the first one that was live; "
        "what a release used comes back with kl_refill_nats",
    ] = 6.0
    kl_refill_nats: Annotated[
        float, "what comes back of kl_budget_nats with 1,000 votes that train; with 0 learning ends some day"
    ] = 6.0
    min_labels: Annotated[int, "training labels before the first PPO step"] = 500
    labels_per_update: Annotated[int, "new labels that start an update of the reward model, at least"] = 200
    rollouts_per_step: Annotated[int, "answers that are sampled for one PPO step"] = 128
    logged_rollouts: Annotated[
        int,
        "answers of the live policy in the log, at temperature 1, that the first step from it learns from at "
        "most, in place of fresh rollouts; those without a vote first. It counts as so many batches as they "
        "make. 0 for fresh ones only",
    ] = 384
    logged_steps: Annotated[
        int, "first steps from live that learn from such answers, each from others; they are weighed"
    ] = 1
    steps_per_candidate: Annotated[
        int, "batches of rollouts, for a PPO step each, before the policy is offered"
    ] = 24
    max_tokens: Annotated[
        int, "bound of the longest rollout, in tokens; below, it may be as long as answers in the log are"
    ] = 1024
    rollout_quantile: Annotated[
        float,
        "share of the log's newest answers that the longest rollout has room for (and half as much)",
    ] = 0.95
    pessimism: Annotated[
        float, "a rollout's score is the mean of the heads less this many of their standard deviations"
    ] = 0.5
    join_window: Annotated[
        int,
        "newest completions that a vote may still be about, and votes whose revisions are known; about 100 "
        "bytes of disk each",
    ] = 2_000_000
    labels_kept: Annotated[
        int,
        "labels that the learner remembers: the newest half of them, and a sample by day and rater of those "
        "before; and as many signals",
    ] = 20_000
    signals: Annotated[
        Path | None,
        "TOML file that says what signals of a product's own mean (docs/signals.md); without it only the "
        "names that are built in mean anything",
    ] = None
    judge_share: Annotated[float, "share of raters who judge candidates and never train the reward model"] = (
        0.25
    )
    gate_prompts: Annotated[int, "held-out prompts of the offline comparison"] = 128
    gate_scales: Annotated[
        tuple[float, ...],
        "shares of its adapter's change of the base with which an offered policy is tried, on half as many "
        "further prompts; the best within the KL limits is compared with live and published. 1 alone tries "
        "nothing else",
    ] = (1.0, 0.75, 0.5)
    reward: Annotated[RewardSettings, "what the reward model takes votes for"] = field(
        default_factory=RewardSettings
    )
    optimiser: Annotated[
        str,
        "how the policy learns, and by which loss: ppo from the reward model, dpo or ipo from votes on "
        "pairs, kto from thumbs too; or the import path of a class of your own, package.module:Class, which "
        "is a subclass of learner.optimiser.Optimiser",
    ] = "ppo"
    ppo: Annotated[
        PPOSettings, "hyperparameters of PPO; rates, limits and the price of KL are every optimiser's"
    ] = field(default_factory=PPOSettings)
    preference: Annotated[PreferenceSettings, "how dpo, ipo and kto go through the votes"] = field(
        default_factory=PreferenceSettings
    )
    gate: Annotated[GateLimits, "what a candidate must reach to be offered"] = field(
        default_factory=GateLimits
    )
    guards: Annotated[
        GuardLimits | None,
        "what a candidate may lose against what the service began with; without it nothing is guarded",
    ] = field(default_factory=GuardLimits)
    answers: Annotated[
        OfferLimits | None,
        "how much worse than live's a candidate's answers may be; without it nothing is held against live's",
    ] = field(default_factory=OfferLimits)
    trust: Annotated[TrustRules, "when votes wait, and how agreement counts"] = field(
        default_factory=TrustRules
    )
    self_check: Annotated[
        SelfCheckLimits | None, "when a policy is not to be published; without it nothing is checked"
    ] = field(default_factory=SelfCheckLimits)

    def __post_init__(self) -> None:
        check_registry(self.registry, self.fetch_port, self.registry_copies)
        check_one_engine(self.engine)
        check_name(self.optimiser)
        if self.products not in PRODUCTS:
            raise ValueError(f"products is {self.products!r}; it must be one of {', '.join(PRODUCTS)}")
        if self.base_bits not in BASE_BITS:
            known = ", ".join(map(str, BASE_BITS))
            raise ValueError(f"base_bits is {self.base_bits}; it must be one of {known}")
        if not 0 < self.adapted_layers <= 1:
            raise ValueError(f"adapted_layers is {self.adapted_layers}; it must be above 0, and 1 at most")
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"rank is {self.rank}; it must be at least 1")
        if not 0 < self.rollout_quantile <= 1:
            raise ValueError(
                f"rollout_quantile is {self.rollout_quantile}; a share above 0, at most 1, is needed"
            )
        if not 0 < self.judge_share < 1:
            raise ValueError(
                f"judge_share is {self.judge_share}; it must lie between 0 and 1, or one side has no raters"
            )
        if self.kl_budget_nats <= 0 or self.kl_publish_nats <= 0:
            raise ValueError("kl_budget_nats and kl_publish_nats must be above 0 nats per response")
        if 1.0 not in self.gate_scales or not all(0 < scale <= 1 for scale in self.gate_scales):
            raise ValueError(
                f"gate_scales is {list(self.gate_scales)}; shares above 0, at most 1, are needed, "
                "and 1 among them: the policy as it was trained"
            )
        if self.logged_rollouts < 0:
            raise ValueError(f"logged_rollouts is {self.logged_rollouts}; it must not be below 0")
        if not self.kl_refill_nats >= 0:
            raise ValueError(f"kl_refill_nats is {self.kl_refill_nats}; it must not be below 0")
        counts = (
            *("min_labels", "labels_per_update", "rollouts_per_step", "steps_per_candidate", "max_tokens"),
            "logged_steps",
            "join_window",
            "labels_kept",
        )
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True, slots=True)
class FineTuningSettings:
    """Supervised fine-tuning on demonstrations, before a service starts."""

    epochs: Annotated[int, "passes over the demonstrations; the best by held-out loss is kept"] = 3
    batch_size: Annotated[int, "demonstrations of one update"] = 32
    learning_rate: Annotated[
        float | None,
        "of the adapter, at its peak, from which it falls in a straight line to a tenth; without it by the "
        "model's width (2e-4 to 1e-3 are usual, Hu et al. 2021, appendix D)",
    ] = None
    warmup_steps: Annotated[int, "steps over which the learning rate rises"] = 10
    max_grad_norm: Annotated[float, "longest gradient of one update"] = 1.0
    held_out: Annotated[float, "share of the demonstrations that is held out, at least one"] = 0.1
    update_tokens: Annotated[int, "padded tokens of one backward pass; it bounds memory and no more"] = 2048
    max_tokens: Annotated[int, "prompt and answer together; what is longer is left out"] = 1024
    seed: Annotated[int, "seed of everything random"] = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "update_tokens", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be above 0")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}; it must be between 0 and 1")
