"""Supervised fine-tuning of the policy adapter on demonstrations: what a service may start from.

Mean cross-entropy of the answers' tokens, prompts left out (Ouyang et al. 2022, arXiv:2203.02155, section
3.5), on the same frozen base and adapter that PPO trains later. A part of the demonstrations is held out; the
weights after the epoch with the lowest loss on it are kept.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from learner.batching import Item, in_buckets
from learner.losses import learning_rate_scale
from learner.model.shared import POLICY, SharedModel
from learner.model.width import fine_tuning_rate
from learner.settings import FineTuningSettings

Progress = Callable[[int, int, float], None]
"""Called after every step with (steps done, steps in all, loss in nats per answer token)."""


@dataclass(frozen=True, slots=True)
class FineTuningReport:
    """Losses in nats per token of the held-out answers: of the base, and of the adapter that was kept."""

    demonstrations: int
    held_out: int
    steps: int
    epoch: int  # the one whose weights were kept, from 1; 0 if none was better than the base
    loss_before: float
    loss_after: float


def fine_tune(
    model: SharedModel,
    items: Sequence[Item],
    settings: FineTuningSettings,
    progress: Progress = lambda step, steps, loss: None,
) -> FineTuningReport:
    """Train `model`'s policy adapter on (prompt, answer) pairs. Deterministic on a CPU.

    Raises `ValueError` for fewer than two pairs.
    """
    if len(items) < 2:
        raise ValueError(f"{len(items)} demonstrations; at least 2 are needed, one of them to hold out")
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(len(items), generator=generator).tolist()
    count = max(1, round(settings.held_out * len(items)))
    held_out, training = [items[i] for i in order[:count]], [items[i] for i in order[count:]]
    flat = model.flat[POLICY]
    rate = settings.learning_rate or fine_tuning_rate(model.hidden_size)
    optimizer = torch.optim.AdamW([flat.weights], lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    per_epoch = math.ceil(len(training) / settings.batch_size)
    steps = settings.epochs * per_epoch
    before = best = held_out_loss(model, held_out)
    kept, epoch_kept, done = model.adapter_state(POLICY), 0, 0
    for epoch in range(1, settings.epochs + 1):
        shuffled = torch.randperm(len(training), generator=generator).tolist()
        for start in range(0, len(training), settings.batch_size):
            batch = [training[i] for i in shuffled[start : start + settings.batch_size]]
            scale = learning_rate_scale(done, settings.warmup_steps, steps, 0.1)
            optimizer.param_groups[0]["lr"] = rate * scale
            loss = gradient(model, batch, settings.update_tokens)
            nn.utils.clip_grad_norm_([flat.weights], settings.max_grad_norm)
            optimizer.step()
            done += 1
            progress(done, steps, loss)
        if (loss := held_out_loss(model, held_out)) < best:
            best, kept, epoch_kept = loss, model.adapter_state(POLICY), epoch
    model.load_adapter_state(POLICY, kept)
    return FineTuningReport(len(training), len(held_out), done, epoch_kept, before, best)


def gradient(model: SharedModel, batch: Sequence[Item], update_tokens: int) -> float:
    """The gradient (into the flat adapter's) of the mean loss per answer token, and that loss in nats."""
    model.flat[POLICY].zero_grad()
    tokens, total = sum(len(answer) for _, answer in batch), 0.0
    for _, part in in_buckets(batch, update_tokens, model.device):
        logprobs = model.token_logprobs(model.predicting_states(part, POLICY), part.targets)
        loss = -logprobs.sum() / tokens
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


def held_out_loss(model: SharedModel, items: Sequence[Item]) -> float:
    """The mean loss (nats) per answer token under the policy adapter."""
    logprobs = model.answer_logprobs(items, POLICY, exact=True)
    return -float(logprobs.sum()) / sum(len(answer) for _, answer in items)
