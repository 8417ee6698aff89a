"""Which labels stay: neither a busy day nor a loud rater pushes out the rest, and all is decided by ids."""

import random
from collections import Counter

import pytest

from learner.votes.labels import LabelStore
from learner.votes.reservoir import DAY_SECONDS, Vote, shares, surplus
from tests.learner.test_labels import label


def votes(day: int, rater: str, count: int) -> list[Vote]:
    return [(f"{day}-{rater}-{i}", rater, day * DAY_SECONDS + i) for i in range(count)]


def kept(known: list[Vote], room: int) -> list[Vote]:
    gone = surplus(known, room)
    left = set(gone)
    assert gone == [vote[0] for vote in known if vote[0] in left]  # oldest first
    return [vote for vote in known if vote[0] not in left]


def test_a_busy_day_leaves_the_others_alone() -> None:
    known = [*votes(1, "u_a", 20), *votes(2, "u_b", 5000), *votes(3, "u_c", 30)]
    known += [vote for i in range(4000) for vote in votes(2, f"u_{i}", 1)]
    days = Counter(int(at // DAY_SECONDS) for _, _, at in kept(known, 200))
    assert days == {1: 20, 2: 150, 3: 30}


def test_in_a_day_a_loud_rater_leaves_the_others_alone() -> None:
    known = [*votes(1, "u_loud", 5000), *votes(1, "u_a", 20), *votes(1, "u_b", 5)]
    assert Counter(rater for _, rater, _ in kept(known, 60)) == {"u_loud": 35, "u_a": 20, "u_b": 5}


def test_of_many_with_a_vote_each_a_lot_decides() -> None:
    known = [vote for i in range(1000) for vote in votes(i % 10, f"u_{i}", 1)]
    left = kept(known, 200)
    assert set(Counter(int(at // DAY_SECONDS) for _, _, at in left).values()) == {20}
    assert len({rater[-1] for _, rater, _ in left}) == 10
    assert 60 < sum(known.index(vote) < 500 for vote in left) < 140  # neither the oldest nor the newest


@pytest.mark.parametrize("seed", range(20))
def test_shares_are_as_equal_as_needs_allow(seed: int) -> None:
    draw = random.Random(seed)
    sizes = {name: draw.randint(1, 40) for name in range(draw.randint(1, 30))}
    room = draw.randint(0, sum(sizes.values()))
    found = shares(room, sizes)
    assert sum(found.values()) == room
    assert all(0 <= found[name] <= sizes[name] for name in sizes)
    short = [found[name] for name in sizes if found[name] < sizes[name]]
    if short:
        assert max(found.values()) <= min(short) + 1


def test_the_newest_half_stays_whole_and_batches_make_no_difference() -> None:
    made = [label(i, rater=f"u_{i % 7 if i % 3 else 'loud'}") for i in range(900)]
    stores = []
    for size in (1, 7, 100, 900):
        store = LabelStore(0.25, capacity=200)
        for start in range(0, len(made), size):
            store.add(made[start : start + size])
        stores.append(store)
    assert len({str(store.state()["labels"]) for store in stores}) == 1
    known = [row["event_id"] for row in stores[0].state()["labels"]]
    assert 180 <= len(known) <= 200
    assert known[-100:] == [f"fb-{i}" for i in range(800, 900)]
    evicted = [event_id for event_id, _, state in stores[0].take_news() if state == "evicted"]
    assert sorted([*evicted, *known]) == sorted(each.event_id for each in made)


def test_a_rater_of_many_days_has_a_fifth_at_most() -> None:
    known = [vote for i in range(10) for vote in votes(0, f"u_{i}", 8)]
    for day in range(1, 100):
        known += votes(day, "u_loud", 30)
    left = Counter(rater for _, rater, _ in kept(known, 100))
    assert left == {"u_loud": 20} | {f"u_{i}": 8 for i in range(10)}
    alone = [vote for day in range(100) for vote in votes(day, "u_one", 30)]
    assert len(kept(alone, 500)) == 500  # nobody else needs it


def test_months_of_one_loud_rater_leave_what_others_said_before() -> None:
    store = LabelStore(0.0, capacity=200)
    quiet = [label(i, rater=f"u_{i}") for i in range(60)]
    store.add(quiet)
    store.add(label(100_000 + i, rater="u_loud") for i in range(3000))
    assert {each.event_id for each in quiet} <= {each.event_id for each in store.training}
