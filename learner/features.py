"""What a reward model sees of an answer: fixed features from the frozen base, computed once per answer.

Which tokens occur in it, its length, and the sum of its tokens' states in the middle layer of the base.
Occurrence asks whether something is said at all, so that saying it again is worth nothing; the states carry
what single tokens do not.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from feedback.join import Answer
from learner.batching import Batch, Item, in_buckets
from learner.model import SharedModel

CACHE_BYTES = 256 << 20
TOKEN_FEATURES = 4096  # a larger vocabulary is folded into so many

Key = tuple[str, int, tuple[int, ...]]


def key_of(answer: Answer) -> Key:
    """What tells one answer from others. A correction has its original's completion id, not its tokens."""
    return answer.completion_id, answer.choice, answer.token_ids


class AnswerFeatures:
    """Features of answers: `tokens` columns for occurrence, one for log length, `states` for the states."""

    def __init__(self, model: SharedModel) -> None:
        self._model = model
        self.tokens = min(model.vocab_size, TOKEN_FEATURES)
        self.states = model.hidden_size
        self.width = self.tokens + 1 + self.states
        self._cache: OrderedDict[Key, Tensor] = OrderedDict()
        self._cache_size = CACHE_BYTES // (4 * self.width)

    @torch.no_grad()
    def of_items(self, items: Sequence[Item]) -> Tensor:
        """The features (B, F) of (prompt, answer) pairs, on the CPU."""
        out = torch.zeros(len(items), self.width)
        for rows, batch in in_buckets(items, self._model.max_tokens, self._model.device):
            states = self._model.hidden(batch, None, self._model.layers // 2)
            out[rows, self.tokens :] = _pool(batch, states.float()).cpu()
        for row, (_, answer) in enumerate(items):
            out[row, [token % self.tokens for token in answer]] = 1.0
        return out

    def of_answers(self, answers: Sequence[Answer]) -> Tensor:
        """The features (B, F) of voted answers, which are computed once and then remembered for a while."""
        keys = [key_of(answer) for answer in answers]
        missing = {k: a for k, a in zip(keys, answers, strict=True) if k not in self._cache}
        if missing:
            found = self.of_items([(a.prompt_token_ids, a.token_ids) for a in missing.values()])
            self._cache.update(zip(missing, found, strict=True))
        out = torch.stack([self._cache[key] for key in keys])
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return out


def _pool(batch: Batch, states: Tensor) -> Tensor:
    """Log length and summed states (B, 1 + H) of the answers in the states (B, S, H) of a layer."""
    inside = _answer_places(batch)[..., None]
    return torch.cat([torch.log1p(inside.sum(1)), (states * inside).sum(1)], -1)


def _answer_places(batch: Batch) -> Tensor:
    """(B, S) True at the answers' tokens."""
    width = batch.tokens.shape[1]
    places = torch.arange(width, device=batch.tokens.device)[None]
    end = (batch.final % width)[:, None]
    return (places <= end) & (places > end - batch.mask.sum(1, keepdim=True))
