"""Which versions' files may go, and that a folder's registry lets go of exactly these."""

from pathlib import Path

import pytest

from deploy.history.releases import Candidate, Command, History, decision_of
from deploy.history.states import ReleaseState, Standing, Step
from deploy.history.table import RoutingTable
from deploy.registry.collecting import needed, spare
from deploy.registry.errors import Collected
from deploy.registry.files import CONFIG, MANIFEST, WEIGHTS
from deploy.registry.registry import Registry, Stored
from tests.deploy.builders import publish
from tests.deploy.world import World

DAY = 86_400.0
IN_TABLE = ("live", "control", "canary", "anchor")
WORDS = (*IN_TABLE, "former", "waiting", "pinned", "tested", "offered", "asked", "held")
"""Why a version is needed, a word each."""


def versions(count: int) -> list[Stored]:
    """policy-0 is the oldest, a day older than the next."""
    return [Stored(f"policy-{n}-00000000", 10, n * DAY) for n in range(count)]


def test_what_nothing_names_goes_when_it_is_old_and_not_of_the_last() -> None:
    found = versions(10)
    gone = spare(found, {}, newest=3, younger_seconds=0, now=10 * DAY)
    assert [each.version for each in gone] == [each.version for each in found[1:7]], "and version 0 stays"
    assert spare(found, {}, newest=0, younger_seconds=8 * DAY, now=10 * DAY) == found[1:3]
    named = {found[2].version: "live"}
    assert spare(found, named, newest=0, younger_seconds=8 * DAY, now=10 * DAY) == found[1:2]
    assert spare(found, {}, newest=50, younger_seconds=0, now=10 * DAY) == []


def test_all_that_decisions_commands_and_gateways_name_is_needed() -> None:
    name = {word: f"policy-{number}-00000000" for number, word in enumerate(WORDS, 1)}
    table = RoutingTable(
        epoch=2,
        live=name["live"],
        control=name["control"],
        canary=name["canary"],
        weight=0.1,
        anchor=name["anchor"],
        anchor_weight=0.05,
    )
    state = ReleaseState(
        stage="canary",
        table=table,
        lives=("base", name["former"], name["live"]),
        waiting=name["waiting"],
        pinned=name["pinned"],
        standing=Standing(live=name["tested"], period=1, began_at=0.0, first_epoch=1),
    )
    history = History()
    with pytest.raises(ValueError, match="no decision in this log"):
        needed(history, ())
    step = Step("raised", name["canary"], state, "so", {})
    history.apply(decision_of(step, ReleaseState(), 1, 0.0))
    history.apply(Candidate.announce(name["offered"], 0.0))
    history.apply(Command(event_id="c", at=0.0, action="pin", version=name["asked"]))
    found = needed(history, [name["held"]])
    assert found.keys() == set(name.values()), "and the base is no version"
    assert found[name["waiting"]] == "it waits for its canary"
    assert {found[name[word]] for word in IN_TABLE} == {"the table in force names it"}


def test_a_folders_files_go_and_its_manifest_stays(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "adapters")
    old, new = publish(registry, tmp_path, b"one"), publish(registry, tmp_path, b"two")
    folder = registry.path(old.version)
    size = sum((folder / name).stat().st_size for name in (WEIGHTS, CONFIG))
    assert registry.sizes()[0][:2] == (old.version, size)
    registry.collect(old.version)
    assert sorted(file.name for file in folder.iterdir()) == ["collected.json", MANIFEST]
    assert [each.version for each in registry.sizes()] == registry.versions() == [new.version]
    assert registry.manifest(old.version) == old
    assert registry.rank(0) == new.rank
    for ask in (registry.path, registry.verify, registry.collect):
        with pytest.raises(Collected, match=f"{old.version} was collected"):
            ask(old.version)
    assert publish(registry, tmp_path, b"three").seq == 3, "numbers go on"


def test_what_a_world_has_in_use_survives_the_greediest_collection(world: World) -> None:
    world.taste = lambda version: 0.4 if version == "base" else 0.9
    world.tick()
    first = world.offer(b"one")
    world.pass_time("promoted")
    unused = publish(world.registry, world.folder / "scratch", b"never offered")
    second = world.offer(b"two", parent=first.version)
    world.tick()
    assert world.state.waiting == second.version
    history = History()
    for decision in world.decisions:
        history.apply(decision)
    gone = spare(world.registry.sizes(), needed(history, ()), 0, 0.0, float("inf"))
    assert [each.version for each in gone] == [unused.version]
    for each in gone:
        world.registry.collect(each.version)
    world.tick()
    assert world.state.table.live == first.version
    for version in (first.version, second.version):
        world.registry.verify(version)
