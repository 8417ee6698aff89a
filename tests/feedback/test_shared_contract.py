"""What every `SharedStore` promises, checked on SQLite and on a real Redis."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from feedback.shared import RedisStore, SharedStore, SharedUnavailable, SqliteStore
from tests.servers import RedisServer, need

Open = Callable[[], SharedStore]


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same store again and again, as several processes would."""
    url = request.getfixturevalue("redis_url") if request.param == "redis" else ""
    opened: list[SharedStore] = []

    def open_one() -> SharedStore:
        opened.append(RedisStore(url) if url else SqliteStore(tmp_path / "shared.db"))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Open) -> SharedStore:
    return open_store()


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_value_is_there_for_every_process_until_deleted(open_store: Open, key: str) -> None:
    one, two = open_store(), open_store()
    assert two.get(key) is None
    one.put(key, b"\x00\xff first", 60)
    one.put(key, b"\x00\xff second", 60)
    assert two.get(key) == b"\x00\xff second"
    two.delete(key)
    two.delete(key)
    assert one.get(key) is None


def test_a_value_is_forgotten_after_its_time(store: SharedStore, key: str) -> None:
    store.put(key, b"short", 0.05)
    store.put(key + "-long", b"long", 60)
    wait_until(lambda: store.get(key) is None)
    assert store.get(key + "-long") == b"long"


def test_put_if_absent_tells_what_was_there(store: SharedStore, key: str) -> None:
    assert store.put_if_absent(key, b"first", 60) is None
    assert store.put_if_absent(key, b"second", 60) == b"first"
    assert store.get(key) == b"first"
    store.delete(key)
    assert store.put_if_absent(key, b"", 60) is None
    assert store.put_if_absent(key, b"third", 60) == b""


def test_a_value_is_swapped_only_for_the_one_that_was_seen(open_store: Open, key: str) -> None:
    one, two = open_store(), open_store()
    assert not one.swap(key, b"never", b"x", 60)
    assert one.get(key) is None
    assert one.swap(key, None, b"", 60)
    assert not two.swap(key, None, b"x", 60), "an empty value is a value"
    assert two.swap(key, b"", b"\x00\xff", 60)
    assert not one.swap(key, b"", b"x", 60)
    assert one.swap(key, b"\x00\xff", b"short", 0.05)
    wait_until(lambda: two.swap(key, None, b"last", 60))
    assert one.get(key) == b"last"


def test_only_one_of_many_swaps(open_store: Open, key: str) -> None:
    stores = [open_store() for _ in range(8)]
    stores[0].put(key, b"old", 60)
    barrier = threading.Barrier(8)
    swapped: list[int] = []

    def race(number: int) -> None:
        barrier.wait()
        if stores[number].swap(key, b"old", b"%d" % number, 60):
            swapped.append(number)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = swapped
    assert stores[0].get(key) == b"%d" % winner


def test_what_has_expired_is_absent(store: SharedStore, key: str) -> None:
    store.put_if_absent(key, b"first", 0.05)
    wait_until(lambda: store.put_if_absent(key, b"second", 60) is None)
    assert store.get(key) == b"second"


def test_only_one_of_many_gets_the_key(open_store: Open, key: str) -> None:
    stores = [open_store() for _ in range(8)]
    barrier = threading.Barrier(8)
    answers: list[bytes | None] = []

    def race(number: int) -> None:
        barrier.wait()
        answers.append(stores[number].put_if_absent(key, b"%d" % number, 60))

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winner = stores[0].get(key)
    assert answers.count(None) == 1
    assert answers.count(winner) == 7


