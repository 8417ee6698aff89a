"""`hearken registry`: what there is, and what would be deleted and is, by the log of a service."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from deploy.history.leases import KEY, Lease
from deploy.registry.files import WEIGHTS
from deploy.registry.registry import Registry
from feedback.opening import open_shared
from hearken.cli import main
from tests.deploy.builders import publish
from tests.deploy.test_bucket_registry import another, keys, write
from tests.deploy.world import World
from tests.s3 import bucket_url, s3_server

__all__ = ["bucket_url", "s3_server"]


def told(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What a command prints."""
    assert main(["registry", *words]) == code
    found = capsys.readouterr()
    return found.err if code else found.out


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    return json.loads(told(capsys, *words, "--json"))


def begun(world: World) -> tuple[str, str]:
    """A version on trial, and one that nothing names."""
    world.tick()
    spare = publish(world.registry, world.folder / "scratch", b"spare")
    manifest = world.offer(b"offered")
    for _ in range(2):
        world.tick()
    assert world.state.table.canary == manifest.version
    return manifest.version, spare.version


def test_what_nothing_names_is_said_first_and_deleted_when_asked(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    trial, spare = begun(world)
    data = ("--data", str(world.folder))
    rules = ("--newest", "0", "--younger", "0s")
    listed = told(capsys, "list", *data)
    assert trial in listed
    assert "2 versions, " in listed
    said = told(capsys, "gc", *data, *rules)
    assert f"would collect {spare}, " in said
    assert f"keeps {trial}: the table in force names it" in said
    assert said.endswith("nothing was deleted; `--delete` does it\n")
    assert world.registry.versions() == [spare, trial]
    found = as_json(capsys, "gc", *data, *rules, "--delete")
    assert [each["version"] for each in found["collected"]] == [spare]
    assert (found["deleted"], found["kept"]) == (True, {trial: "the table in force names it"})
    assert found["bytes"] == found["collected"][0]["size"] > 0
    assert world.registry.versions() == [trial]
    world.registry.verify(trial)
    assert as_json(capsys, "gc", *data, *rules, "--delete")["collected"] == []


def test_what_is_young_or_of_the_last_stays_by_itself(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(world)
    data = ("--data", str(world.folder))
    for rules in ((), ("--newest", "0"), ("--younger", "0s")):
        assert as_json(capsys, "gc", *data, *rules)["collected"] == []
    assert "is no span of time; write 7d" in told(capsys, "gc", *data, "--younger", "week", code=2)


def test_a_log_without_a_decision_deletes_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    version = publish(world.registry, world.folder / "scratch", b"one").version
    rules = ("--newest", "0", "--younger", "0s", "--delete")
    said = told(capsys, "gc", "--data", str(world.folder), *rules, code=1)
    assert "there is no decision in this log" in said
    assert world.registry.versions() == [version]


def test_what_gateways_use_stays_and_nothing_goes_while_that_is_not_known(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    trial, spare = begun(world)
    command = ("gc", "--data", str(world.folder), "--newest", "0", "--younger", "0s", "--delete")
    with closing(open_shared(world.folder, None)) as shared:
        lease = Lease(versions=frozenset({spare}), epoch=1)
        shared.put(KEY + "gateway", lease.model_dump_json().encode(), 60)
        assert as_json(capsys, *command)["kept"][spare] == "a gateway uses it"
        shared.put(KEY + "gateway", b"{", 60)
    assert "it is not known what gateways use; nothing is deleted" in told(capsys, *command, code=1)
    assert world.registry.versions() == [spare, trial]


def test_a_bucket_is_collected_with_what_lies_about_in_it(
    world: World, capsys: pytest.CaptureFixture[str], bucket_url: str, tmp_path: Path
) -> None:
    world.tick()
    version = publish(another(bucket_url, tmp_path / "learner"), tmp_path, b"one").version
    write(bucket_url, f"policy-9-00000000/{WEIGHTS}", b"of a publisher that died, or is at work")
    rules = ("--newest", "0", "--younger", "0s", "--delete")
    where = ("--data", str(world.folder), "--registry", bucket_url)
    assert version in told(capsys, "list", *where)
    said = told(capsys, "gc", *where, *rules)
    assert f"collected {version}" in said
    assert "objects of no version" not in said, "one hour has to pass"
    assert keys(bucket_url) == [
        "claims/1",
        f"{version}/collected.json",
        f"{version}/manifest.json",
        f"policy-9-00000000/{WEIGHTS}",
    ]
    assert Registry(world.folder / "adapters").versions() == []


def test_what_cannot_be_used_is_one_line(
    world: World,
    capsys: pytest.CaptureFixture[str],
    bucket_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = ("--data", str(world.folder))
    world.tick()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    said = told(capsys, "list", *data, "--registry", bucket_url, code=1)
    assert "check AWS_ACCESS_KEY_ID" in said
    assert "write s3://BUCKET" in told(capsys, "list", *data, "--registry", "s3://UPPER", code=2)
    assert "no registry; write a folder" in told(capsys, "list", *data, "--registry", "gs://models", code=2)
    assert main(["fetch", "--registry", "/some/folder"]) == 2
    assert "give --registry s3://BUCKET/PREFIX" in capsys.readouterr().err
