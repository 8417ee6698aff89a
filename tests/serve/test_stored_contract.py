"""What every `StoredCompletions` promises, checked on SQLite and on a real Redis."""

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serve.storage.redis import RedisStored
from serve.storage.stored import Query, SqliteStored, Stored, StoredCompletions, StoreUnavailable
from tests.servers import RedisServer, need

Open = Callable[..., StoredCompletions]


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same store again and again, as several gateways would."""
    url = request.getfixturevalue("redis_url") if request.param == "redis" else ""
    opened: list[StoredCompletions] = []

    def open_one(**options: float) -> StoredCompletions:
        made = RedisStored(url, **options) if url else SqliteStored(tmp_path / "stored.db", **options)
        opened.append(made)
        return made

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Open) -> StoredCompletions:
    return open_store()


@pytest.fixture
def tenant() -> str:
    return f"team: {uuid.uuid4().hex}"


def item(tenant: str, name: str, user: str = "u_1", model: str = "hearken", **metadata: str) -> Stored:
    messages = [{"role": "user", "content": "hé 🎉"}]
    return Stored(tenant, name, user, model, {"id": name, "choices": []}, messages, metadata)


def ids(store: StoredCompletions, tenant: str, **fields: object) -> list[str]:
    page = store.page(tenant, Query(**fields))  # type: ignore[arg-type]
    assert page is not None
    return [found.completion_id for found in page.items]


def test_answers_of_one_api_are_listed_apart(store: StoredCompletions, tenant: str) -> None:
    for name in ("chatcmpl-1", "resp_1", "chatcmpl-2", "resp_2"):
        store.put(item(tenant, name))
    assert ids(store, tenant, prefix="chatcmpl-") == ["chatcmpl-1", "chatcmpl-2"]
    assert ids(store, tenant, prefix="resp_", order="desc", limit=1) == ["resp_2"]
    assert len(ids(store, tenant)) == 4


def test_what_was_put_is_there_for_every_gateway(open_store: Open, tenant: str) -> None:
    one, two = open_store(), open_store()
    kept = item(tenant, "a", topic="parcels")
    one.put(kept)
    assert two.get(tenant, "a") == kept
    assert two.get("another", "a") is None
    assert two.get(tenant, "b") is None
    one.put(item(tenant, "a", topic="bills"))
    assert two.get(tenant, "a") == item(tenant, "a", topic="bills")
    assert ids(two, tenant) == ["a"]


def test_metadata_is_replaced(store: StoredCompletions, tenant: str) -> None:
    store.put(item(tenant, "a", topic="parcels"))
    changed = store.set_metadata(tenant, "a", {"state": "read"})
    assert changed == item(tenant, "a", state="read") == store.get(tenant, "a")
    assert store.set_metadata(tenant, "b", {"state": "read"}) is None
    assert store.get(tenant, "b") is None
    assert store.set_metadata("another", "a", {}) is None


def test_what_is_deleted_is_gone(store: StoredCompletions, tenant: str) -> None:
    store.put(item(tenant, "a"))
    assert not store.delete("another", "a")
    assert store.delete(tenant, "a")
    assert not store.delete(tenant, "a")
    assert store.get(tenant, "a") is None
    assert ids(store, tenant) == []


def test_lists_are_in_order_and_have_pages(store: StoredCompletions, tenant: str) -> None:
    names = [f"c{i:03}" for i in range(125)]
    for name in names:
        store.put(item(tenant, name))
    store.put(item("another", "x"))
    seen: list[str] = []
    after = None
    while True:
        page = store.page(tenant, Query(limit=50, after=after))
        assert page is not None
        seen += [found.completion_id for found in page.items]
        if not page.has_more:
            break
        after = seen[-1]
    assert seen == names
    assert ids(store, tenant, limit=3, order="desc") == names[:-4:-1]
    assert ids(store, tenant, limit=2, order="desc", after="c010") == ["c009", "c008"]
    assert store.page(tenant, Query(after="x")) is None
    assert store.page(tenant, Query(limit=125)).has_more is False  # type: ignore[union-attr]


def test_lists_are_filtered(store: StoredCompletions, tenant: str) -> None:
    store.put(item(tenant, "a", topic="parcels", state="new"))
    store.put(item(tenant, "b", topic="bills", state="new"))
    store.put(item(tenant, "c", model="other", topic="parcels"))
    assert ids(store, tenant, metadata={"topic": "parcels"}) == ["a", "c"]
    assert ids(store, tenant, metadata={"topic": "parcels", "state": "new"}) == ["a"]
    assert ids(store, tenant, metadata={'a.b "]': "x"}) == []
    assert ids(store, tenant, model="hearken") == ["a", "b"]
    assert ids(store, tenant, model="hearken", limit=1) == ["a"]


def test_a_users_answers_are_erased(store: StoredCompletions, tenant: str) -> None:
    for name, user in (("a", "u_1"), ("b", "u_2"), ("c", "u_1")):
        store.put(item(tenant, name, user))
    store.put(item("another", "a", "u_1"))
    assert store.erase(tenant, "u_1") == 2
    assert store.erase(tenant, "u_1") == 0
    assert ids(store, tenant) == ["b"]
    assert store.delete("another", "a")


def test_answers_are_forgotten_after_their_time(open_store: Open, tenant: str) -> None:
    short, long = open_store(keep_seconds=0.05), open_store()
    short.put(item(tenant, "a"))
    deadline = time.monotonic() + 30
    while short.get(tenant, "a") is not None:
        assert time.monotonic() < deadline
    long.put(item(tenant, "b"))
    assert ids(long, tenant) == ["b"]
    assert long.set_metadata(tenant, "a", {}) is None
    assert not long.delete(tenant, "a")
    assert long.page(tenant, Query(after="a")) is None


@pytest.mark.redis
def test_a_redis_that_is_away_is_reported_and_found_again() -> None:
    need("redis-server")
    server = RedisServer()
    store = RedisStored(server.url)
    operations: tuple[Callable[[], object], ...] = (
        lambda: store.put(item("t", "a")),
        lambda: store.get("t", "a"),
        lambda: store.set_metadata("t", "a", {}),
        lambda: store.delete("t", "a"),
        lambda: store.page("t", Query()),
        lambda: store.erase("t", "u_1"),
    )
    for operation in operations:
        with pytest.raises(StoreUnavailable):
            operation()
    server.start()
    try:
        for operation in operations:
            operation()
    finally:
        server.stop()
        store.close()


def test_a_file_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    (tmp_path / "stored.db").mkdir()
    with pytest.raises(StoreUnavailable):
        SqliteStored(tmp_path / "stored.db")


def test_expired_rows_do_not_pile_up(tmp_path: Path) -> None:
    store = SqliteStored(tmp_path / "stored.db", keep_seconds=0.001)
    for n in range(1000):
        store.put(item("t", f"c{n}", note="x" * 200))
    store.close()
    assert (tmp_path / "stored.db").stat().st_size < 300_000
