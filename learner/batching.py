"""Padded batches of (prompt, answer) pairs, sorted into buckets of similar length.

Rows are padded on the right and go through the model with no attention mask: a causal model's real tokens
never look at what follows them, so a row's states are the same as when it is alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

Item = tuple[Sequence[int], Sequence[int]]  # token ids of a prompt and of its answer


@dataclass(frozen=True, slots=True)
class Batch:
    """B padded rows of S tokens whose longest answer has T tokens.

    tokens: (B, S) ids, prompt then answer then padding; answers: (B, T) ids, padded with 0; mask: (B, T)
    True at real answer tokens; predicting: (N,) places in the flattened (B * S) rows whose states predict the
    N real answer tokens, row after row; final: (B,) places in the flattened rows of the last answer tokens.
    """

    tokens: torch.Tensor
    answers: torch.Tensor
    mask: torch.Tensor
    predicting: torch.Tensor
    final: torch.Tensor


def make_batch(items: Sequence[Item], device: torch.device | str = "cpu") -> Batch:
    """One batch of all items. Raises `ValueError` for no items or an empty prompt."""
    if not items:
        raise ValueError("a batch needs at least one (prompt, answer) pair")
    prompts = [len(prompt) for prompt, _ in items]
    answers = [len(answer) for _, answer in items]
    if min(prompts) == 0:
        raise ValueError(f"item {prompts.index(0)} has an empty prompt; a model needs a token to start from")
    width, longest = max(p + a for p, a in zip(prompts, answers, strict=True)), max(answers)
    rows = [[*prompt, *answer] + [0] * (width - len(prompt) - len(answer)) for prompt, answer in items]
    answer_rows = [[*answer] + [0] * (longest - len(answer)) for _, answer in items]
    predicting = [
        row * width + start - 1 + t
        for row, (start, length) in enumerate(zip(prompts, answers, strict=True))
        for t in range(length)
    ]
    final = [row * width + p + a - 1 for row, (p, a) in enumerate(zip(prompts, answers, strict=True))]
    mask = torch.arange(longest) < torch.tensor(answers)[:, None]
    return Batch(
        tokens=torch.tensor(rows, device=device),
        answers=torch.tensor(answer_rows, dtype=torch.long, device=device).reshape(len(items), longest),
        mask=mask.to(device),
        predicting=torch.tensor(predicting, dtype=torch.long, device=device),
        final=torch.tensor(final, device=device),
    )


def in_buckets(
    items: Sequence[Item], max_tokens: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[list[int], Batch]]:
    """Batches of items of similar length, each of at most `max_tokens` padded tokens (or a single item).

    Yields the items' indices with their batch; every item is in exactly one batch.
    """
    order = sorted(range(len(items)), key=lambda i: (len(items[i][0]) + len(items[i][1]), i))
    bucket: list[int] = []
    for index in order:
        width = len(items[index][0]) + len(items[index][1])  # the longest so far, as the order is by length
        if bucket and width * (len(bucket) + 1) > max_tokens:
            yield bucket, make_batch([items[i] for i in bucket], device)
            bucket = []
        bucket.append(index)
    if bucket:
        yield bucket, make_batch([items[i] for i in bucket], device)
