"""Proximal policy optimisation of the policy adapter, with a price on its KL to the live policy.

One `step` on rollouts of the present policy (Ouyang et al. 2022, arXiv:2203.02155, appendix C; Schulman et
al. 2017, arXiv:1707.06347):

    reward_t  = -price * (log policy - log live)_t, and at the last token the score; when the answer was cut
                off, that of an average whole one at most, less a penalty
    advantage = GAE of the rewards under the critic, whitened over the batch
    update    = some epochs of minibatches on the clipped surrogate, with demonstrations mixed in, until one
                finds the policy too far from the one that made the rollouts
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from learner.batching import Batch, Item, by_length, in_buckets
from learner.losses import (
    beside_others,
    explained_variance,
    gae,
    importance_weights,
    kl_k1,
    kl_k3,
    policy_loss,
    whiten,
)
from learner.model.ranks import Ranks
from learner.model.shared import SharedModel
from learner.monitor.lengths import cut_off_penalty, default_lam, kl_limit
from learner.optimiser import Lesson, Moved, Optimiser, StepMetrics
from learner.rollouts.critic import Critic, CriticTrainer
from learner.rollouts.measuring import Measured
from learner.settings import LearnerSettings, PPOSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class PPOMetrics(StepMetrics):
    """What a PPO step was like; `kl_nats_step` is what the last minibatch found.

    epochs: whole ones; demonstration_nats: the demonstrations' mean loss per token.
    """

    clip_ratio: float
    explained_variance: float
    demonstration_nats: float
    epochs: int


class PPO(Optimiser):
    """Learns from what the reward model says of rollouts; votes teach it by way of that model.

    usual: rollouts of an ordinary step; one with more of them has more minibatches, not larger ones.
    """

    kind: ClassVar[str] = "ppo"
    usual: int | None = None

    def __init__(
        self, model: SharedModel, settings: PPOSettings, seed: int = 0, ranks: Ranks | None = None
    ) -> None:
        super().__init__(model, settings, seed, ranks)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.critic = Critic(model.hidden_size).to(model.device)
        self._new_critic = copy.deepcopy(self.critic.state_dict())
        self._critic = CriticTrainer(
            self.critic, settings.critic_learning_rate, settings.critic_epochs, settings.value_clip
        )

    @classmethod
    def of(cls, model: SharedModel, settings: LearnerSettings, ranks: Ranks | None = None) -> Self:
        """The optimiser of a learner with these settings."""
        found = super().of(model, settings, ranks)
        found.usual = settings.rollouts_per_step
        return found

    @property
    def warms_up(self) -> bool:
        """Whether only the critic learns in the next step."""
        return self.steps < self.settings.critic_warmup_steps

    def learn(self, lesson: Lesson) -> PPOMetrics:
        """Some epochs on the rollouts, and the critic's."""
        measured = lesson.measured
        mask, device = measured.mask, self.model.device
        rewards = self._rewards(lesson)
        values = torch.zeros(mask.shape)
        states = measured.states.to(device)
        with torch.no_grad():
            values[mask] = self.critic(states).cpu()
        lam = self.settings.lam
        if lam is None:
            lam = default_lam(measured.response_tokens, at_the_end=lesson.gains is None)
        advantages, returns = gae(rewards, values, mask, self.settings.gamma, lam)
        if lesson.gains is not None:
            advantages = beside_others(advantages, mask)
        moved = _Moved()
        if not self.warms_up:
            self._improve(lesson, whiten(advantages, mask), moved)
        moved.skipped += self._critic.train(states, values[mask].to(device), returns[mask].to(device))
        return PPOMetrics(
            **self.common(lesson, moved),
            clip_ratio=moved.clipped / max(moved.tokens, 1),
            explained_variance=explained_variance(values[mask], returns[mask]),
            demonstration_nats=moved.demonstrated / max(moved.demonstrated_tokens, 1),
            epochs=moved.epochs,
        )

    def _rewards(self, lesson: Lesson) -> Tensor:
        """Rewards (B, T): at every token the KL penalty and what it adds to the score; at the last one what
        the answer is worth beside that."""
        measured = lesson.measured
        rewards = -self.kl_coefficient * kl_k1(measured.logprobs, measured.live_logprobs)
        scores = lesson.scores.float().cpu()
        left = self._worth(scores, measured.cut_off)
        if lesson.gains is not None:
            rewards += lesson.gains.float().cpu()
            left = left - scores
        last = measured.mask.sum(1) - 1
        rewards[torch.arange(len(last)), last] += left
        return rewards

    def _worth(self, scores: Tensor, cut_off: Tensor) -> Tensor:
        """The scores (B,), without what an answer that was cut off (B,) may not have."""
        penalty = cut_off_penalty(self.settings.cut_off_penalty, float(cut_off.float().mean()))
        if not self.settings.cut_off_penalty or bool(cut_off.all()):
            return scores - penalty * cut_off
        stump = scores.clamp(max=float(scores[~cut_off].mean())) - penalty
        return torch.where(cut_off, stump, scores)

    def _improve(self, lesson: Lesson, advantages: Tensor, moved: "_Moved") -> None:
        settings, measured, demonstrations = self.settings, lesson.measured, lesson.demonstrations
        most = kl_limit(settings.kl_step_nats, measured.response_tokens)
        moved.learning_rate = self.set_learning_rate(lesson.pace, self.steps - settings.critic_warmup_steps)
        count = len(measured.items)
        size = -(-min(count, self.usual or count) // settings.minibatches)
        for _ in range(settings.epochs):
            portions = self._portions(len(demonstrations), -(-count // size))
            for rows, shown in zip(self.minibatches(count, size), portions, strict=True):
                self.gradient(measured, advantages, rows, [demonstrations[i] for i in shown], moved)
                if moved.kl_nats > most:
                    return
                self.take(moved)
            moved.epochs += 1

    def _portions(self, count: int, minibatches: int) -> Iterator[list[int]]:
        """A minibatch's share of `count` demonstrations."""
        order = torch.randperm(count, generator=self._generator).tolist() if count else []
        size = -(-count // minibatches)
        for index in range(minibatches):
            yield order[index * size : (index + 1) * size]

    def gradient(
        self,
        measured: Measured,
        advantages: Tensor,
        rows: Sequence[int],
        demonstrations: Sequence[Item] = (),
        moved: "_Moved | None" = None,
    ) -> Tensor:
        """The gradient (flat) of the mean loss per rollout token of some rows, summed over all ranks.

        A demonstration's token counts like a rollout's, times `ptx_coefficient`. `moved` takes the sums that
        the step's metrics are made of.
        """
        gradient = self.zero_grad()
        total = int(measured.mask[list(rows)].sum())
        sums = torch.zeros(4, dtype=torch.float64)  # KL, clipped tokens, demonstrations' loss and tokens
        mine = self.ranks.share(by_length(rows, measured.items))
        for part, batch in measured.in_buckets(mine, self.settings.update_tokens, self.model.device):
            losses, clipped, kl = self._losses(measured, advantages, part, batch)
            (losses.sum() / total).backward()  # type: ignore[no-untyped-call]
            sums[:2] += torch.stack([kl.sum(), clipped.sum()]).cpu()
        shown = self.ranks.share(demonstrations)
        for _, batch in in_buckets(shown, self.settings.update_tokens, self.model.device):
            logprobs = self.policy_logprobs(batch)
            loss = -logprobs.sum() * self.settings.ptx_coefficient / total
            loss.backward()  # type: ignore[no-untyped-call]
            sums[2:] += torch.stack([-logprobs.detach().sum(), logprobs.new_tensor(len(logprobs))]).cpu()
        self.ranks.add_(gradient, sums)
        if moved is not None:
            moved.add(sums, total, len(rows))
        return gradient

    def _losses(
        self, measured: Measured, advantages: Tensor, rows: list[int], batch: Batch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, whether it was clipped, and KL (k3) to the rollouts' policy at each of the rows' N tokens."""
        mask, device = measured.mask[rows], self.model.device
        old, engine, advantage = (
            table[rows][mask].to(device)
            for table in (measured.logprobs, measured.engine_logprobs, advantages)
        )
        logprobs = self.policy_logprobs(batch)
        losses, clipped = policy_loss(logprobs, old, advantage, self.settings.clip)
        weights = importance_weights(old, engine, self.settings.importance_cap)
        return losses * weights, clipped, kl_k3(old, logprobs.detach())

    # ---- going back, and going on later

    def start_anew(self) -> None:
        """The critic begins anew as well."""
        super().start_anew()
        self.critic.load_state_dict(self._new_critic)
        self._critic.optimizer.state.clear()

    def snapshot(self) -> dict[str, Any]:
        """The critic's weights and Adam's moments of it as well."""
        return {**super().snapshot(), **copy.deepcopy(self._critic.state_dict())}

    def _resume(self, snapshot: dict[str, Any]) -> None:
        super()._resume(snapshot)
        self.critic.load_state_dict(snapshot["critic"])
        self._critic.optimizer.load_state_dict(copy.deepcopy(snapshot["critic_optimizer"]))


@dataclass(slots=True)
class _Moved(Moved):
    """The same of the epochs of one step."""

    clipped: float = 0.0
    tokens: int = 0
    demonstrated: float = 0.0
    demonstrated_tokens: float = 0.0
    epochs: int = 0

    def add(self, sums: Tensor, tokens: int, responses: int) -> None:
        """Take in one update's sums: KL, clipped tokens, demonstrations' loss and tokens."""
        self.kl_nats = float(sums[0]) / responses
        self.clipped += float(sums[1])
        self.demonstrated += float(sums[2])
        self.demonstrated_tokens += float(sums[3])
        self.tokens += tokens
