"""`hearken release`, and `hearken rollback` that waits, against a real controller and a real gateway."""

import getpass
import json
from typing import Any

import pytest

from deploy.history import leases
from deploy.history.releases import Decision, read_history
from deploy.reports import ab_report
from feedback.shared import RedisStore
from hearken.cli import main
from hearken.story.log import read_story
from hearken.story.series import told
from tests.deploy.world import World, controlled
from tests.serve.conftest import eventually, serving
from tests.serve.fake_vllm import FakeVllm


def run(world: World, *argv: str, code: int = 0) -> None:
    assert main([*argv, "--data", str(world.folder)]) == code


def ask(world: World, *argv: str, code: int = 0) -> Decision:
    """Ask with a reason, and find the decision."""
    run(world, *argv, "--reason", "odd answers", code=code)
    decision = world.decisions[-1]
    assert (decision.who, decision.reason) == (getpass.getuser(), "odd answers")
    return decision


def started(world: World) -> str:
    version = world.offer().version
    eventually(lambda: world.outcomes[-1:] == ["started"], "the canary starts")
    return version


def printed(capsys: pytest.CaptureFixture[str], world: World, *argv: str) -> str:
    capsys.readouterr()
    run(world, *argv)
    return capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], world: World, *argv: str) -> Any:
    return json.loads(printed(capsys, world, *argv, "--json"))


