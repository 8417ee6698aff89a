"""What a reward model sees of an answer: fixed features from the frozen base, computed once per answer.

Which tokens occur in it, its length, and the sum of its tokens' states in the middle layer of the base.
Occurrence asks whether something is said at all, so that saying it again is worth nothing; the states carry
what single tokens do not.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from feedback.join import Answer
from learner.batching import Batch, Item, in_buckets
from learner.model import SharedModel

CACHE_BYTES = 256 << 20
TOKEN_FEATURES = 4096  # a larger vocabulary is folded into so many

Key = str


def key_of(answer: Answer) -> Key:
    """What tells one answer from others, as a digest. A correction has its original's completion id, not its
    tokens."""
    text = f"{answer.completion_id} {answer.choice} {answer.token_ids}"
    return hashlib.sha256(text.encode()).hexdigest()


class AnswerFeatures:
    """Features of answers: `tokens` columns for occurrence, one for log length, `states` for the states."""

    def __init__(self, model: SharedModel) -> None:
        self._model = model
        self.tokens = min(model.vocab_size, TOKEN_FEATURES)
        self.states = model.hidden_size
        self.width = self.tokens + 1 + self.states
        self._cache: OrderedDict[Key, Tensor] = OrderedDict()  # what takes a pass through the model: (1 + H,)
        self._cache_size = CACHE_BYTES // (4 * (1 + self.states))

    def of_items(self, items: Sequence[Item]) -> Tensor:
        """The features (B, F) of (prompt, answer) pairs, on the CPU."""
        return torch.cat([self._occurrence([answer for _, answer in items]), self._dense(items)], 1)

    def of_answers(self, answers: Sequence[Answer]) -> Tensor:
        """The features (B, F) of voted answers, which are computed once and then remembered for a while."""
        keys = [key_of(answer) for answer in answers]
        missing = {k: a for k, a in zip(keys, answers, strict=True) if k not in self._cache}
        if missing:
            found = self._dense([answer.judged for answer in missing.values()])
            self._cache.update(zip(missing, found, strict=True))
        dense = torch.stack([self._cache[key] for key in keys])
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return torch.cat([self._occurrence([answer.judged[1] for answer in answers]), dense], 1)

    def _occurrence(self, answers: Sequence[Sequence[int]]) -> Tensor:
        out = torch.zeros(len(answers), self.tokens)
        for row, answer in enumerate(answers):
            out[row, [token % self.tokens for token in answer]] = 1.0
        return out

    @torch.no_grad()
    def _dense(self, items: Sequence[Item]) -> Tensor:
        out = torch.zeros(len(items), 1 + self.states)
        for rows, batch in in_buckets(items, self._model.max_tokens, self._model.device):
            states = self._model.hidden(batch, None, self._model.layers // 2)
            out[rows] = _pool(batch, states.float()).cpu()
        return out

    def state(self) -> dict[str, Any]:
        """What is remembered. A pass gives an answer other last bits in other company, so a learner that goes
        on from a checkpoint must not compute anew what it knew."""
        return {
            "keys": list(self._cache),
            "dense": torch.stack([*self._cache.values()]) if self._cache else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what `state()` described."""
        rows = () if state["dense"] is None else state["dense"]
        self._cache = OrderedDict(zip(state["keys"], rows, strict=True))

    def forget(self) -> None:
        """Remember nothing: somebody's words are to leave no trace."""
        self._cache.clear()


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
