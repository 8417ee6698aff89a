"""Examples for those who learn from votes: which votes are drawn, and what each says of answers.

A vote gives one example. That of two answers is a pair: a comparison, a correction (the written answer beats
its original), a ranking (two of its answers, others each time). That of one answer is a thumb or a rating.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from feedback.joining.labels import Answer, Label
from learner.batching import Item
from learner.votes.objectives import main_objective

PAIRS = ("comparison", "correction", "ranking")
SINGLES = ("thumbs", "rating")


@dataclass(frozen=True, slots=True)
class Examples:
    """N examples of `answers` answers each, 1 or 2.

    items: N * answers (prompt, response) pairs, example after example; value: (N,) in [0, 1], how far the
    first answer is the better one, or the only one is good; weight: (N,).
    """

    items: list[Item]
    value: Tensor
    weight: Tensor
    answers: int

    def __len__(self) -> int:
        return len(self.value)

    def part(self, rows: Sequence[int]) -> Self:
        """Some of them."""
        n, chosen = self.answers, list(rows)
        items = [self.items[row * n + k] for row in chosen for k in range(n)]
        return replace(self, items=items, value=self.value[chosen], weight=self.weight[chosen])


def is_pair(vote: Label) -> bool:
    """Whether a vote says which of two answers people like better, or that they like both alike."""
    if vote.kind not in PAIRS or main_objective(vote) != "helpful":
        return False
    return vote.kind != "ranking" or len(vote.groups) > 1


def is_single(vote: Label) -> bool:
    """Whether a vote says that people like an answer, or that they do not."""
    return vote.kind in SINGLES and main_objective(vote) == "helpful"


def draw(votes: Sequence[Label], count: int, seed: int, number: int) -> list[Label]:
    """The batch `number` (from 0) of about `count` votes, of batches that go through all of them again and
    again, each time in another order.

    The same votes, in whatever order, and numbers give the same batch.
    """
    if not votes:
        return []
    batches = max(1, round(len(votes) / count))
    turn, place = divmod(number, batches)
    ordered = sorted(votes, key=lambda vote: _digest(seed, turn, vote.event_id))
    return ordered[place * len(votes) // batches : (place + 1) * len(votes) // batches]


def _digest(*parts: object) -> bytes:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).digest()


def pairs(votes: Sequence[Label], number: int) -> Examples:
    """The pairs that votes with `is_pair` give in the step `number`."""
    chosen = [_pair(vote, number) for vote in votes]
    items = [_item(answer) for first, second, _ in chosen for answer in (first, second)]
    return _examples(items, [value for _, _, value in chosen], [vote.weight for vote in votes], 2)


def singles(votes: Sequence[Label], number: int) -> Examples:
    """The answers that votes with `is_single` or `is_pair` give in the step `number`, a pair's both apart:
    the better one is good, and the other one is not. Each has half of the vote's weight."""
    rows: list[tuple[Answer, float, float]] = []
    for vote in votes:
        if is_single(vote):
            rows.append((vote.answers[0], vote.value, vote.weight))
        else:
            first, second, value = _pair(vote, number)
            rows += [(first, value, vote.weight / 2), (second, 1 - value, vote.weight / 2)]
    items = [_item(answer) for answer, _, _ in rows]
    return _examples(items, [value for _, value, _ in rows], [weight for _, _, weight in rows], 1)


def _pair(vote: Label, number: int) -> tuple[Answer, Answer, float]:
    """Two answers, and how far the first is the better one."""
    if vote.kind != "ranking":
        return vote.answers[0], vote.answers[1], vote.value
    drawn = random.Random(f"{number} {vote.event_id}")
    better, worse = sorted(drawn.sample(range(len(vote.groups)), 2))
    first, second = (drawn.choice(vote.groups[group]) for group in (better, worse))
    return vote.answers[first], vote.answers[second], 1.0


def _item(answer: Answer) -> Item:
    """All that was sampled, a thought included: it is a part of how the policy came to its answer."""
    return answer.prompt_token_ids, answer.token_ids


def _examples(items: list[Item], values: list[float], weights: list[float], answers: int) -> Examples:
    return Examples(items, torch.tensor(values), torch.tensor(weights), answers)
