"""Everything that a learner process can be told."""

from dataclasses import dataclass, field
from pathlib import Path

from learner.ppo import PPOSettings


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
    rank: int = 8  # LoRA rank; the engine's --max-lora-rank must not be below it
    kl_budget_nats: float = 6.0  # KL of any published policy to the base, per response
    kl_publish_nats: float = 3.0  # KL of a published policy to the live one, per response
    min_labels: int = 500  # training labels before the first PPO step
    labels_per_update: int = 200  # new labels that start a reward-model update, at least
    rollouts_per_step: int = 128
    steps_per_candidate: int = 24  # PPO steps between two candidates
    max_tokens: int = 64  # longest rollout, in tokens
    pessimism: float = 0.5  # a rollout's score is the ensemble's mean - pessimism * its std
    judge_share: float = 0.25  # share of raters who judge candidates and never train the reward model
    gate_prompts: int = 128  # held-out prompts of the offline comparison
    ppo: PPOSettings = field(default_factory=PPOSettings)

    def __post_init__(self) -> None:
        if not 0 < self.judge_share < 1:
            raise ValueError(
                f"judge_share is {self.judge_share}; it must lie between 0 and 1, or one side has no raters"
            )
        if self.kl_budget_nats <= 0 or self.kl_publish_nats <= 0:
            raise ValueError("kl_budget_nats and kl_publish_nats must be above 0 nats per response")
        for name in ("min_labels", "labels_per_update", "rollouts_per_step", "steps_per_candidate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
