"""Everything that a learner process can be told. No torch here: the command line reads it too."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from deploy.gate import GateLimits
from learner.self_check import SelfCheckLimits
from learner.trust import TrustRules

Products = Literal["auto", "float32", "bfloat16"]
PRODUCTS: tuple[Products, ...] = get_args(Products)


@dataclass(frozen=True, slots=True)
class PPOSettings:
    """Hyperparameters. Where no source is named, the value was measured on small models.

    learning_rate: of the adapter. It rises over `warmup_steps` steps and falls in a straight line to
    `final_learning_rate_ratio` of it over `decay_steps` (Stiennon et al. 2020, where it falls to 0: a service
    has no last step). epochs, minibatches: of one step (Schulman et al. 2017 and Ouyang et al. 2022 take 4
    epochs of as many minibatches and more). clip, gamma, lam: Schulman et al. 2017 and Ouyang et al. 2022
    (0.2, 1, 0.95). value_clip: in units of the returns' spread; off, as the critic shares no weights with the
    policy (Andrychowicz et al. 2021, arXiv:2006.05990, found no use in it). max_grad_norm: of one update.
    kl_coefficient, kl_target_nats, kl_horizon: Ziegler et al. 2019, section 2.2; the horizon counts
    responses. kl_step_nats: a minibatch that finds the policy further than this from the rollouts' policy
    ends the step before its update. Both KLs are per response of up to 64 tokens, and grow with longer ones
    (see `learner.lengths`). cut_off_penalty: in units of the score, for an answer without its end (Stiennon
    et al. 2020 give such answers a fixed low score). importance_cap: truncation of the weights that correct
    the engine's logprobs to the trainer's (Ionides 2008). ptx_coefficient: weight of a demonstration's
    token; 1 makes imitating it as strong as an advantage of one standard deviation (the gamma of Ouyang et
    al. 2022, equation 2, in these units). update_tokens: padded tokens of one backward pass; gradients are
    summed, so it bounds memory and no more. critic_warmup_steps: first steps in which the critic learns and
    the policy stays.
    """

    learning_rate: float = 1e-3
    warmup_steps: int = 2
    decay_steps: int = 2000
    final_learning_rate_ratio: float = 0.1
    epochs: int = 3
    minibatches: int = 2
    clip: float = 0.2
    value_clip: float = math.inf
    gamma: float = 1.0
    lam: float = 0.95
    max_grad_norm: float = 1.0
    kl_coefficient: float = 0.1
    kl_target_nats: float = 4.0
    kl_horizon: float = 1000.0
    kl_step_nats: float = 0.6
    cut_off_penalty: float = 1.0
    importance_cap: float = 2.0
    ptx_coefficient: float = 1.0
    update_tokens: int = 2048
    critic_learning_rate: float = 3e-3
    critic_epochs: int = 20
    critic_warmup_steps: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "minibatches", "update_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("learning_rate", "clip", "max_grad_norm", "kl_target_nats", "importance_cap"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not 0 <= self.gamma <= 1 or not 0 <= self.lam <= 1:
            raise ValueError("gamma and lam must lie between 0 and 1")


@dataclass(frozen=True, slots=True)
class RewardSettings:
    """What the reward model takes votes for. Where no source is named, the value was measured on 400 to 900
    noisy votes about a small model's answers.

    heads, prior_std: so many heads, whose weights have a prior of this spread around a centre of their own.
    complaint_prior_std: the same for safety and truth, where a single word may explain all complaints.
    rater_cap: no rater has more than this share of all votes' weight. model_vote_weight: of a vote that a
    model gave. leniency_std: how far raters' habits of liking differ a priori, in logits. noise: the share of
    votes that say the opposite of what was meant (Touvron et al. 2023, arXiv:2307.09288, and Wang et al.
    2024, arXiv:2401.06080, find a good tenth of human preferences wrong or arbitrary). correction_margin: by
    how many logits a written answer has to beat its original (the margin of Touvron et al. 2023, equation 2).
    length_doubt: how much of what votes do not surely say about length is taken out; 0 nothing, infinite all
    that is said about length (see `Heads`). min_scale: the raw scores' standard deviation is not taken for
    less, so that noise is not blown up.

    helpful, safe, truthful: weights of the objectives' scores in the reward. implied_weight: what a liked
    answer's vote without a complaint weighs as a word for its safety and truth. veto_odds: an answer whose
    odds of being called unsafe are e to this number times those of ordinary answers is vetoed; infinite for
    no veto. veto_floor: no answer without a veto has a reward below minus this, every vetoed one has.
    """

    heads: int = 8
    prior_std: float = 1.0
    complaint_prior_std: float = 3.0
    rater_cap: float = 0.2
    model_vote_weight: float = 0.5
    leniency_std: float = 0.5
    noise: float = 0.05
    correction_margin: float = 0.5
    length_doubt: float = 1.0
    min_scale: float = 0.3
    helpful: float = 1.0
    safe: float = 0.5
    truthful: float = 0.5
    implied_weight: float = 0.25
    veto_odds: float = 1.0
    veto_floor: float = 4.0

    def __post_init__(self) -> None:
        if not 0 <= self.noise < 0.5:
            raise ValueError(f"noise is {self.noise}; it must lie between 0 and 0.5")
        for name in (
            "heads",
            "prior_std",
            "complaint_prior_std",
            "rater_cap",
            "leniency_std",
            "min_scale",
            "veto_odds",
            "veto_floor",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("helpful", "safe", "truthful", "length_doubt", "model_vote_weight", "implied_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be below 0")


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """Settings of one learner. Invalid combinations raise `ValueError`."""

    data: Path  # the service's data folder
    model: str  # folder or hub name of the frozen base
    engine: str  # URL of the vLLM server that samples rollouts
    metrics_port: int = 8002
    metrics_host: str = "127.0.0.1"
    kafka: str | None = None  # host:port of a broker; None reads the embedded log
    seed: int = 0
    threads: int | None = None  # torch threads; None leaves torch's default
    products: Products = "auto"  # what the base's weights are multiplied in, see `SharedModel.of`
    rank: int = 8  # LoRA rank; the engine's --max-lora-rank must not be below it
    kl_budget_nats: float = 6.0  # KL of any published policy to the base, per response of up to 64 tokens
    kl_publish_nats: float = 4.0  # the same to the live one; both grow with longer answers, see `kl_limit`
    min_labels: int = 500  # training labels before the first PPO step
    labels_per_update: int = 200  # new labels that start a reward-model update, at least
    rollouts_per_step: int = 128
    steps_per_candidate: int = 24  # PPO steps between two candidates
    max_tokens: int = (
        1024  # bound of the longest rollout, in tokens; else it is as long as answers in the log
    )
    rollout_quantile: float = 0.95  # share of the log's answers that the longest rollout has room for
    pessimism: float = 0.5  # a rollout's score is the ensemble's mean - pessimism * its std
    judge_share: float = 0.25  # share of raters who judge candidates and never train the reward model
    gate_prompts: int = 128  # held-out prompts of the offline comparison
    reward: RewardSettings = field(default_factory=RewardSettings)
    ppo: PPOSettings = field(default_factory=PPOSettings)
    gate: GateLimits = field(default_factory=GateLimits)  # what a candidate must reach to be offered
    trust: TrustRules = field(default_factory=TrustRules)
    self_check: SelfCheckLimits | None = field(default_factory=SelfCheckLimits)  # None: no self-check

    def __post_init__(self) -> None:
        if self.products not in PRODUCTS:
            raise ValueError(f"products is {self.products!r}; it must be one of {', '.join(PRODUCTS)}")
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
        for name in (
            "max_tokens",
            "min_labels",
            "labels_per_update",
            "rollouts_per_step",
            "steps_per_candidate",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
