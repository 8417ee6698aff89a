"""The seam between what is known of a policy and how it learns: a measured batch in, one step out.

An `Optimiser` of one's own says in `learn` what a step is; `learner.optimiser = "package.module:Class"` in
the settings names it. All that holds for every way of learning is here: Adam on the policy's adapter, the
learning rate's schedule, the price of KL, going back and going on. What is around it (rollouts, KL limits,
undoing, the self-check, the gate, checkpoints) does not ask which optimiser it is.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from deploy.engines.client import Sample
from feedback.joining.labels import Label
from learner.batching import Batch, Item
from learner.losses import Mismatch, ascend, learning_rate_scale, mismatch
from learner.model.adapters import rank_of
from learner.model.ranks import Ranks
from learner.model.shared import POLICY, SharedModel
from learner.model.width import default_learning_rate
from learner.monitor.lengths import kl_limit
from learner.reward.features import AnswerFeatures
from learner.rollouts.measuring import Measured, measure
from learner.settings import LearnerSettings, PPOSettings

UNDONE_WEIGHT = 5
"""An undone step raises the KL's price as much as so many steps far above the target: it is paid for with a
batch of rollouts that nothing was learned from."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one step may learn from.

    measured, scores: fresh rollouts of the policy, and what the reward model says of them, (B,). votes: those
    of this step, each with all that it weighs; as many as the optimiser asks for. demonstrations: (prompt,
    answer) pairs that raters wrote. pace: share of the learning rate to take. gains: what each token adds to
    its answer's score, (B, T), less one number for all answers (`learner.reward.credit`); None if unknown.
    """

    measured: Measured
    scores: Tensor
    votes: Sequence[Label] = ()
    demonstrations: Sequence[Item] = ()
    pace: float = 1.0
    gains: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """What a step was like. KL per response, entropy per token, lengths in tokens.

    kl_nats_step: how far the policy had moved from the rollouts' when that was last measured; perplexity: of
    the rollouts under the base, exp of the mean negative log-likelihood per token.
    """

    reward_mean: float
    kl_nats_base: float
    kl_nats_live: float
    kl_nats_step: float
    kl_coefficient: float
    learning_rate: float
    entropy_nats: float
    perplexity: float
    response_tokens: float
    grad_norm: float
    mismatch: Mismatch
    skipped_updates: int


@dataclass(slots=True)
class Moved:
    """What the updates of one step added up to; `kl_nats` is the newest."""

    kl_nats: float = 0.0
    grad_norm: float = 0.0
    learning_rate: float = 0.0
    skipped: int = 0


class Optimiser(ABC):
    """Trains `model`'s policy adapter. Deterministic on a CPU: the same calls give the same bits.

    kind: the name of the way, by which a checkpoint of another one is told; the class's path where the class
    itself gives none; learns_from_rollouts: whether a step learns more where there are more of them;
    votes_per_step: how many votes a step asks for; announce: called before all ranks compute a method
    together, with what it is called with.
    """

    kind: ClassVar[str] = ""
    learns_from_rollouts: ClassVar[bool] = True
    votes_per_step: int = 0

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.kind = cls.__dict__.get("kind") or f"{cls.__module__}:{cls.__qualname__}"

    def __init__(
        self, model: SharedModel, settings: PPOSettings, seed: int = 0, ranks: Ranks | None = None
    ) -> None:
        self.model = model
        self.settings = settings
        self.ranks = ranks or Ranks()
        self.announce: Callable[..., None] = lambda name, *arguments: None
        self.steps = 0
        self.kl_coefficient = settings.kl_coefficient
        self._generator = torch.Generator().manual_seed(seed)
        self._flat = model.flat[POLICY]
        self._learning_rate = settings.learning_rate or default_learning_rate(model.hidden_size)
        self._optimizer = torch.optim.AdamW(
            [self._flat.weights], lr=self._learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )

    @classmethod
    def of(cls, model: SharedModel, settings: LearnerSettings, ranks: Ranks | None = None) -> Self:
        """The optimiser of a learner with these settings."""
        return cls(model, settings.ppo, seed=settings.seed + 3, ranks=ranks)

    @abstractmethod
    def learn(self, lesson: Lesson) -> StepMetrics:
        """One step: move the policy's adapter, and say what that was like (see `common`).

        The price of KL follows from the rollouts afterwards, and the count of steps grows.
        """

    def teaches(self, vote: Label) -> bool:
        """Whether a step can learn from a vote, be it by way of the reward model."""
        return True

    @property
    def warms_up(self) -> bool:
        """Whether the next step leaves the policy where it is."""
        return False

    def measure(self, rollouts: Sequence[Sample], features: AnswerFeatures | None = None) -> Measured:
        """Logprobs, states and KL of rollouts, which the present policy must have made. features: to be shown
        what the base makes of them.

        Raises `ValueError` for no rollouts or one without tokens.
        """
        self.announce("measure", rollouts)
        return measure(self.model, self.ranks, rollouts, features)

    def step(
        self,
        measured: Measured,
        scores: Tensor,
        demonstrations: Sequence[Item] = (),
        pace: float = 1.0,
        votes: Sequence[Label] = (),
        gains: Tensor | None = None,
    ) -> StepMetrics:
        """One step on measured rollouts with `scores: (B,)` from the reward model; see `Lesson`.

        Raises `ValueError` when the scores are not finite or not as many as the rollouts, before anything
        moves.
        """
        self.announce("step", measured, scores, demonstrations, pace, votes, gains)
        _check_scores(scores, len(measured.items))
        found = self.learn(Lesson(measured, scores, votes, demonstrations, pace, gains))
        self._ascend(measured.kl_nats_live, measured.response_tokens)
        self.steps += 1
        return found

    # ---- the price of KL

    def raise_price(self) -> None:
        """A step was undone, because it passed a KL limit: a nat of KL costs more from now on."""
        for _ in range(UNDONE_WEIGHT):
            self._ascend(math.inf, 0.0)

    def kl_target(self, tokens: float) -> float:
        """The KL to live that the price aims at, of answers of `tokens` tokens, in nats per response."""
        return kl_limit(self.settings.kl_target_nats, tokens)

    def _ascend(self, kl_nats: float, tokens: float) -> None:
        settings = self.settings
        self.kl_coefficient = ascend(
            self.kl_coefficient,
            kl_nats,
            self.kl_target(tokens),
            settings.kl_rate,
            settings.kl_coefficient_min,
            settings.kl_coefficient_max,
        )

    # ---- what a step is made of

    def set_learning_rate(self, pace: float, step: int) -> float:
        """Take the learning rate of a step (from 0) of the schedule; what it is."""
        settings = self.settings
        schedule = settings.warmup_steps, settings.decay_steps, settings.final_learning_rate_ratio
        rate = pace * self._learning_rate * learning_rate_scale(step, *schedule)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        return rate

    def minibatches(self, count: int, size: int) -> Iterator[list[int]]:
        """All of `count` rows in a random order, `size` at a time."""
        order = torch.randperm(count, generator=self._generator).tolist()
        for start in range(0, count, size):
            yield order[start : start + size]

    def zero_grad(self) -> Tensor:
        """Set the gradient to 0; what a backward pass adds appears in the result, (N,)."""
        return self._flat.zero_grad()

    def take(self, moved: Moved) -> None:
        """An update along the gradient; none, and counted, when that is not finite."""
        norm = nn.utils.clip_grad_norm_([self._flat.weights], self.settings.max_grad_norm)
        if bool(torch.isfinite(norm)):
            self._optimizer.step()
            moved.grad_norm = float(norm)
        else:
            moved.skipped += 1

    def policy_logprobs(self, batch: Batch) -> Tensor:
        """The policy's logprobs (N,) of a batch's answer tokens, row after row."""
        return self.model.token_logprobs(self.model.predicting_states(batch, POLICY), batch.targets)

    def common(self, lesson: Lesson, moved: Moved) -> dict[str, Any]:
        """The fields of `StepMetrics`."""
        measured = lesson.measured
        mask = measured.mask
        cap = self.settings.importance_cap
        return {
            "reward_mean": float(lesson.scores.mean()),
            "kl_nats_base": measured.kl_nats_base,
            "kl_nats_live": measured.kl_nats_live,
            "kl_nats_step": moved.kl_nats,
            "kl_coefficient": self.kl_coefficient,
            "learning_rate": moved.learning_rate,
            "entropy_nats": measured.entropy_nats,
            "perplexity": measured.perplexity,
            "response_tokens": measured.response_tokens,
            "grad_norm": moved.grad_norm,
            "mismatch": mismatch(measured.logprobs[mask], measured.engine_logprobs[mask], cap),
            "skipped_updates": moved.skipped,
        }

    # ---- going back, and going on later

    def start_anew(self) -> None:
        """The policy is live's copy again, and what was learned on its way leads back to where it was.

        Adam's moments and the learning rate's schedule begin anew. The KL's price stays: what a nat is worth
        to these votes was learned as well.
        """
        self.steps = 0
        self._optimizer.state.clear()

    def snapshot(self) -> dict[str, Any]:
        """All that a step changes, for `restore`; plain tensors and numbers, so that it can be saved."""
        return {
            "kind": self.kind,
            "policy": self.model.adapter_state(POLICY),
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
            "generator": self._generator.get_state(),
            "kl_coefficient": self.kl_coefficient,
            "steps": self.steps,
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Become what `snapshot` described.

        It may be of a lower rank: Adam begins anew then. Of another kind's only the policy counts.
        """
        self.model.load_adapter_state(POLICY, snapshot["policy"])
        if snapshot.get("kind", "ppo") != self.kind:  # before there were kinds, all was PPO
            self.start_anew()
            self.kl_coefficient = self.settings.kl_coefficient
            return
        self._resume(snapshot)

    def _resume(self, snapshot: dict[str, Any]) -> None:
        """Take up all but the policy of a snapshot of this kind."""
        policy = snapshot["policy"]
        if rank_of(policy) == self.model.rank and policy.keys() == self._flat.parameters.keys():
            self._optimizer.load_state_dict(copy.deepcopy(snapshot["optimizer"]))
        else:
            self._optimizer.state.clear()
        self._generator.set_state(snapshot["generator"])
        limits = self.settings.kl_coefficient_min, self.settings.kl_coefficient_max
        self.kl_coefficient = min(max(snapshot["kl_coefficient"], limits[0]), limits[1])
        self.steps = snapshot["steps"]


def _check_scores(scores: Tensor, count: int) -> None:
    if scores.shape != (count,):
        raise ValueError(f"scores have the shape {tuple(scores.shape)}; {count} scores are needed")
    bad = (~torch.isfinite(scores)).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"the score of rollout {bad[0]} is {float(scores[bad[0]])}; scores must be finite")
