"""When an adapter may be unloaded: the rule by itself, and the leases that it reads."""

from pathlib import Path

import pytest

from deploy.engines.drain import Drain
from deploy.history.leases import KEY, LEASE_SECONDS, RENEW_SECONDS, give_up, held, write
from feedback.shared import RedisStore, SharedStore, SqliteStore

A, B = "policy-1-aaaaaaaa", "policy-2-bbbbbbbb"


def test_a_version_in_use_is_never_due() -> None:
    drain = Drain(10, 50)
    for now in range(0, 1000, 10):
        assert drain.due([A], [A], frozenset(), now) == []


def test_a_version_out_of_use_is_due_after_drain_seconds() -> None:
    drain = Drain(10, 50)
    assert [now for now in range(20) if drain.due([A], [], frozenset(), now)] == list(range(10, 20))


def test_use_starts_the_time_anew() -> None:
    drain = Drain(10, 50)
    for now in range(9):
        assert drain.due([A, B], [B], frozenset(), now) == []
    drain.due([A, B], [A, B], frozenset(), 9)
    assert [now for now in range(10, 25) if drain.due([A, B], [B], frozenset(), now)] == [20, 21, 22, 23, 24]


def test_a_lease_keeps_a_version_for_ever_and_for_its_time_after_the_last_look() -> None:
    drain = Drain(10, 50)
    for now in range(500):
        assert drain.due([A, B], [], frozenset([A]), now) == ([B] if now >= 10 else [])
    due = [now for now in range(500, 520) if drain.due([A], [], frozenset(), now)]
    assert due[0] == 500 + LEASE_SECONDS


def test_a_store_that_lost_its_memory_does_not_unload_what_gateways_hold() -> None:
    """Between the loss and the gateways' next writes, others' leases are there and ours is not."""
    drain = Drain(0, 50)
    assert drain.due([A], [], frozenset([A]), 100) == []
    assert drain.due([A], [], frozenset(), 100 + RENEW_SECONDS) == []
    assert drain.due([A], [], frozenset([A]), 101 + RENEW_SECONDS) == []
    assert drain.due([A], [], frozenset(), 100 + LEASE_SECONDS) == []


def test_while_nobody_knows_it_takes_longer_than_any_answer() -> None:
    drain = Drain(10, 50)
    assert [now for now in range(60) if drain.due([A], [], None, now)] == list(range(50, 60))
    assert Drain(10, 5).due([A], [], None, 0) == []


def test_what_was_not_known_does_not_count_as_not_held() -> None:
    drain = Drain(10, 50)
    for now in range(20):
        drain.due([A], [], None, now)
    assert drain.due([A], [], frozenset(), 20) == []
    assert drain.due([A], [], frozenset(), 20 + LEASE_SECONDS) == [A]


@pytest.fixture
def store(tmp_path: Path) -> SharedStore:
    return SqliteStore(tmp_path / "shared.db")


def test_leases_of_all_gateways_are_seen(store: SharedStore) -> None:
    assert held(store) is None, "no gateway, or another store: nobody knows"
    write(store, "one", [A])
    write(store, "two", [])
    assert held(store) == {A}
    write(store, "two", [A, B])
    give_up(store, "one")
    assert held(store) == {A, B}
    write(store, "two", [])
    assert held(store) == frozenset()
    give_up(store, "two")
    assert held(store) is None


def test_a_record_that_cannot_be_read_and_a_store_that_is_away_are_not_known(store: SharedStore) -> None:
    write(store, "one", [A])
    store.put(KEY + "odd", b"{", 60)
    assert held(store) is None
    away = RedisStore("redis://127.0.0.1:1/0")
    assert held(away) is None
    away.close()


def test_a_lease_outlives_some_failed_renewals() -> None:
    assert LEASE_SECONDS > 3 * RENEW_SECONDS
