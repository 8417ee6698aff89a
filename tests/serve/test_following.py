"""The gateway follows what engines have loaded and which table is in force, through failures of both."""

import time
from pathlib import Path

from deploy.history.table import RoutingTable
from feedback.core.log import LogError
from serve.routing.following import load_table, save_table
from tests.serve.conftest import Gateway, Start, eventually
from tests.serve.fake_vllm import FakeVllm
from tests.serve.test_access import add_key, bearer

LIVE = "policy-1-aaaaaaaa"


def test_not_ready_until_an_engine_is_up_and_warm(start: Start, fake: FakeVllm) -> None:
    fake.stop()
    gateway = start(wait=False)
    answer = gateway.http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["reasons"] == ["engine-1: does not answer"]
    assert gateway.http.get("/livez").status_code == 200
    assert gateway.chat().status_code == 503
    fake.start()
    eventually(gateway.is_ready, "ready once the engine is there")
    assert fake.warm_ups == 1
    assert gateway.chat().status_code == 200
    assert gateway.metric(f'hearken_engine_up{{engine="{fake.url}"}}') == 1


def test_a_policy_that_is_not_loaded_is_a_503_and_never_another_policy(
    gateway: Gateway, fake: FakeVllm
) -> None:
    gateway.decide(RoutingTable(epoch=1, live=LIVE))
    answer = gateway.chat()
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert LIVE not in answer.text
    assert not gateway.is_ready()
    assert fake.requests == []
    fake.adapters = {LIVE}
    eventually(gateway.is_ready, "the adapter is seen")
    assert f"I am {LIVE}" in gateway.chat().text


def test_an_engine_that_forgot_an_adapter_is_a_503(start: Start, fake: FakeVllm) -> None:
    fake.adapters = {LIVE}
    gateway = start(poll_seconds=30.0)
    gateway.decide(RoutingTable(epoch=1, live=LIVE))
    assert gateway.chat().status_code == 200
    fake.adapters = set()
    for stream in (False, True):
        answer = gateway.chat(stream=stream)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
        assert LIVE not in answer.text


def test_a_killed_engine_is_noticed_at_once_and_used_again_when_it_is_back(
    start: Start, fake: FakeVllm
) -> None:
    fake.adapters = {LIVE}
    gateway = start(poll_seconds=30.0)
    gateway.decide(RoutingTable(epoch=1, live=LIVE))
    fake.stop()
    assert gateway.chat().status_code == 503
    # Far sooner than the next regular poll: the failed request asked for it.
    eventually(lambda: not gateway.is_ready(), "the loss is noticed")


def test_a_restarted_engine_serves_when_its_adapters_are_back(gateway: Gateway, fake: FakeVllm) -> None:
    fake.adapters = {LIVE}
    gateway.decide(RoutingTable(epoch=1, live=LIVE))
    eventually(gateway.is_ready, "ready")
    fake.stop()
    eventually(lambda: not gateway.is_ready(), "the loss is noticed")
    fake.adapters = set()
    fake.start()
    eventually(lambda: fake.warm_ups == 2, "warmed up again")
    assert gateway.chat().status_code == 503
    fake.adapters = {LIVE}
    eventually(gateway.is_ready, "ready again")
    assert gateway.chat().status_code == 200


def test_requests_go_to_an_engine_that_has_the_policy(start: Start, fake: FakeVllm) -> None:
    other = FakeVllm().start()
    try:
        fake.adapters = {LIVE}
        gateway = start(engines=(fake.url, other.url))
        gateway.decide(RoutingTable(epoch=1, live=LIVE))
        for i in range(8):
            assert gateway.chat(f"hi {i}").status_code == 200
        assert other.requests == []
        other.adapters = {LIVE}
        eventually(lambda: gateway.chat(f"hi {time.time()}") and other.requests, "the other gets some")
    finally:
        other.stop()


class BrokenLog:
    """A log whose broker is away: it cannot be read."""

    def append(self, entries: object) -> object:
        raise AssertionError("not used here")

    def read(self, *_: object) -> object:
        raise LogError("no broker")

    def stamp(self) -> int:
        raise AssertionError("not used here")

    end = read

    def close(self) -> None:
        pass


def test_a_gateway_that_boots_without_its_broker_goes_on_with_the_table_it_knew(
    start: Start, fake: FakeVllm, tmp_path: Path
) -> None:
    save_table(tmp_path / "table.json", RoutingTable(epoch=7, live=LIVE))
    fake.adapters = {LIVE}
    gateway = start(events=BrokenLog())
    assert gateway.metric("hearken_table_epoch") == 7


def test_an_older_table_is_not_taken(gateway: Gateway, fake: FakeVllm) -> None:
    gateway.decide(RoutingTable(epoch=2))
    fake.adapters = {LIVE}
    gateway.decide(RoutingTable(epoch=9, live=LIVE))
    eventually(lambda: load_table(gateway.data / "table.json").epoch == 9, "it is saved")
    assert load_table(gateway.data / "table.json").live == LIVE


def table_of(gateway: Gateway) -> RoutingTable:
    return load_table(gateway.data / "table.json")


def test_a_decision_that_the_controller_ignores_moves_no_gateway(gateway: Gateway, fake: FakeVllm) -> None:
    """It was made under a lease that is another's by then, or second; then a rollback reaches the gateway."""
    fake.adapters = {LIVE}
    gateway.decide(RoutingTable(epoch=1), number=1, fence=4)
    stale = RoutingTable(epoch=9, live=LIVE)
    gateway.append(stale, number=2, fence=3)
    gateway.append(stale, number=1, fence=4)
    gateway.decide(RoutingTable(epoch=2, live=LIVE), number=2, fence=4)
    gateway.decide(RoutingTable(epoch=3), number=3, fence=5)
    eventually(lambda: table_of(gateway) == RoutingTable(epoch=3), "the rollback is in force")


def test_the_log_is_right_and_not_what_a_gateway_once_saved(start: Start, tmp_path: Path) -> None:
    """A version that went by epochs alone may have saved a table of a decision that does not count."""
    save_table(tmp_path / "table.json", RoutingTable(epoch=7, live=LIVE))
    gateway = start(wait=False)
    assert table_of(gateway).epoch == 7, "an empty log says nothing"
    gateway.decide(RoutingTable(epoch=3))
    assert gateway.chat().status_code == 200


def test_a_damaged_table_file_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    assert load_table(path) == RoutingTable()
    path.write_text('{"epoch": 3, "live"')
    assert load_table(path) == RoutingTable()
    save_table(path, RoutingTable(epoch=4))
    assert load_table(path).epoch == 4
    assert [p.name for p in tmp_path.iterdir()] == ["table.json"]


def test_where_engines_are_and_what_they_say_is_for_operators(
    start: Start, fake: FakeVllm, tmp_path: Path
) -> None:
    operator = add_key(tmp_path / "keys.json", ["operate"])
    chatter = add_key(tmp_path / "keys.json", ["chat"])
    fake.broken = {"base"}
    gateway = start(wait=False)

    def reasons(headers: dict[str, str]) -> str:
        return " ".join(gateway.http.get("/readyz", headers=headers).json()["reasons"])

    eventually(lambda: "refuses" in reasons({}), "the engine was asked")
    for headers in ({}, bearer(chatter), bearer("junk")):
        told = reasons(headers)  # it is asked again and again, so the state's name may be another one
        assert told.startswith("engine-1: ")
        assert fake.url not in told
        assert "CUDA error" not in told
    eventually(lambda: fake.url in reasons(bearer(operator)), "an operator sees where it is")
    eventually(lambda: "CUDA error" in reasons(bearer(operator)), "and what it said")
