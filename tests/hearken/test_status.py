"""What `hearken status` tells: a canary's evidence as its controller has it, times, decisions."""

import json
import math
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from deploy.evidence.guardrails import GuardrailLimits
from deploy.history.releases import entry, make_command, read_history
from deploy.reports.running import running
from deploy.reports.status import summary
from feedback.core.events import FEEDBACK
from hearken.base.errors import UsageError
from hearken.base.telling import describe
from hearken.cli import main
from hearken.operate.log import status
from hearken.operate.looking import count_votes
from tests.deploy.world import World

BOUNDS = ("low", "value", "high")


def canary(world: World, pairs: int = 1) -> str:
    """A candidate whose canary has come to so many pairs; its version."""
    version = world.offer().version
    world.pass_time(until="raised", users=20)
    while metric(world, "hearken_canary_pairs") < pairs:
        world.chat(4)
        world.now += 1
        world.tick()
    assert world.state.stage == "canary"
    return version


def metric(world: World, name: str, **labels: str) -> float:
    return world.metrics.registry.get_sample_value(name, labels) or 0.0


def lines(world: World, capsys: pytest.CaptureFixture[str], *argv: str) -> list[str]:
    assert main(["status", "--data", str(world.folder), *argv]) == 0
    return capsys.readouterr().out.splitlines()


def as_json(world: World, capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads("\n".join(lines(world, capsys, "--json")))


def row(shown: list[str], name: str) -> str:
    (found,) = (line.removeprefix(name).strip() for line in shown if line.startswith(name))
    return found


def test_the_evidence_of_a_canary_is_that_of_its_controller(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    version = canary(world, pairs=5)
    told = as_json(world, capsys)["evidence"]
    assert told["complete"]
    assert told["pairs"] == metric(world, "hearken_canary_pairs")
    for test in ("promote", "harm"):
        assert told["tests"][test] == {
            "evidence": pytest.approx(metric(world, "hearken_canary_evidence", test=test)),
            "bound": metric(world, "hearken_canary_evidence_bound", test=test),
        }
    for proof in ("not_awful", "no_worse", "no_worse_compared", "voters_alike"):
        assert told["proofs"][proof] == {
            "evidence": pytest.approx(metric(world, "hearken_canary_evidence", test=proof)),
            "bound": metric(world, "hearken_canary_evidence_bound", test=proof),
        }
    thumbs = {bound: metric(world, "hearken_canary_thumbs_difference", bound=bound) for bound in BOUNDS}
    assert thumbs["value"] == pytest.approx(told["mean_difference"])
    assert -1 <= thumbs["low"] < thumbs["value"] < thumbs["high"] <= 1
    assert math.isnan(metric(world, "hearken_canary_preferred_ratio", bound="value"))  # nobody compared
    shown = lines(world, capsys)
    assert row(shown, "canary") == version
    assert " of 20, harm " in row(shown, "evidence")
    assert row(shown, "evidence").endswith(" of 100")
    assert row(shown, "pairs").startswith(f"{told['pairs']} of users, mean difference ")
    assert "users of the canary, 0." in row(shown, "voted")


def test_who_has_no_time_to_read_all_votes_says_so(world: World) -> None:
    canary(world)
    history = read_history(world.log)
    found = running(world.log, history, 0.0)
    assert found is not None
    assert not found.complete
    shown = describe(summary(history, 1, found))
    assert any("of a part of the votes" in line for line in shown)


def test_before_anybody_voted_all_is_unproven(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.offer()
    world.pass_time(until="started", users=0)
    shown = lines(world, capsys)
    assert row(shown, "evidence") == "promote 1 of 20, harm 1 of 100"
    assert row(shown, "pairs") == "0"
    assert [line.split(maxsplit=1)[1] for line in shown if line.startswith("unproven")] == [
        "that users like it better",
        "that thumbs are no lower",
        "that comparisons agree, or that as many vote in both buckets",
    ]


def test_a_holdback_has_no_bound_to_promote(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    better = world.offer().version
    world.taste = lambda served: 0.9 if served == better else 0.3
    world.pass_time(until="promoted")
    told = as_json(world, capsys)["evidence"]
    assert told["tests"].keys() == {"harm"}
    assert told["proofs"] == {}
    assert "promote" not in row(lines(world, capsys), "evidence")


def test_without_a_release_there_is_none(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.tick()
    assert as_json(world, capsys)["evidence"] is None
    assert row(lines(world, capsys), "stage").startswith("idle since 20")


def test_times_are_told_with_their_zone(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    canary(world)
    shown = lines(world, capsys)
    decided = [line.strip().split("  ", 1) for line in shown if line.startswith("  20")]
    assert [sentence for _, sentence in decided] == [d.sentence for d in world.decisions]
    for (at, _), decision in zip(decided, world.decisions, strict=True):
        assert datetime.fromisoformat(at).timestamp() == int(decision.at)
    assert datetime.fromisoformat(row(shown, "stage").partition(" since ")[2]).timestamp() == int(
        world.state.entered_at
    )


def test_as_many_decisions_are_shown_as_are_asked_for(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(12):
        world.offer(bytes([n]))
        world.tick()
    made = [decision.sentence for decision in world.decisions]
    assert len(made) > 12
    for argv, count in (((), 8), (("--decisions", "11"), 11), (("--decisions", "900"), len(made))):
        shown = [line for line in lines(world, capsys, *argv) if line.startswith("  20")]
        assert [line.split("  ")[-1] for line in shown] == made[-count:]
    with pytest.raises(SystemExit) as refused:
        main(["status", "--data", str(world.folder), "--decisions", "some"])
    assert refused.value.code == 2
    assert "'some' is no whole number" in capsys.readouterr().err


def test_how_learning_goes_is_said_first(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.now = time.time() - 60
    version = canary(world, pairs=5)
    shown, told = lines(world, capsys), as_json(world, capsys)
    votes = len(world.log.read([FEEDBACK], {}, 100_000)[0])
    assert told["learning"]["votes"] | {"since": 0} == {"count": votes, "since": 0, "complete": True}
    assert shown[0] == told["learning"]["sentence"]
    assert shown[0].startswith(f"{votes:,} votes since ")
    assert f"the newest policy, {version} (on trial), has " in shown[0]
    assert shown[0].endswith("; nothing to do.")
    world.log.append([entry(make_command("pause"))]).result()
    world.tick()
    assert lines(world, capsys)[1].startswith("to do       Resume releases")


def test_who_has_no_time_to_count_all_votes_says_so(world: World) -> None:
    canary(world)
    counted = count_votes(world.log, read_history(world.log), 0.0, time.time(), 0.0)
    assert not counted.complete


def test_a_log_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a service's data folder"):
        status(tmp_path / "nowhere", None, GuardrailLimits())
