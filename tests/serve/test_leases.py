"""A gateway tells which policies it still needs, and never mixes two in an answer."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.history.leases import KEY, Lease, held
from deploy.history.table import RoutingTable
from feedback.core.log import EventLog
from feedback.shared import SharedStore, SharedUnavailable
from serve.routing.leases import Leases
from tests.serve.conftest import Gateway, Start, eventually, serving
from tests.serve.fake_vllm import FakeVllm, Trouble

OLD, NEW = "policy-1-aaaaaaaa", "policy-2-bbbbbbbb"


@contextmanager
def slow_answer(gateway: Gateway, fake: FakeVllm, *, stream: bool) -> Iterator[list[str]]:
    """An answer that has begun and is held up; at the end of the block it goes on, and is in the list."""
    answers: list[str] = []

    def ask() -> None:
        answers.append(gateway.chat(Trouble.HOLD, stream=stream).text)

    asking = threading.Thread(target=ask)
    asking.start()
    assert fake.holding.wait(10)
    try:
        yield answers
    finally:
        fake.release.set()
        asking.join(10)
        fake.release.clear()
        fake.holding.clear()


def text_of(stream: str) -> str:
    events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for e in events for choice in e["choices"])


def test_the_versions_of_the_table_are_held(gateway: Gateway, fake: FakeVllm, shared: SharedStore) -> None:
    eventually(lambda: held(shared) == frozenset(), "a gateway on the base model holds nothing, and says so")
    fake.adapters = {OLD, NEW}
    gateway.decide(RoutingTable(epoch=1, live=OLD, control=OLD, canary=NEW, weight=0.1))
    assert held(shared) == {OLD, NEW}, "before the table is in force"
    gateway.decide(RoutingTable(epoch=2, live=NEW))
    eventually(lambda: held(shared) == {NEW}, "what the table does not name is let go")


def test_a_slow_stream_holds_its_version_through_promotion_rollback_and_unload(
    gateway: Gateway, fake: FakeVllm, shared: SharedStore
) -> None:
    fake.adapters = {OLD, NEW}
    gateway.decide(RoutingTable(epoch=1, live=OLD))
    with slow_answer(gateway, fake, stream=True) as answers:
        gateway.decide(RoutingTable(epoch=2, live=NEW))  # promoted
        assert f"I am {NEW}" in gateway.chat().text
        gateway.decide(RoutingTable(epoch=3, live="base"))  # rolled back
        assert "I am base" in gateway.chat().text
        eventually(lambda: held(shared) == {OLD}, "only the stream's version is held")
        fake.adapters = set()  # an engine that forgot the name goes on with what runs
    assert text_of(answers[0]) == f"I am {OLD}, seed None."
    assert answers[0].rstrip().endswith("data: [DONE]")
    eventually(lambda: held(shared) == frozenset(), "the stream's lease ended with it")


def test_a_whole_answer_holds_its_version_too(gateway: Gateway, fake: FakeVllm, shared: SharedStore) -> None:
    fake.adapters = {OLD, NEW}
    gateway.decide(RoutingTable(epoch=1, live=OLD))
    with slow_answer(gateway, fake, stream=False) as answers:
        gateway.decide(RoutingTable(epoch=2, live=NEW))
        eventually(lambda: held(shared) == {OLD, NEW}, "both are held")
    assert f"I am {OLD}" in answers[0]
    eventually(lambda: held(shared) == {NEW}, "the answer's lease ended with it")


def test_a_client_that_leaves_lets_go(gateway: Gateway, fake: FakeVllm, shared: SharedStore) -> None:
    fake.adapters = {OLD}
    gateway.decide(RoutingTable(epoch=1, live=OLD))
    body = {"model": "hearken", "messages": [{"role": "user", "content": Trouble.HOLD}], "stream": True}
    with gateway.http.stream("POST", "/v1/chat/completions", json=body):
        assert fake.holding.wait(10)
        gateway.decide(RoutingTable(epoch=2))
        eventually(lambda: held(shared) == {OLD}, "held")
    eventually(lambda: held(shared) == frozenset(), "let go")


def test_a_version_is_held_until_the_last_of_its_answers_has_ended(shared: SharedStore) -> None:
    leases, table = Leases(shared, conversation_seconds=60), RoutingTable(epoch=2, live=NEW)
    with leases.using(OLD):
        with leases.using(OLD):
            pass
        asyncio.run(leases.hold(table))
        assert held(shared) == {OLD, NEW}, "one of two has ended"
    asyncio.run(leases.hold(table))
    assert held(shared) == {NEW}


@pytest.mark.parametrize(("seconds", "kept"), [(60.0, {OLD, NEW}), (0.0, {NEW})])
def test_a_gateway_that_starts_holds_what_was_live_for_conversations_that_it_never_saw(
    shared: SharedStore, seconds: float, kept: set[str]
) -> None:
    leases = Leases(shared, conversation_seconds=seconds)
    asyncio.run(leases.hold(RoutingTable(epoch=2, live=NEW), former=[OLD]))
    assert held(shared) == kept


def test_a_gateway_that_ends_in_order_gives_its_lease_up(
    tmp_path: Path, fake: FakeVllm, log: EventLog, shared: SharedStore
) -> None:
    with serving(tmp_path, log, shared, (fake.url,)):
        eventually(lambda: held(shared) is not None, "it holds its lease")
    assert held(shared) is None


class RememberingStore:
    """A shared store that remembers every lease that was written."""

    def __init__(self, store: SharedStore) -> None:
        self._store = store
        self.leases: list[Lease] = []

    def put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        if key.startswith(KEY):
            self.leases.append(Lease.model_validate_json(value))
        self._store.put(key, value, ttl_seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_a_lease_tells_of_a_table_only_once_it_is_in_force(
    start: Start, fake: FakeVllm, shared: SharedStore
) -> None:
    store: Any = RememberingStore(shared)
    fake.adapters = {OLD, NEW}
    gateway = start(store=store)
    gateway.decide(RoutingTable(epoch=1, live=OLD))
    eventually(lambda: store.leases[-1].epoch == 1, "the first table")
    gateway.decide(RoutingTable(epoch=2, live=NEW))
    eventually(lambda: store.leases[-1].epoch == 2, "the second one")
    both = [lease.epoch for lease in store.leases if lease.versions == {OLD, NEW}]
    assert set(both) == {1}, "while both are held, the old one is in force"
    assert store.leases[-1].versions == {NEW}


class NoStore:
    """A shared store that is away."""

    def __getattr__(self, _: str) -> Any:
        def away(*_: object) -> None:
            raise SharedUnavailable("no Redis")

        return away


def test_without_the_store_chats_and_tables_go_on(start: Start, fake: FakeVllm) -> None:
    fake.adapters = {OLD}
    store: Any = NoStore()
    gateway = start(store=store)
    gateway.decide(RoutingTable(epoch=1, live=OLD))
    assert f"I am {OLD}" in gateway.chat().text
    assert gateway.http.get("/livez").status_code == 200


def test_a_new_table_does_not_meet_a_stale_list_of_models(start: Start, fake: FakeVllm) -> None:
    """The regular poll is far away: the table itself makes the gateway ask."""
    gateway = start(poll_seconds=30.0)
    fake.adapters = {NEW}
    gateway.decide(RoutingTable(epoch=1, live=NEW))
    assert f"I am {NEW}" in gateway.chat().text