def test_a_rollback_waits_until_the_gateways_serve_the_version_before(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = FakeVllm().start()
    with serving(world.folder, world.log, world.shared, (engine.url,)) as gateway, controlled(world):
        eventually(gateway.is_ready, "the gateway is ready")
        version = started(world)
        assert ask(world, "release", "promote", version).outcome == "promoted"
        assert f"all gateways serve {version}" in capsys.readouterr().out
        assert ask(world, "rollback").outcome == "rolled_back"
        epoch = gateway.metric("hearken_table_epoch")
        assert epoch == world.decisions[-1].state.table.epoch, "at the time of the answer"
        said = capsys.readouterr().out
        assert f"Rolled back {version} to base for {getpass.getuser()}: odd answers." in said
        assert "all gateways serve base" in said
        leases.write(world.shared, "elsewhere", [], 1)
        assert ask(world, "release", "pin", version, "--wait", "1", code=1).outcome == "pinned"
        assert "1 of 2 gateways do not serve by the decision yet" in capsys.readouterr().err
    engine.stop()


@pytest.mark.redis
def test_gateways_elsewhere_are_found_by_their_redis(
    world: World, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    engine, store = FakeVllm().start(), RedisStore(redis_url)
    with serving(world.folder, world.log, store, (engine.url,)) as gateway, controlled(world):
        eventually(gateway.is_ready, "the gateway is ready")
        version = started(world)
        ask(world, "release", "promote", "--redis", redis_url)
        assert f"all gateways serve {version}" in capsys.readouterr().out
        ask(world, "rollback", "--wait", "1", code=1)
        said = capsys.readouterr().err
        assert "no gateway has told the shared store" in said
        assert "with Redis say which by --redis" in said
    store.close()
    engine.stop()


def test_without_a_controller_the_command_says_so_in_time(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    run(world, "release", "freeze", "--wait", "1", code=1)
    assert "no controller has decided within 1 s; the command is kept" in capsys.readouterr().err
    with controlled(world):
        eventually(lambda: "frozen" in world.outcomes, "a controller does it")


def test_what_is_not_done_says_why(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with controlled(world):
        assert ask(world, "release", "promote", code=1).outcome == "not_done"
        assert "no canary runs, base is live" in capsys.readouterr().err
        ask(world, "release", "pin", "policy-9-aaaaaaaa", code=1)
        assert "no version 'policy-9-aaaaaaaa'" in capsys.readouterr().err
    run(world, "release", "pin", "../up", code=2)
    assert "'../up' is no version" in capsys.readouterr().err
    run(world, "release", "freeze", "--reason", "two\nlines", code=2)
    assert "--reason has characters that cannot be printed" in capsys.readouterr().err
    with pytest.raises(SystemExit) as refused:
        run(world, "release", "pin")
    assert refused.value.code == 2


def test_why_tells_of_the_running_release_and_of_a_version(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "No controller has decided anything yet" in printed(capsys, world, "release", "why")
    version = world.offer().version
    world.pass_time(until="started", users=0)
    world.serve("canary", 28)
    said = printed(capsys, world, "release", "why")
    assert f"{version} has been on trial with 5% of users, beside base" in said
    assert "22 more canary users (28 of 50 were served on this step)" in said
    assert printed(capsys, world, "release", "why", "--set", "controller.rung_users=60") != said
    assert (
        as_json(capsys, world, "release", "why", version)["why"]
        == as_json(capsys, world, "release", "why")["why"]
    )
    with controlled(world):
        ask(world, "rollback", "--wait", "1", code=1)  # there is no gateway
    told = printed(capsys, world, "release", "why", version).splitlines()
    assert [line.split("  ")[-1].split(" ")[0] for line in told[:-1]] == [version, "Started", "Rolled"]
    assert told[-1] == f"{version} serves nobody."
    run(world, "release", "why", "policy-9-aaaaaaaa", code=1)
    assert "no decision is about policy-9-aaaaaaaa" in capsys.readouterr().err


def test_history_has_all_decisions_with_who_asked(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, world, "release", "history") == "no decision yet\n"
    with controlled(world):
        for _ in range(6):
            ask(world, "release", "freeze")
            ask(world, "release", "unfreeze")
    made = world.decisions
    assert len(made) == 13
    lines = printed(capsys, world, "release", "history").splitlines()
    assert [line.split("  ")[-1] for line in lines] == [decision.sentence for decision in made]
    assert printed(capsys, world, "release", "history", "--limit", "3").splitlines() == lines[-3:]
    rows = as_json(capsys, world, "release", "history")
    assert [row["number"] for row in rows] == list(range(1, 14))
    assert (rows[0]["who"], rows[-1]["who"]) == (None, getpass.getuser())
    assert (rows[-1]["action"], rows[-1]["reason"]) == ("unfreeze", "odd answers")


def test_status_tells_of_a_freeze_and_of_a_pin(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with controlled(world):
        ask(world, "release", "freeze")
        ask(world, "release", "pin", "base")
    shown = printed(capsys, world, "status")
    assert "frozen      no canary starts until `hearken release unfreeze`" in shown
    assert "pinned      base: nothing replaces it until `hearken release unpin`" in shown


def test_a_report_says_how_many_people_prefer_a_version_in_words_as_json_and_as_a_page(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    run(world, "release", "report", code=1)
    assert "no canary began yet" in capsys.readouterr().err
    version = world.offer().version
    world.taste = lambda served: 0.9 if served == version else 0.4
    world.pass_time(until="promoted")
    said = printed(capsys, world, "release", "report")
    assert said.startswith(f"{version} against base, ")
    assert "thumbs up: +" in said
    told = as_json(capsys, world, "release", "report", version)
    assert (told["against"], told["outcome"], told["users"]["compared"]) == ("base", "promoted", 0)
    low, high = told["users"]["thumbs_interval"]
    assert 0 < low < told["users"]["thumbs"] < high < 1
    page = printed(capsys, world, "release", "report", "--html")
    assert f"<h1>{version} against base</h1>" in page
    assert page.count("<circle") == 1, "nobody was asked to choose"


def test_one_reading_counts_each_release_as_a_reading_of_its_own_does(world: World) -> None:
    versions = []
    for content in (b"one", b"two"):
        better = world.offer(content, parent=versions[-1] if versions else "base").version
        world.taste = lambda served, better=better: 0.9 if served == better else 0.4  # type: ignore[misc]
        world.pass_time(until="promoted")
        world.pass_time(until="finished", users=0)
        versions.append(better)
    found = read_story(world.log, None, 60.0)
    history = read_history(world.log, 1000)
    assert [each.version for each in found.reports] == versions
    assert found.reports == [ab_report.report(world.log, history, version, 60.0) for version in versions]
    assert found.reports[1].users.matched < sum(each.users.matched for each in found.reports)
    later = read_story(world.log, found.reports[1].started_at, 60.0)
    assert later.reports == found.reports[1:], "read from the second release's own place in the log"
    assert (told(found)["promotions"], told(later)["promotions"]) == (2, 1)
    assert told(found)["line"] == ["base", *versions]
