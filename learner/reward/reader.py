"""A LoRA adapter on the same frozen base that learns to read answers as raters do, and scores them.

Its score is a linear head on the mean of an answer's last states. Adapter and head descend the likelihoods of
votes that the convex heads have too (`learner.reward.likelihoods`), each vote once, as they come. The score
is then one more feature for convex heads, so how far to believe it beside the others is fitted as ever, and
all that the heads are for (disagreement, objectives, thresholds, calibration) stays as it is.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from feedback.joining.labels import Label
from learner.batching import Batch, Item, in_buckets, make_batch
from learner.model.shared import READER, SharedModel
from learner.reward.likelihoods import Parameters, Votes
from learner.settings import RewardSettings

BATCH_VOTES = 16
"""Votes of one optimiser step."""

PASS_TOKENS = 2048
"""Tokens of one backward pass, or those of a single vote: it bounds memory and no more."""


class Reader:
    """The adapter `READER` of a model, and its head. Deterministic: the same calls give the same bits."""

    def __init__(self, model: SharedModel, settings: RewardSettings) -> None:
        self._model, self._settings = model, settings
        self._flat = model.flat[READER]
        self._head = nn.Parameter(torch.zeros(model.hidden_size, device=model.device))
        self._bias = nn.Parameter(torch.zeros(1))  # of thumbs
        rates = settings.reader_learning_rate, 10 * settings.reader_learning_rate
        groups = zip(([self._flat.weights], [self._head, self._bias]), rates, strict=True)
        self._optimizer = torch.optim.AdamW(
            [{"params": part, "lr": rate} for part, rate in groups], betas=(0.9, 0.95), weight_decay=0.0
        )
        self._learnt: dict[str, int] = {}  # event id -> revision

    def learn(self, labels: Sequence[Label]) -> int:
        """Take a step for each `BATCH_VOTES` of the votes that are new, oldest first; how many those were.

        labels: all votes that may be learned from; of others nothing is remembered.
        """
        new = [label for label in labels if self._learnt.get(label.event_id) != label.revision]
        for start in range(0, len(new), BATCH_VOTES):
            self._step(new[start : start + BATCH_VOTES])
        self._learnt = {label.event_id: label.revision for label in labels}
        return len(new)

    def _step(self, labels: Sequence[Label]) -> None:
        self._flat.zero_grad()
        self._head.grad = self._bias.grad = None
        for part in _parts(labels):
            votes = Votes(part, noise=self._settings.noise, margin=self._settings.correction_margin)
            items = [answer.judged for answer in votes.answers]
            scores = self._scores(make_batch(items, self._model.device)).cpu()[:, None]
            known = Parameters(1, votes.raters, votes.levels)
            known.bias = self._bias
            weights = torch.tensor([label.weight for label in votes.labels])[:, None]
            loss = (votes.losses(scores, known) * weights).sum() / len(labels)
            loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([self._flat.weights, self._head], 1.0)
        self._optimizer.step()

    def _scores(self, batch: Batch) -> Tensor:
        """The scores (B,) of a batch's answers, in logits; 0 for an answer of nothing."""
        states = self._model.answer_states(batch, READER).float()
        counts = batch.mask.sum(1)
        rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        sums = states.new_zeros(len(counts)).index_add(0, rows, states @ self._head)
        scores: Tensor = sums / counts.clamp(min=1) / len(self._head) ** 0.5
        return scores

    @torch.no_grad()
    def score(self, items: Sequence[Item]) -> Tensor:
        """The scores (B,) of (prompt, answer) pairs, in logits, on the CPU."""
        out = torch.zeros(len(items))
        for rows, batch in in_buckets(items, self._model.max_tokens, self._model.device):
            out[rows] = self._scores(batch).cpu()
        return out

    def state_dict(self) -> dict[str, Any]:
        """All that learning changes."""
        return {
            "adapter": self._flat.weights.detach().cpu().clone(),
            "head": self._head.detach().cpu().clone(),
            "bias": self._bias.detach().clone(),
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
            "learnt": dict(self._learnt),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described. Raises `ValueError` when it is of another model."""
        if state["adapter"].shape != self._flat.weights.shape:
            raise ValueError(
                f"the state has {len(state['adapter'])} adapter weights; {len(self._flat.weights)} are needed"
            )
        with torch.no_grad():
            for name, tensor in (("adapter", self._flat.weights), ("head", self._head), ("bias", self._bias)):
                tensor.copy_(state[name])
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self._learnt = dict(state["learnt"])


def tokens_of(label: Label) -> int:
    """The tokens of all that a vote is about."""
    return sum(len(answer.prompt_token_ids) + len(answer.token_ids) for answer in label.answers)


def _parts(labels: Sequence[Label]) -> Iterator[list[Label]]:
    """Votes of at most `PASS_TOKENS` tokens each, or single ones."""
    part: list[Label] = []
    for label in labels:
        if part and sum(map(tokens_of, [*part, label])) > PASS_TOKENS:
            yield part
            part = []
        part.append(label)
    if part:
        yield part
