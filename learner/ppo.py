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
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deploy.engine import Sample
from learner.adapters import rank_of
from learner.batching import Batch, Item, in_buckets
from learner.critic import Critic, CriticTrainer
from learner.lengths import default_lam, kl_limit
from learner.losses import (
    Mismatch,
    ascend,
    explained_variance,
    gae,
    importance_weights,
    kl_k1,
    kl_k3,
    learning_rate_scale,
    mismatch,
    policy_loss,
    whiten,
)
from learner.measuring import Measured, measure
from learner.model import POLICY, SharedModel
from learner.ranks import Ranks
from learner.settings import PPOSettings
from learner.width import default_learning_rate

UNDONE_WEIGHT = 5
"""An undone step raises the KL's price as much as so many steps far above the target: it is paid for with a
batch of rollouts that nothing was learned from."""


@dataclass(frozen=True, slots=True)
class PPOMetrics:
    """What a step was like. KL per response, entropy per token, lengths in tokens.

    kl_nats_step: what the last minibatch found to the rollouts' policy; epochs: whole ones; perplexity: of
    the rollouts under the base, exp of the mean negative log-likelihood per token; demonstration_nats: the
    demonstrations' mean loss per token.
    """

    reward_mean: float
    kl_nats_base: float
    kl_nats_live: float
    kl_nats_step: float
    kl_coefficient: float
    learning_rate: float
    clip_ratio: float
    entropy_nats: float
    perplexity: float
    response_tokens: float
    explained_variance: float
    grad_norm: float
    mismatch: Mismatch
    demonstration_nats: float
    epochs: int
    skipped_updates: int


