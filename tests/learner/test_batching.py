"""Batches against the items that they were made of."""

import random

import pytest

from learner.batching import Item, in_buckets, make_batch


def some_items(count: int, seed: int = 0) -> list[Item]:
    draw = random.Random(seed)

    def tokens(low: int, high: int) -> list[int]:
        return [draw.randrange(3, 64) for _ in range(draw.randint(low, high))]

    return [(tokens(1, 9), tokens(0, 12)) for _ in range(count)]


def test_a_batch_points_at_every_items_tokens() -> None:
    items = some_items(20)
    batch = make_batch(items)
    flat = batch.tokens.flatten().tolist()
    assert [flat[place] for place in batch.final.tolist()] == [[*p, *a][-1] for p, a in items]
    before = [([p[-1], *a])[:-1] for p, a in items]  # the tokens just before each answer token
    assert [flat[place] for place in batch.predicting.tolist()] == [token for row in before for token in row]
    assert batch.targets.tolist() == [token for _, answer in items for token in answer]
    assert batch.mask.sum(1).tolist() == [len(answer) for _, answer in items]
    assert [flat[place] for place in batch.real.tolist()] == [t for p, a in items for t in (*p, *a)]
    assert batch.positions.tolist() == [i for p, a in items for i in range(len(p) + len(a))]
    assert batch.pad[batch.real].tolist() == list(range(len(batch.real)))
    last = batch.pad.reshape(len(items), -1)[:, -1].tolist()
    assert last == batch.pad[batch.final].tolist()


def test_every_item_is_in_one_bucket_and_buckets_keep_the_limit() -> None:
    items = some_items(57)
    seen = []
    for rows, batch in in_buckets(items, max_tokens=60):
        assert batch.tokens.numel() <= 60
        assert [row[: len(items[i][0])] for i, row in zip(rows, batch.tokens.tolist(), strict=True)] == [
            items[i][0] for i in rows
        ]
        seen += rows
    assert sorted(seen) == list(range(57))


def test_an_item_longer_than_the_limit_gets_a_bucket_of_its_own() -> None:
    items: list[Item] = [([1] * 30, [2] * 30), ([1], [2])]
    assert [rows for rows, _ in in_buckets(items, max_tokens=10)] == [[1], [0]]


def test_an_empty_prompt_is_refused_by_its_number() -> None:
    with pytest.raises(ValueError, match="item 1 has an empty prompt"):
        make_batch([([1], [2]), ([], [2])])
    with pytest.raises(ValueError, match="at least one"):
        make_batch([])
