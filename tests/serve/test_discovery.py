"""Engines behind a name that come and go under a gateway at work."""

import socket
import threading
from collections.abc import Iterator

import pytest

from deploy.history.table import RoutingTable
from tests.serve.conftest import Gateway, Start, eventually
from tests.serve.fake_vllm import FakeVllm, Trouble, fake_engine

LIVE = "policy-1-aaaaaaaa"


class Names:
    """A name server: what it answers, or why it does not."""

    def __init__(self, *found: str) -> None:
        self.found: tuple[str, ...] = found
        self.failure: OSError | None = None

    def __call__(self, host: str, port: int) -> tuple[str, ...]:
        assert host == "engines.test"
        if self.failure is not None:
            raise self.failure
        return self.found


@pytest.fixture
def names() -> Names:
    return Names("127.0.0.1")


@pytest.fixture
def second(fake: FakeVllm) -> Iterator[FakeVllm]:
    """An engine on another address and the same port."""
    with fake_engine("127.0.0.2", fake.port) as server:
        yield server


@pytest.fixture
def gateway(start: Start, fake: FakeVllm, names: Names) -> Gateway:
    return start(engines=(f"dns://engines.test:{fake.port}",), resolve=names)


def up(gateway: Gateway, engine: FakeVllm) -> bool:
    return gateway.metric(f'hearken_engine_up{{engine="{engine.url}"}}') == 1


def chats(engine: FakeVllm) -> list[str]:
    return [request["messages"][-1]["content"] for request in engine.requests]


def test_an_engine_that_comes_gets_chats_and_one_that_leaves_ends_those_that_it_has(
    gateway: Gateway, fake: FakeVllm, second: FakeVllm, names: Names
) -> None:
    names.found = ("127.0.0.1", "127.0.0.2")
    eventually(lambda: up(gateway, second), "the new engine is in use")

    answers: list[str] = []

    def hold() -> None:
        with gateway.openai.chat.completions.create(
            model="hearken", messages=[{"role": "user", "content": Trouble.HOLD}], stream=True
        ) as stream:
            answers.append("".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))

    held = threading.Thread(target=hold)
    held.start()
    leaving, staying = (fake, second)
    eventually(lambda: fake.holding.is_set() or second.holding.is_set(), "an engine is in the middle of it")
    if second.holding.is_set():
        leaving, staying = second, fake
    names.found = (staying.host,)
    in_flight = f'hearken_engine_in_flight{{engine="{leaving.url}"}}'
    eventually(lambda: not up(gateway, leaving), "the gateway hears of it")
    for i in range(20):
        assert gateway.chat(f"after {i}").status_code == 200
    late = [text for text in chats(leaving) if text.startswith("after")]
    assert gateway.metric(in_flight) == 1, "what it works on goes on"
    leaving.release.set()
    held.join(30)
    assert len(answers) == 1
    assert answers[0]
    eventually(lambda: in_flight not in gateway.http.get("/metrics").text, "nothing is left of it")
    assert late == []


def test_a_new_engine_serves_no_policy_before_it_lists_it(
    gateway: Gateway, fake: FakeVllm, second: FakeVllm, names: Names
) -> None:
    fake.adapters.add(LIVE)
    gateway.decide(RoutingTable(epoch=1, live=LIVE))
    eventually(gateway.is_ready, "the first engine has the policy")
    names.found = ("127.0.0.1", "127.0.0.2")
    eventually(lambda: up(gateway, second), "the new engine is in use")
    second.requests.clear()
    for i in range(20):
        assert gateway.chat(f"before {i}").status_code == 200
    assert chats(second) == []
    second.adapters.add(LIVE)  # as the controller does, once it is proven
    eventually(lambda: _served(gateway, second), "it gets chats")


def _served(gateway: Gateway, engine: FakeVllm) -> bool:
    for i in range(10):
        gateway.chat(f"later {i}")
    return any(text.startswith("later") for text in chats(engine))


def test_a_name_server_that_is_away_takes_no_engine_and_is_told(
    gateway: Gateway, fake: FakeVllm, names: Names
) -> None:
    failed = f'hearken_engine_lookup_failed{{name="dns://engines.test:{fake.port}"}}'
    assert gateway.metric(failed) == 0
    names.failure = socket.gaierror(-3, "Temporary failure in name resolution")
    eventually(lambda: gateway.metric(failed) == 1, "the metric says so")
    assert gateway.chat().status_code == 200
    ready = gateway.http.get("/readyz")
    assert (ready.status_code, ready.json()["warnings"]) == (200, ["a name of engines cannot be looked up"])
    names.failure = None
    eventually(lambda: "warnings" not in gateway.http.get("/readyz").json(), "it is back")


def test_a_gateway_that_knows_no_engine_yet_lets_requests_wait(
    start: Start, fake: FakeVllm, names: Names
) -> None:
    names.failure = socket.gaierror(-2, "Name or service not known")
    engines = (f"dns://engines.test:{fake.port}",)
    gateway = start(engines=engines, resolve=names, wait=False, queue_seconds=30.0)
    assert gateway.http.get("/readyz").json()["reasons"] == ["a name of engines cannot be looked up"]
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(gateway.chat().status_code))
    asking.start()
    eventually(lambda: gateway.metric("hearken_queue_length") == 1, "the chat waits")
    names.failure = None
    asking.join(30)
    assert answers == [200]
