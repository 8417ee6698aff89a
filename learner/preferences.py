"""Optimisers that learn from votes themselves: DPO and IPO from pairs, KTO from single answers as well.

The reference is live, and the loss is one of what the policy makes of each answer against it,

    log ratio = log policy(answer | prompt) - log live(answer | prompt), summed over the answer's tokens

What regularises towards the reference in these losses (beta of DPO and KTO, tau of IPO) is the price of a nat
of KL in the problem whose solution they fit (Rafailov et al. 2023, arXiv:2305.18290, equations 3 and 4). So
it is the one price that there is, `kl_coefficient`, which follows the KL of fresh rollouts as PPO's does.

One step goes once over the votes of its batch, some votes an update, until an update would start too far from
the policy that made the rollouts.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import ClassVar, Self

import torch
from torch import Tensor

from feedback.joining.labels import Label
from learner.batching import Batch, by_length, in_buckets
from learner.examples import Examples, is_pair, is_single, pairs, singles
from learner.losses import dpo_loss, ipo_loss, kl_k3, kto_loss
from learner.model.ranks import Ranks
from learner.model.shared import LIVE, POLICY, SharedModel
from learner.monitor.lengths import kl_limit
from learner.optimiser import Lesson, Moved, Optimiser, StepMetrics
from learner.rollouts.measuring import Measured
from learner.settings import LearnerSettings, PreferenceSettings

MOST_BALANCE = 10.0
"""The rarer of good and bad answers counts at most so many times as much, or a few votes would say it all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceMetrics(StepMetrics):
    """What a step on votes was like: how many there were, their mean loss, and the share of weight of those
    that the policy put as the voter did, before the update."""

    votes: int
    preference_loss: float
    preference_accuracy: float


@dataclass(slots=True)
class _Moved(Moved):
    """The same of the updates of one step; loss, hits and weight are sums."""

    loss: float = 0.0
    hits: float = 0.0
    weight: float = 0.0


