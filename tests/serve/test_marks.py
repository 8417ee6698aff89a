"""What every `Marks` promises, checked on SQLite and on a real Redis."""

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serve.routing.marks import Marks, MarksUnavailable, RedisMarks, SqliteMarks, open_marks
from tests.servers import free_port

Open = Callable[..., Marks]


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same store again and again, as several gateways would."""
    url = request.getfixturevalue("redis_url") if request.param == "redis" else None
    opened: list[Marks] = []

    def open_one(keep_seconds: float = 60.0, most: int = 100) -> Marks:
        opened.append(open_marks(tmp_path / "conversations.db", url, keep_seconds, most))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def tenant() -> str:
    return f"team: {uuid.uuid4().hex}"


def test_what_one_gateway_put_another_finds(open_store: Open, tenant: str) -> None:
    one, two = open_store(), open_store()
    assert one.put(tenant, ["a", "b"], b"first") == 0
    one.put(tenant, ["c"], b"second")
    assert two.first(tenant, ["x", "b", "c"]) == b"first"
    assert two.first(tenant, ["c", "b"]) == b"second", "the first of them that is known"
    assert two.first(tenant, ["x"]) is None
    two.put(tenant, ["a"], b"third")
    assert one.first(tenant, ["a"]) == b"third"


def test_tenants_never_meet(open_store: Open, tenant: str) -> None:
    store = open_store(most=3)
    store.put(tenant, ["a"], b"mine")
    assert store.first("another " + tenant, ["a"]) is None
    for i in range(50):
        store.put("another " + tenant, [f"flood {i}"], b"theirs")
    assert store.first(tenant, ["a"]) == b"mine", "no flood pushes out what others have"


def test_the_oldest_are_forgotten_first_and_are_counted(open_store: Open, tenant: str) -> None:
    store = open_store(most=10)
    evicted = sum(store.put(tenant, [f"mark {i}"], b"%d" % i) for i in range(100))
    assert evicted == 90
    known = [i for i in range(100) if store.first(tenant, [f"mark {i}"]) is not None]
    assert known == list(range(90, 100))


def test_what_is_put_again_is_new_again(open_store: Open, tenant: str) -> None:
    store = open_store(most=2)
    for mark in ("a", "b", "a", "c"):
        store.put(tenant, [mark], mark.encode())
    assert [store.first(tenant, [mark]) for mark in "abc"] == [b"a", None, b"c"]


def test_marks_are_forgotten_after_a_while(open_store: Open, tenant: str) -> None:
    store = open_store(keep_seconds=0.2)
    store.put(tenant, ["a"], b"first")
    put_at = time.monotonic()
    assert store.first(tenant, ["a"]) == b"first" or time.monotonic() - put_at > 0.2
    while store.first(tenant, ["a"]) is not None:
        assert time.monotonic() - put_at < 10
        time.sleep(0.02)
    assert store.put(tenant, ["b"], b"second") == 0, "what was too old is not evicted"


def test_a_store_that_is_away_says_so() -> None:
    store = RedisMarks(f"redis://127.0.0.1:{free_port()}/0", 60.0, 10)
    with pytest.raises(MarksUnavailable):
        store.first("t", ["a"])
    with pytest.raises(MarksUnavailable):
        store.put("t", ["a"], b"")


def test_a_damaged_file_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "conversations.db"
    path.write_bytes(b"no database" * 1000)
    store = SqliteMarks(path, 60.0, 10)
    store.put("t", ["a"], b"first")
    assert store.first("t", ["a"]) == b"first"
    store.close()
