"""Several controllers on one log: one decides, another goes on within seconds, and the history is one."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from deploy.audit.replay import audit
from deploy.controller.leading import LEASE_SECONDS, Lease
from deploy.controller.loop import Controller
from deploy.controller.metrics import ControllerMetrics
from deploy.history.releases import append_command
from deploy.history.states import ReleaseState
from feedback.core.log import Entry, EventLog
from tests.deploy.world import World

QUICK: dict[str, Any] = {
    "ladder": ((0.5, 0),),
    "window_seconds": 1,
    "holdback_min_seconds": 0,
    "max_seconds": 1000,
}
TAKE_OVER = LEASE_SECONDS + 2  # these live in whole seconds


class Member:
    """A controller with its lease. While it `stands`, neither does anything, as in a long pause."""

    def __init__(self, world: World, name: int, log: EventLog | None = None) -> None:
        self.lease = Lease(world.shared, "service", clock=lambda: world.now)
        self.metrics = ControllerMetrics(world.settings)
        self.controller: Controller = world.new_controller(log, self.lease, self.metrics, f"{name:06x}")
        self.stands = False

    def tick(self) -> None:
        if not self.stands:
            self.lease.renew()
            self.controller.tick()

    @property
    def leads(self) -> bool:
        return bool(self.metrics.registry.get_sample_value("hearken_controller_leads"))


class Crew:
    """Two controllers in the place of the world's one."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._hired = 0
        self.members: list[Member] = []
        self.hire()
        self.hire()

    def hire(self, log: EventLog | None = None) -> Member:
        self._hired += 1
        self.members.append(Member(self._world, self._hired, log))
        return self.members[-1]

    def tick(self) -> None:
        for member in self.members:
            member.tick()

    @property
    def state(self) -> ReleaseState:
        return self.members[0].controller.state

    def kill_the_leader(self) -> Member:
        """It gives nothing back and does nothing any more; another controller is started in its place."""
        (leader,) = [member for member in self.members if member.leads]
        self.members.remove(leader)
        self.hire()
        return leader


@pytest.fixture
def make_crew(tmp_path: Path) -> Iterator[Callable[..., tuple[World, Crew]]]:
    worlds: list[World] = []

    def make(**options: Any) -> tuple[World, Crew]:
        world = World(tmp_path, **{**QUICK, **options})
        worlds.append(world)
        crew = Crew(world)
        world.controller = crew  # type: ignore[assignment]
        return world, crew

    yield make
    for world in worlds:
        world.close()


Make = Callable[..., tuple[World, Crew]]


def test_a_standby_touches_nothing_and_goes_on_from_where_the_leader_was(make_crew: Make) -> None:
    world, crew = make_crew()
    manifest = world.offer()
    world.taste = lambda version: 0.9 if version == manifest.version else 0.4
    world.pass_time(until="started", users=0)
    leader, standby = crew.members
    assert (leader.leads, standby.leads) == (True, False)
    assert world.engines[0].loads == [f"probe-000001-{manifest.version}", manifest.version]
    for _ in range(8):  # too few votes to decide
        world.tick()
        world.chat(4)
        world.now += 1
    assert standby.controller.state == leader.controller.state
    pairs = [m.metrics.registry.get_sample_value("hearken_canary_pairs") for m in (leader, standby)]
    assert pairs[0] == pairs[1] != 0, "it has read the votes as well"
    assert standby.metrics.registry.get_sample_value("hearken_adapters_loaded") is None

    crew.kill_the_leader()
    died_at = world.now
    append_command(world.log, "pause", who="ann")
    paused = world.pass_time(until="paused", users=0)
    assert paused.at - died_at <= TAKE_OVER
    append_command(world.log, "resume", who="ann")
    world.pass_time(until="promoted")
    assert sorted({d.fence for d in world.decisions}) == [1, 2]
    assert (crew.members[0].leads, crew.members[1].leads) == (True, False)
    assert audit(world.log, world.settings) == []


def test_ten_of_ten_candidates_are_promoted_while_leaders_die(make_crew: Make) -> None:
    world, crew = make_crew()
    versions = ["base"]
    for number in range(10):
        world.now += 1
        manifest = world.offer(b"weights %d" % number, parent=versions[-1])
        world.taste = lambda version, new=manifest.version: 0.95 if version == new else 0.3
        world.pass_time(until="started", users=0)
        world.chat(40)
        crew.kill_the_leader()
        world.now += 1
        world.pass_time(until="promoted", users=40)
        versions.append(manifest.version)
    assert world.outcomes.count("promoted") == 10
    assert not {"refused", "rejected", "guardrail", "harmful"} & set(world.outcomes)
    assert [d.number for d in world.decisions] == list(range(1, len(world.decisions) + 1))
    fences = [d.fence for d in world.decisions]
    assert fences == sorted(fences)
    assert fences[-1] == 11, "ten of them died"


def test_who_wakes_up_after_a_long_pause_stands_by(make_crew: Make) -> None:
    world, crew = make_crew()
    world.offer()
    world.pass_time(until="started", users=0)
    old, new = crew.members
    world.now += 1
    world.tick()
    assert old.metrics.registry.get_sample_value("hearken_adapters_loaded", {"engine": world.engines[0].url})
    old.stands = True
    append_command(world.log, "pause", who="ann")
    world.pass_time(until="paused", users=0)
    assert new.leads
    append_command(world.log, "resume", who="ann")
    old.controller.tick()  # before its lease was looked at
    assert world.outcomes[-1] == "paused"
    assert not old.leads
    adapters = [
        m.metrics.registry.get_sample_value("hearken_adapters_loaded", {"engine": world.engines[0].url})
        for m in (old, new)
    ]
    assert adapters == [0, 1], "it speaks for no engine any more"
    old.stands = False
    world.tick()
    assert (world.outcomes[-1], world.decisions[-1].fence) == ("resumed", 2)


class PausedInAppend:
    """A log whose first append is held up for long: `meanwhile` is what happens then."""

    def __init__(self, log: EventLog) -> None:
        self.read, self.end, self.close = log.read, log.end, log.close
        self.hold, self.release_hold, self.bury = log.hold, log.release_hold, log.bury
        self.meanwhile: Callable[[], None] | None = None
        self._append = log.append

    def append(self, entries: Sequence[Entry]) -> "Future[None]":
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return self._append(entries)


def test_a_decision_that_was_held_up_over_a_take_over_counts_for_nobody(make_crew: Make) -> None:
    """Between "do I lead?" and the log there is always a moment: the fence is for that."""
    world, crew = make_crew()
    log = PausedInAppend(world.log)
    crew.members.clear()
    old = crew.hire(log)  # type: ignore[arg-type]
    world.tick()
    new = crew.hire()
    world.tick()
    append_command(world.log, "pause", who="ann")

    def others_go_on() -> None:
        for _ in range(4):
            world.now += 1
            new.tick()
        append_command(world.log, "resume", who="bob")
        new.tick()

    log.meanwhile = others_go_on
    world.tick()
    world.tick()
    assert [(d.outcome, d.fence) for d in world.decisions] == [("begun", 1), ("paused", 2), ("resumed", 2)]
    assert (old.leads, new.leads) == (False, True)
    assert old.controller.state == new.controller.state == world.decisions[-1].state