class PPO:
    """Trains `model`'s policy adapter. Deterministic on a CPU: the same calls give the same bits."""

    def __init__(
        self, model: SharedModel, settings: PPOSettings, seed: int = 0, ranks: Ranks | None = None
    ) -> None:
        self.model = model
        self.settings = settings
        self.ranks = ranks or Ranks()
        self.steps = 0
        self.kl_coefficient = settings.kl_coefficient
        self._generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.critic = Critic(model.hidden_size).to(model.device)
        self._new_critic = copy.deepcopy(self.critic.state_dict())
        self._flat = model.flat[POLICY]
        self._learning_rate = settings.learning_rate or default_learning_rate(model.hidden_size)
        self._optimizer = torch.optim.AdamW(
            [self._flat.weights], lr=self._learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )
        self._critic = CriticTrainer(
            self.critic, settings.critic_learning_rate, settings.critic_epochs, settings.value_clip
        )

    def measure(self, rollouts: Sequence[Sample]) -> Measured:
        """Logprobs, states and KL of rollouts, which the present policy must have made.

        Raises `ValueError` for no rollouts or one without tokens.
        """
        self._announce("measure", rollouts)
        return measure(self.model, self.ranks, rollouts)

    def step(
        self,
        measured: Measured,
        scores: Tensor,
        demonstrations: Sequence[Item] = (),
        pace: float = 1.0,
    ) -> PPOMetrics:
        """One PPO step on measured rollouts with `scores: (B,)` from the reward model.

        demonstrations: (prompt, answer) pairs to imitate in the same updates. pace: share of the learning
        rate to take. Raises `ValueError` when the scores are not finite or not as many as the rollouts,
        before anything moves.
        """
        self._announce("step", measured, scores, demonstrations, pace)
        _check_scores(scores, len(measured.items))
        mask, device = measured.mask, self.model.device
        rewards = self._rewards(measured, scores)
        values = torch.zeros(mask.shape)
        states = measured.states.to(device)
        with torch.no_grad():
            values[mask] = self.critic(states).cpu()
        lam = self.settings.lam
        if lam is None:
            lam = default_lam(measured.response_tokens)
        advantages, returns = gae(rewards, values, mask, self.settings.gamma, lam)
        moved = _Moved()
        if self.steps >= self.settings.critic_warmup_steps:
            moved = self._improve(measured, whiten(advantages, mask), demonstrations, pace)
        moved.skipped += self._critic.train(states, values[mask].to(device), returns[mask].to(device))
        used = self.kl_coefficient
        self._ascend(measured.kl_nats_live, measured.response_tokens)
        self.steps += 1
        return PPOMetrics(
            reward_mean=float(scores.mean()),
            kl_nats_base=measured.kl_nats_base,
            kl_nats_live=measured.kl_nats_live,
            kl_nats_step=moved.kl_nats,
            kl_coefficient=used,
            learning_rate=moved.learning_rate,
            clip_ratio=moved.clipped / max(moved.tokens, 1),
            entropy_nats=measured.entropy_nats,
            perplexity=measured.perplexity,
            response_tokens=measured.response_tokens,
            explained_variance=explained_variance(values[mask], returns[mask]),
            grad_norm=moved.grad_norm,
            mismatch=mismatch(
                measured.logprobs[mask], measured.engine_logprobs[mask], self.settings.importance_cap
            ),
            demonstration_nats=moved.demonstrated / max(moved.demonstrated_tokens, 1),
            epochs=moved.epochs,
            skipped_updates=moved.skipped,
        )

    def raise_price(self) -> None:
        """A step was undone, because it passed a KL limit: a nat of KL costs more from now on."""
        for _ in range(UNDONE_WEIGHT):
            self._ascend(math.inf, 0.0)

    def _ascend(self, kl_nats: float, tokens: float) -> None:
        settings = self.settings
        self.kl_coefficient = ascend(
            self.kl_coefficient,
            kl_nats,
            kl_limit(settings.kl_target_nats, tokens),
            settings.kl_rate,
            settings.kl_coefficient_min,
            settings.kl_coefficient_max,
        )

    def _announce(self, name: str, *arguments: Any) -> None:
        """Called before all ranks compute a method together, with what it was called with."""

    def _rewards(self, measured: Measured, scores: Tensor) -> Tensor:
        """Rewards (B, T): the KL penalty at every token, and at the last one what the answer is worth."""
        rewards = -self.kl_coefficient * kl_k1(measured.logprobs, measured.live_logprobs)
        last = measured.mask.sum(1) - 1
        rewards[torch.arange(len(last)), last] += self._worth(scores.float().cpu(), measured.cut_off)
        return rewards

    def _worth(self, scores: Tensor, cut_off: Tensor) -> Tensor:
        """The scores (B,), without what an answer that was cut off (B,) may not have."""
        penalty = self.settings.cut_off_penalty
        if not penalty or bool(cut_off.all()):
            return scores - penalty * cut_off
        stump = scores.clamp(max=float(scores[~cut_off].mean())) - penalty
        return torch.where(cut_off, stump, scores)

    def _improve(
        self, measured: Measured, advantages: Tensor, demonstrations: Sequence[Item], pace: float
    ) -> "_Moved":
        settings, moved = self.settings, _Moved()
        most = kl_limit(settings.kl_step_nats, measured.response_tokens)
        moved.learning_rate = (
            pace
            * self._learning_rate
            * learning_rate_scale(
                self.steps - settings.critic_warmup_steps,
                settings.warmup_steps,
                settings.decay_steps,
                settings.final_learning_rate_ratio,
            )
        )
        for group in self._optimizer.param_groups:
            group["lr"] = moved.learning_rate
        for _ in range(settings.epochs):
            portions = self._portions(len(demonstrations))
            pairs = zip(self._minibatches(len(measured.items)), portions, strict=False)
            for rows, shown in pairs:
                self.gradient(measured, advantages, rows, [demonstrations[i] for i in shown], moved)
                if moved.kl_nats > most:
                    return moved
                self._take(moved)
            moved.epochs += 1
        return moved

    def _minibatches(self, count: int) -> Iterator[list[int]]:
        order = torch.randperm(count, generator=self._generator).tolist()
        size = -(-count // self.settings.minibatches)
        for start in range(0, count, size):
            yield order[start : start + size]

    def _portions(self, count: int) -> Iterator[list[int]]:
        """A minibatch's share of `count` demonstrations, for as long as one asks."""
        order = torch.randperm(count, generator=self._generator).tolist() if count else []
        size = -(-count // self.settings.minibatches)
        for index in range(self.settings.minibatches):
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
        gradient = self._flat.zero_grad()
        total = int(measured.mask[list(rows)].sum())
        sums = torch.zeros(4, dtype=torch.float64)  # KL, clipped tokens, demonstrations' loss and tokens
        mine = self.ranks.share(_by_length(rows, measured.items))
        items = [measured.items[row] for row in mine]
        for places, batch in in_buckets(items, self.settings.update_tokens, self.model.device):
            part = [mine[place] for place in places]
            losses, clipped, kl = self._losses(measured, advantages, part, batch)
            (losses.sum() / total).backward()  # type: ignore[no-untyped-call]
            sums[:2] += torch.stack([kl.sum(), clipped.sum()]).cpu()
        shown = self.ranks.share(demonstrations)
        for _, batch in in_buckets(shown, self.settings.update_tokens, self.model.device):
            logprobs = self._logprobs(batch)
            loss = -logprobs.sum() * self.settings.ptx_coefficient / total
            loss.backward()  # type: ignore[no-untyped-call]
            sums[2:] += torch.stack([-logprobs.detach().sum(), logprobs.new_tensor(len(logprobs))]).cpu()
        self.ranks.add_(gradient, sums)
        if moved is not None:
            moved.add(sums, total, len(rows))
        return gradient

    def _take(self, moved: "_Moved") -> None:
        """An optimiser step along the gradient; none, and counted, when that is not finite."""
        norm = nn.utils.clip_grad_norm_([self._flat.weights], self.settings.max_grad_norm)
        if bool(torch.isfinite(norm)):
            self._optimizer.step()
            moved.grad_norm = float(norm)
        else:
            moved.skipped += 1

    def _logprobs(self, batch: Batch) -> Tensor:
        return self.model.token_logprobs(self.model.predicting_states(batch, POLICY), batch.targets)

    def _losses(
        self, measured: Measured, advantages: Tensor, rows: list[int], batch: Batch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, whether it was clipped, and KL (k3) to the rollouts' policy at each of the rows' N tokens."""
        mask, device = measured.mask[rows], self.model.device
        old, engine, advantage = (
            table[rows][mask].to(device)
            for table in (measured.logprobs, measured.engine_logprobs, advantages)
        )
        logprobs = self._logprobs(batch)
        losses, clipped = policy_loss(logprobs, old, advantage, self.settings.clip)
        weights = importance_weights(old, engine, self.settings.importance_cap)
        return losses * weights, clipped, kl_k3(old, logprobs.detach())

    # ---- going back, and going on later

    def start_anew(self) -> None:
        """The policy is live's copy again, and what was learned on its way leads back to where it was.

        Adam's moments, the critic and the learning rate's schedule begin anew. The KL's price stays: what a
        nat is worth to these votes was learned as well.
        """
        self.steps = 0
        self._optimizer.state.clear()
        self.critic.load_state_dict(self._new_critic)
        self._critic.optimizer.state.clear()

    def snapshot(self) -> dict[str, Any]:
        """All that a step changes, for `restore`; plain tensors and numbers, so that it can be saved."""
        return {
            "policy": self.model.adapter_state(POLICY),
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
            **copy.deepcopy(self._critic.state_dict()),
            "generator": self._generator.get_state(),
            "kl_coefficient": self.kl_coefficient,
            "steps": self.steps,
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Become what `snapshot` described, which may be of a lower rank: the optimiser begins anew then."""
        self.model.load_adapter_state(POLICY, snapshot["policy"])
        if rank_of(snapshot["policy"]) == self.model.rank:
            self._optimizer.load_state_dict(copy.deepcopy(snapshot["optimizer"]))
        else:
            self._optimizer.state.clear()
        self.critic.load_state_dict(snapshot["critic"])
        self._critic.optimizer.load_state_dict(copy.deepcopy(snapshot["critic_optimizer"]))
        self._generator.set_state(snapshot["generator"])
        limits = self.settings.kl_coefficient_min, self.settings.kl_coefficient_max
        self.kl_coefficient = min(max(snapshot["kl_coefficient"], limits[0]), limits[1])
        self.steps = snapshot["steps"]


def _by_length(rows: Sequence[int], items: Sequence[Item]) -> list[int]:
    return sorted(rows, key=lambda row: (len(items[row][0]) + len(items[row][1]), row))


def _check_scores(scores: Tensor, count: int) -> None:
    if scores.shape != (count,):
        raise ValueError(f"scores have the shape {tuple(scores.shape)}; {count} scores are needed")
    bad = (~torch.isfinite(scores)).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"the score of rollout {bad[0]} is {float(scores[bad[0]])}; scores must be finite")


@dataclass(slots=True)
class _Moved:
    """What the epochs of one step added up to."""

    kl_nats: float = 0.0
    clipped: float = 0.0
    tokens: int = 0
    demonstrated: float = 0.0
    demonstrated_tokens: float = 0.0
    grad_norm: float = 0.0
    learning_rate: float = 0.0
    epochs: int = 0
    skipped: int = 0

    def add(self, sums: Tensor, tokens: int, responses: int) -> None:
        """Take in one update's sums: KL, clipped tokens, demonstrations' loss and tokens."""
        self.kl_nats = float(sums[0]) / responses
        self.clipped += float(sums[1])
        self.demonstrated += float(sums[2])
        self.demonstrated_tokens += float(sums[3])
        self.tokens += tokens