def test_hits_are_counted_over_all_processes_and_each_once(open_store: Open, key: str) -> None:
    stores = [open_store() for _ in range(4)]
    counts: list[int] = []

    def hit(store: SharedStore) -> None:
        for _ in range(25):
            counts.append(store.hit(key, 60))

    threads = [threading.Thread(target=hit, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counts) == list(range(1, 101))


def test_a_window_ends_even_when_hits_go_on(store: SharedStore, key: str) -> None:
    counts = [store.hit(key, 0.2)]
    deadline = time.monotonic() + 30
    while counts[-1] != 1 or len(counts) == 1:
        assert time.monotonic() < deadline
        counts.append(store.hit(key, 0.2))
    assert counts[:-1] == list(range(1, len(counts)))


def test_counters_and_values_do_not_meet(store: SharedStore, key: str) -> None:
    store.put(key, b"value", 60)
    assert store.hit(key, 60) == 1
    assert store.get(key) == b"value"
    store.delete(key)
    assert store.hit(key, 60) == 2


def test_values_are_found_by_how_their_keys_begin(open_store: Open, key: str) -> None:
    one, two = open_store(), open_store()
    prefix = f"lease/{key}[a*?]\\"
    assert two.values(prefix) == {}
    one.put(prefix + "b", b"\x00\xff", 60)
    one.put(prefix + "c", b"", 60)
    one.put(prefix, b"itself", 60)
    one.put(f"lease/{key}a", b"another", 60)
    one.put(prefix[:-1], b"shorter", 60)
    one.put(prefix + "gone", b"x", 60)
    one.delete(prefix + "gone")
    one.put(prefix + "late", b"x", 0.05)
    one.hit(prefix + "counted", 60)
    wait_until(lambda: two.get(prefix + "late") is None)
    assert two.values(prefix) == {prefix: b"itself", prefix + "b": b"\x00\xff", prefix + "c": b""}


def test_many_values_are_all_found(store: SharedStore, key: str) -> None:
    expected = {f"{key}/{n}": b"%d" % n for n in range(3000)}
    for name, value in expected.items():
        store.put(name, value, 60)
    assert store.values(key + "/") == expected


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_time_to_live_must_be_positive(store: SharedStore, key: str, seconds: float) -> None:
    for use in (store.put, store.put_if_absent):
        with pytest.raises(ValueError, match="more than 0"):
            use(key, b"v", seconds)
    with pytest.raises(ValueError, match="more than 0"):
        store.swap(key, None, b"v", seconds)
    with pytest.raises(ValueError, match="more than 0"):
        store.hit(key, seconds)


def test_threads_share_one_store(store: SharedStore, key: str) -> None:
    threads = [threading.Thread(target=store.put, args=(f"{key}-{n}", b"%d" % n, 60)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [store.get(f"{key}-{n}") for n in range(16)] == [b"%d" % n for n in range(16)]


@pytest.mark.redis
def test_a_redis_that_goes_away_is_reported_and_found_again() -> None:
    need("redis-server")
    server = RedisServer()
    store = RedisStore(server.url)
    with pytest.raises(SharedUnavailable):
        store.get("k")
    server.start()
    try:
        store.put("k", b"v", 60)
        server.stop()
        for operation in (
            lambda: store.get("k"),
            lambda: store.put("k", b"v", 60),
            lambda: store.put_if_absent("k", b"v", 60),
            lambda: store.swap("k", None, b"v", 60),
            lambda: store.hit("k", 60),
            lambda: store.delete("k"),
            lambda: store.values("k"),
        ):
            with pytest.raises(SharedUnavailable):
                operation()
        server.start()
        assert store.put_if_absent("k", b"again", 60) is None
    finally:
        server.stop()
        store.close()


def test_a_file_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    (tmp_path / "shared.db").mkdir()
    with pytest.raises(SharedUnavailable):
        SqliteStore(tmp_path / "shared.db")


def test_expired_rows_do_not_pile_up(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "shared.db")
    for n in range(3000):
        store.put(f"k{n}", b"x" * 100, 0.001)
        store.hit(f"k{n}", 0.001)
    store.close()
    assert (tmp_path / "shared.db").stat().st_size < 300_000