class PreferenceOptimiser(Optimiser):
    """Learns from votes. A subclass says which examples they give, and what the loss of each is."""

    learns_from_rollouts = False

    def __init__(
        self,
        model: SharedModel,
        settings: LearnerSettings,
        seed: int = 0,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__(model, settings.ppo, seed, ranks)
        self.preference: PreferenceSettings = settings.preference
        self.noise = settings.reward.noise
        self.votes_per_step = settings.preference.votes_per_step

    @classmethod
    def of(cls, model: SharedModel, settings: LearnerSettings, ranks: Ranks | None = None) -> Self:
        """The optimiser of a learner with these settings."""
        return cls(model, settings, seed=settings.seed + 3, ranks=ranks)

    @abstractmethod
    def examples(self, votes: Sequence[Label]) -> Examples:
        """What the votes of a step say."""

    @abstractmethod
    def losses(self, log_ratios: Tensor, examples: Examples, kl_nats: float) -> Tensor:
        """The loss (N,) of each of N examples, by the log ratios (N, answers); kl_nats: of the rollouts."""

    @abstractmethod
    def hits(self, log_ratios: Tensor, examples: Examples, kl_nats: float) -> Tensor:
        """How far (N,), from 0 to 1, the policy has put each example as its voter did."""

    def fits(self, vote: Label) -> bool:
        """Whether the model has room for all answers of a vote with their prompts."""
        longest = max(len(a.prompt_token_ids) + len(a.token_ids) for a in vote.answers)
        return self.model.context is None or longest <= self.model.context

    def learn(self, lesson: Lesson) -> PreferenceMetrics:
        """One pass over the votes of the batch."""
        moved = _Moved()
        moved.learning_rate = self.set_learning_rate(lesson.pace, self.steps)
        votes = [vote for vote in lesson.votes if self.teaches(vote)]
        if votes:
            self._improve(self.examples(votes), lesson.measured, moved)
        weight = max(moved.weight, 1e-12)
        return PreferenceMetrics(
            **self.common(lesson, moved),
            votes=len(votes),
            preference_loss=moved.loss / weight,
            preference_accuracy=moved.hits / weight,
        )

    def _improve(self, examples: Examples, measured: Measured, moved: _Moved) -> None:
        most = kl_limit(self.settings.kl_step_nats, measured.response_tokens)
        size, count = self.preference.votes_per_update, len(measured.items)
        shown = cycle(self.minibatches(count, -(-count // self.settings.minibatches)))
        for number, rows in enumerate(self.minibatches(len(examples), size)):
            if number:
                moved.kl_nats = self.moved_nats(measured, next(shown))
            if moved.kl_nats > most:
                return
            self.gradient(examples.part(rows), measured.kl_nats_live, moved)
            self.take(moved)

    def gradient(self, examples: Examples, kl_nats: float, moved: "_Moved | None" = None) -> Tensor:
        """The gradient (flat) of the weighted mean loss of the examples, summed over all ranks.

        Losses need the log ratios of all answers of an example, and these lie in different batches. So log
        ratios are computed first, without gradient, then what the loss makes of each, and then the gradient
        of each answer's log likelihood, times that.
        """
        gradient = self.zero_grad()
        mine = self.ranks.share(by_length(range(len(examples.items)), examples.items))
        ratios = torch.zeros(len(examples.items))
        items = [examples.items[i] for i in mine]
        for rows, batch in in_buckets(items, self.model.max_tokens, self.model.device):
            ratios[[mine[row] for row in rows]] = self._log_ratios(batch).cpu()
        self.ranks.add_(ratios)
        ratios.requires_grad_()
        table = ratios.view(len(examples), examples.answers)
        losses = self.losses(table, examples, kl_nats) * examples.weight
        total = examples.weight.sum().clamp(min=1e-12)
        (worth,) = torch.autograd.grad(losses.sum() / total, ratios)
        for rows, batch in in_buckets(items, self.settings.update_tokens, self.model.device):
            each = worth[[mine[row] for row in rows]].to(self.model.device)
            logprobs = self.policy_logprobs(batch)
            (logprobs * each.repeat_interleave(batch.mask.sum(1))).sum().backward()  # type: ignore[no-untyped-call]
        self.ranks.add_(gradient)
        if moved is not None:
            hits = self.hits(table.detach(), examples, kl_nats) * examples.weight
            moved.loss += float(losses.detach().sum())
            moved.hits += float(hits.sum())
            moved.weight += float(examples.weight.sum())
        return gradient

    @torch.no_grad()
    def _log_ratios(self, batch: Batch) -> Tensor:
        """log policy - log live (B,) of a batch's answers."""
        live = None if self.model.is_base(LIVE) else LIVE
        policy, reference = (
            self.model.token_logprobs(self.model.predicting_states(batch, adapter), batch.targets).float()
            for adapter in (POLICY, live)
        )
        counts = batch.mask.sum(1)
        rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        return policy.new_zeros(len(counts)).index_add(0, rows, policy - reference)

    @torch.no_grad()
    def moved_nats(self, measured: Measured, rows: Sequence[int]) -> float:
        """KL (k3) of the policy of now to the one that made some rollouts, per response."""
        mine = self.ranks.share(by_length(rows, measured.items))
        total = torch.zeros(1, dtype=torch.float64)
        for part, batch in measured.in_buckets(mine, self.model.max_tokens, self.model.device):
            old = measured.logprobs[part][measured.mask[part]]
            total += kl_k3(old, self.policy_logprobs(batch).float().cpu()).double().sum()
        self.ranks.add_(total)
        return float(total) / len(rows)

    def _soft(self, value: Tensor) -> Tensor:
        """A vote's value when a share `noise` of all votes says the opposite of what was meant."""
        return value * (1 - 2 * self.noise) + self.noise


class _FromPairs(PreferenceOptimiser):
    """Learns from comparisons, corrections and rankings."""

    def teaches(self, vote: Label) -> bool:
        """Whether a vote gives a pair."""
        return is_pair(vote) and self.fits(vote)

    def examples(self, votes: Sequence[Label]) -> Examples:
        """The pairs."""
        return pairs(votes, self.steps)

    def hits(self, log_ratios: Tensor, examples: Examples, kl_nats: float) -> Tensor:
        """Whether the policy has made the better answer the likelier one, ties half."""
        agree = (log_ratios[:, 0] - log_ratios[:, 1]).sign() * (examples.value - 0.5).sign()
        return (agree + 1) / 2


class DPO(_FromPairs):
    """Direct preference optimisation."""

    kind: ClassVar[str] = "dpo"

    def losses(self, log_ratios: Tensor, examples: Examples, kl_nats: float) -> Tensor:
        """See `dpo_loss`."""
        margins = log_ratios[:, 0] - log_ratios[:, 1]
        return dpo_loss(margins, self._soft(examples.value), self.kl_coefficient)


class IPO(_FromPairs):
    """Identity preference optimisation, whose margins have a goal rather than growing without end."""

    kind: ClassVar[str] = "ipo"

    def losses(self, log_ratios: Tensor, examples: Examples, kl_nats: float) -> Tensor:
        """See `ipo_loss`."""
        margins = log_ratios[:, 0] - log_ratios[:, 1]
        return ipo_loss(margins, self._soft(examples.value), self.kl_coefficient)


class KTO(PreferenceOptimiser):
    """Kahneman-Tversky optimisation: from thumbs and ratings, and from the answers of pairs one by one.

    How much likelier than usual an answer has become is told against the KL of the policy to the
    reference, which the rollouts show exactly.
    """

    kind: ClassVar[str] = "kto"

    def teaches(self, vote: Label) -> bool:
        """Whether a vote says of any answer whether it is liked."""
        return (is_single(vote) or is_pair(vote)) and self.fits(vote)

    def examples(self, votes: Sequence[Label]) -> Examples:
        """The answers, so weighed that good and bad ones count alike, as Ethayarajh et al. 2024 do."""
        found = singles(votes, self.steps)
        good = float((found.weight * found.value).sum())
        bad = float((found.weight * (1 - found.value)).sum())
        if not good or not bad:
            return found
        each = (min(max(bad / good, 1.0), MOST_BALANCE), min(max(good / bad, 1.0), MOST_BALANCE))
        return replace(found, weight=found.weight * (found.value * each[0] + (1 - found.value) * each[1]))

    def losses(self, log_ratios: Tensor, examples: Examples, kl_nats: float) -> Tensor:
        """See `kto_loss`."""
        return kto_loss(log_ratios[:, 0], self._soft(examples.value), kl_nats, self.kl_coefficient)

    def hits(self, log_ratios: Tensor, examples: Examples, kl_nats: float) -> Tensor:
        """Whether the policy has made a good answer likelier than usual, and a bad one less likely."""
        return ((log_ratios[:, 0] - kl_nats).sign() * (examples.value - 0.5).sign() + 1) / 2
