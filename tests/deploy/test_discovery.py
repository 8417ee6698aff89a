"""Engines behind a name: which there are by a look-up, and what the controller does when they come and go."""

import socket
from collections.abc import Iterator

import pytest

from deploy.engines.discovery import Discovery, addresses, check_engines, check_one_engine
from tests.deploy.fake_engine import FakeEngine
from tests.deploy.world import MakeWorld, World

NAME = "dns://engines.test:8000"


class Names:
    """A name server: what it answers, or why it does not."""

    def __init__(self, *found: str) -> None:
        self.found: list[str] = [*found]
        self.failure: OSError | None = None
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        if self.failure is not None:
            raise self.failure
        return self.found


def looked(names: Names, *engines: str) -> Discovery:
    discovery = Discovery(engines, names)
    discovery.look()
    return discovery


def test_each_address_of_a_name_is_an_engine_beside_those_that_are_listed() -> None:
    names = Names("10.0.0.10", "10.0.0.9", "10.0.0.9")
    found = looked(names, "http://gpu:1/", NAME)
    assert found.urls == ("http://gpu:1", "http://10.0.0.9:8000", "http://10.0.0.10:8000")
    assert (found.names, dict(found.problems)) == ((NAME,), {})
    assert names.asked == [("engines.test", 8000)]


def test_addresses_of_ipv6_are_urls_and_give_way_to_ipv4_for_they_may_be_the_same_engines() -> None:
    assert looked(Names("fd00::1"), NAME).urls == ("http://[fd00::1]:8000",)
    assert looked(Names("fd00::1", "10.0.0.9"), NAME).urls == ("http://10.0.0.9:8000",)


def test_engines_come_and_go_with_their_addresses() -> None:
    names = Names("10.0.0.9")
    found = looked(names, NAME)
    names.found = ["10.0.0.10"]
    found.look()
    assert found.urls == ("http://10.0.0.10:8000",)


@pytest.mark.parametrize("failure", [socket.gaierror(-3, "Temporary failure in name resolution"), None])
def test_a_look_up_that_fails_or_finds_nobody_keeps_what_is_known_and_says_so(
    failure: OSError | None,
) -> None:
    names = Names("10.0.0.9")
    found = looked(names, NAME)
    names.found, names.failure = [], failure
    found.look()
    assert found.urls == ("http://10.0.0.9:8000",)
    assert ("Temporary failure" if failure else "no addresses") in found.problems[NAME]
    names.found, names.failure = ["10.0.0.10"], None
    found.look()
    assert (found.urls, dict(found.problems)) == (("http://10.0.0.10:8000",), {})


def test_nothing_is_known_of_a_name_before_its_first_look_up() -> None:
    found = Discovery((NAME,), Names("10.0.0.9"))
    assert (found.urls, dict(found.problems)) == ((), {NAME: "not looked up yet"})


def test_the_machines_own_resolver_is_asked_and_may_refuse_a_name() -> None:
    assert set(addresses("localhost", 80)) & {"127.0.0.1", "::1"}
    too_long = f"dns://{'a' * 64}.test:80"
    found = Discovery((too_long,))
    found.look()
    assert "cannot be looked up" in found.problems[too_long]


@pytest.mark.parametrize(
    "wrong", ["dns://engines.test", "dns://:8000", "dns://a:b", "dns://a:1/v1", "dns://me@a:1", "dns://a:0"]
)
def test_a_name_that_cannot_be_looked_up_is_refused_with_what_would_be_right(wrong: str) -> None:
    with pytest.raises(ValueError, match="must be like dns://"):
        check_engines([wrong])


def test_the_learner_is_told_to_name_one_engine() -> None:
    check_one_engine("http://127.0.0.1:8001")
    with pytest.raises(ValueError, match="any number of engines"):
        check_one_engine(NAME)


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()


@pytest.fixture
def second(world: World) -> Iterator[FakeEngine]:
    """An engine on another address and the port of the world's own."""
    engine = FakeEngine("127.0.0.2", world.engines[0].port)
    yield engine
    engine.stop()


def test_a_new_engine_proves_what_serves_and_one_that_left_is_done_without(
    world: World, second: FakeEngine
) -> None:
    first, names = world.engines[0], Names("127.0.0.1")
    discovery = world.discovery = looked(names, f"dns://engines.test:{second.port}")
    world.kill_controller()
    manifest = world.offer()
    world.taste = lambda version: 0.9 if version == manifest.version else 0.1
    world.pass_time(until="promoted")
    assert (manifest.version in first.loaded, second.loaded) == (True, {})

    names.found.append("127.0.0.2")
    discovery.look()
    world.now += 1
    world.tick()
    assert second.probes == [f"probe-{manifest.version}", manifest.version]
    assert set(second.loaded) == {manifest.version}

    before = world.outcomes
    names.found = ["127.0.0.2"]
    discovery.look()
    first.stop()
    first.probes.clear()
    for _ in range(3):
        world.now += 700  # what was proven is proven anew
        world.tick()
    assert (first.probes, second.probes[-1]) == ([], manifest.version)
    assert "rejected" not in world.outcomes[len(before) :]
    shown = {s.labels["engine"] for s in world.metrics.adapters.collect()[0].samples}
    assert shown == {second.url}


def test_a_name_server_that_is_away_takes_no_engine_and_shows_in_the_metrics(world: World) -> None:
    names, port = Names("127.0.0.1"), world.engines[0].port
    discovery = world.discovery = looked(names, f"dns://engines.test:{port}")
    world.kill_controller()
    manifest = world.offer()
    world.pass_time(until="started")
    failed = world.metrics.lookups.failed.labels(f"dns://engines.test:{port}")
    assert failed._value.get() == 0
    names.failure = socket.gaierror(-3, "Temporary failure in name resolution")
    discovery.look()
    world.now += 1
    world.tick()
    assert failed._value.get() == 1
    assert manifest.version in world.engines[0].loaded


def test_no_candidate_is_refused_while_no_engine_is_known(world: World) -> None:
    names = Names()
    discovery = world.discovery = looked(names, f"dns://engines.test:{world.engines[0].port}")
    world.kill_controller()
    world.offer()
    for _ in range(3):
        world.now += 1
        world.tick()
    assert world.outcomes == ["begun", "accepted"]
    names.found = ["127.0.0.1"]
    discovery.look()
    world.now += 1
    world.tick()
    assert world.outcomes[-1] == "started"
