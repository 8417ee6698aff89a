"""Batches of (prompt, answer) pairs, padded and packed, sorted into buckets of similar length.

Rows are padded on the right and go through the model with no attention mask: a causal model's real tokens
never look at what follows them, so a row's states are the same as when it is alone. A model that can keep
padding out of all but attention finds the real tokens by `real` and `pad`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch

Item = tuple[Sequence[int], Sequence[int]]  # token ids of a prompt and of its answer


@dataclass(frozen=True, slots=True)
class Batch:
    """B padded rows of S tokens whose longest answer has T tokens; R real tokens, N of them of answers.

    tokens: (B, S) ids, prompt then answer then padding; targets: (N,) the answers' ids, row after row; mask:
    (B, T) True at real answer tokens. Places in the flattened (B * S) rows: predicting: (N,) those whose
    states predict the targets; final: (B,) those of the last tokens; real: (R,) those that are not padding.
    positions: (R,) the real tokens' places in their own rows. pad: (B * S,) the place of each token among the
    real ones, for padding that of its row's last. lower: (R, H) the real tokens' states after the layers that
    no adapter changes, if a pass need not begin before them; exact_lower: the same for passes with products
    in float32.
    """

    tokens: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor
    predicting: torch.Tensor
    final: torch.Tensor
    real: torch.Tensor
    positions: torch.Tensor
    pad: torch.Tensor
    lower: torch.Tensor | None = None
    exact_lower: torch.Tensor | None = None

    @property
    def answers(self) -> torch.Tensor:
        """(N,) the places of the answers' tokens among the real ones."""
        return self.pad[self.predicting] + 1


def make_batch(items: Sequence[Item], device: torch.device | str = "cpu") -> Batch:
    """One batch of all items. Raises `ValueError` for no items or an empty prompt."""
    if not items:
        raise ValueError("a batch needs at least one (prompt, answer) pair")
    prompts = torch.tensor([len(prompt) for prompt, _ in items])[:, None]
    answers = torch.tensor([len(answer) for _, answer in items])[:, None]
    if not prompts.all():
        empty = int((prompts == 0).nonzero()[0, 0])
        raise ValueError(f"item {empty} has an empty prompt; a model needs a token to start from")
    lengths = prompts + answers
    width, longest = int(lengths.max()), int(answers.max())
    column = torch.arange(width)
    inside = column < lengths
    flat = torch.tensor(list(chain.from_iterable(chain(*item) for item in items)))
    tokens = torch.zeros(len(items), width, dtype=torch.long)
    tokens[inside] = flat
    starts = lengths.cumsum(0) - lengths  # of each row among the real tokens
    predicting = (column >= prompts - 1) & (column < lengths - 1)
    of_answer = (column >= prompts) & inside
    parts = {
        "tokens": tokens,
        "targets": tokens[of_answer],
        "mask": torch.arange(longest) < answers,
        "predicting": predicting.flatten().nonzero().squeeze(1),
        "final": (torch.arange(len(items)) * width + lengths[:, 0] - 1),
        "real": inside.flatten().nonzero().squeeze(1),
        "positions": column.expand(len(items), -1)[inside],
        "pad": (starts + torch.minimum(column, lengths - 1)).flatten(),
    }
    return Batch(**{name: part.to(device) for name, part in parts.items()})


def by_length(rows: Sequence[int], items: Sequence[Item]) -> list[int]:
    """Some rows of `items`, the shortest first."""
    return sorted(rows, key=lambda row: (len(items[row][0]) + len(items[row][1]), row))


def in_buckets(
    items: Sequence[Item],
    max_tokens: int,
    device: torch.device | str = "cpu",
    lower: Sequence[torch.Tensor] | None = None,
) -> Iterator[tuple[list[int], Batch]]:
    """Batches of items of similar length, each of at most `max_tokens` padded tokens (or a single item).

    Yields the items' indices with their batch; every item is in exactly one batch. lower: each item's part of
    `Batch.lower`.
    """
    for bucket in _buckets(items, max_tokens):
        batch = make_batch([items[i] for i in bucket], device)
        if lower is not None:
            batch = replace(batch, lower=torch.cat([lower[i] for i in bucket]).to(device))
        yield bucket, batch


def _buckets(items: Sequence[Item], max_tokens: int) -> Iterator[list[int]]:
    bucket: list[int] = []
    for index in by_length(range(len(items)), items):
        width = len(items[index][0]) + len(items[index][1])  # the longest so far, as the order is by length
        if bucket and width * (len(bucket) + 1) > max_tokens:
            yield bucket
            bucket = []
        bucket.append(index)
    if bucket:
        yield bucket
