"""/v1/learning: how learning goes in words, what users said of versions, and the learner's steps."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from feedback.updates.steps import entry, step_record
from feedback.updates.usage import entry as usage_entry
from feedback.updates.usage import usage_events
from serve.receipts.reader import Receipts
from serve.receipts.store import ReceiptStore
from serve.releases.learning import Learning
from tests.deploy.world import World, controlled
from tests.serve.conftest import Gateway, Start, eventually
from tests.serve.test_access import add_key, bearer
from tests.serve.test_releases import act, started


def shown(gateway: Gateway) -> Any:
    answer = gateway.http.get("/v1/learning")
    assert answer.status_code == 200
    return answer.json()


def learned(world: World, count: int, first: int = 1) -> None:
    """So many steps of the learner, and beside them what updates say of votes."""
    for number in range(first, first + count):
        told = step_record(
            number, time.time() - 60 + number, "base", 10 * number, reward=0.1 * number, kl_nats=0.5,
            kl_budget_nats=6.0, accuracy=0.7, entropy_nats=1.5, response_tokens=40.0 + number, cut_off=0.1,
        )  # fmt: skip
        used = usage_events(number, time.time(), {"feedback/0": number}, [(f"fb-{number}", 1, "training")])
        world.log.append([entry(told), *map(usage_entry, used)]).result()


def test_votes_steps_and_what_users_said_are_told(gateway: Gateway, world: World) -> None:
    world.now = time.time()
    with controlled(world):
        version = started(world)
        world.taste = lambda served: 0.9 if served == version else 0.2
        for _ in range(2):
            world.serve("canary", 16)
            world.serve("control", 16)
            world.now += 6
        learned(world, 3)
        eventually(lambda: (shown(gateway)["opinions"] or [{}])[-1].get("thumbs"), "the evidence is told")
        told = shown(gateway)
    assert told["votes"] | {"since": 0} == {"count": 64, "since": 0, "complete": True}
    assert 6 * 86_400 <= time.time() - told["votes"]["since"] < 7 * 86_400 + 3600
    assert told["sentence"].startswith("64 votes since ")
    (said,) = told["opinions"]
    assert (said["version"], said["against"], said["outcome"]) == (version, "base", None)
    assert said["thumbs"]["low"] < said["thumbs"]["value"] < said["thumbs"]["high"]
    assert f"the newest policy, {version} (on trial), has +" in told["sentence"]
    assert told["sentence"].endswith("; nothing to do.")
    assert told["to_do"] == []
    assert [(each["stage"], each["tried"], each["ended"]) for each in told["stages"]] == [
        ("idle", None, "started"),
        ("canary", version, None),
    ]
    assert told["lately"] == f"Within the last day: 64 votes; {version} was put on trial."
    steps = told["steps"]
    assert (steps["count"], steps["newest"], steps["votes_used"], steps["complete"]) == (3, 3, 30, True)
    assert [value for _, value in steps["series"]["reward"]] == pytest.approx([0.1, 0.2, 0.3])
    assert steps["series"]["kl_budget_nats"][-1][1] == 6.0


def test_what_a_person_should_do_is_told_until_it_is_done(gateway: Gateway, world: World) -> None:
    world.now = time.time()
    (start_one, ask) = shown(gateway)["to_do"]
    assert start_one.startswith("Start the release controller")
    assert ask.startswith("Ask people")
    with controlled(world):
        assert act(gateway, "pause").status_code == 200
        world.serve("live", 1)
        eventually(lambda: len(shown(gateway)["to_do"]) == 1, "one thing is left to do")
        assert "hearken resume" in shown(gateway)["to_do"][0]
        assert act(gateway, "resume").status_code == 200
        assert shown(gateway)["to_do"] == []


def test_votes_that_came_after_the_newest_update_are_the_learners_lag(gateway: Gateway, world: World) -> None:
    world.now = time.time() - 100
    with controlled(world):
        eventually(lambda: world.decisions, "releases have begun")
        world.serve("live", 2)
        first = min(vote.at for vote in gateway.votes())
        eventually(lambda: shown(gateway)["lag"]["votes"] == 2, "no update has taken any")
        assert shown(gateway)["lag"] == {"votes": 2, "since": first, "updated": None}
        learned(world, 1)
        eventually(lambda: shown(gateway)["lag"]["updated"], "the update is read")
        assert shown(gateway)["lag"] | {"updated": 0} == {"votes": 0, "since": None, "updated": 0}
        world.now = time.time() + 100
        world.serve("live", 1)
        eventually(lambda: shown(gateway)["lag"]["votes"] == 1, "the vote after it is read")


def test_only_an_operator_is_told(start: Start, world: World, tmp_path: Path) -> None:
    keys = {scope: add_key(tmp_path / "keys.json", [scope]) for scope in ("chat", "operate")}
    gateway = start()
    assert gateway.http.get("/v1/learning").status_code == 401
    assert gateway.http.get("/v1/learning", headers=bearer(keys["chat"])).status_code == 403
    assert gateway.http.get("/v1/learning", headers=bearer(keys["operate"])).status_code == 200


def test_what_is_not_read_yet_is_said_and_read_at_the_next_looks(world: World, tmp_path: Path) -> None:
    learned(world, 300)
    receipts = Receipts(world.log, ReceiptStore(tmp_path / "receipts.db"))  # nobody folds the votes
    hurried = Learning(world.log, receipts, patience_seconds=0.0)

    async def looks() -> list[Any]:
        idle = {"stage": "idle", "live": "base"}
        found = [await hurried.told(idle, [], decides=True)]
        while not found[-1]["steps"]["complete"]:
            found.append(await hurried.told(idle, [], decides=True))
        learned(world, 1, first=301)
        return [*found, await hurried.told(idle, [], decides=True)]

    first, *more = asyncio.run(looks())
    receipts.close()
    assert (first["votes"]["count"], first["votes"]["complete"]) == (0, False)
    assert first["sentence"].startswith("At least 0 votes since ")
    assert first["to_do"] == [], "no votes are known, which is not the same as no votes"
    counts = [told["steps"]["count"] for told in (first, *more)]
    assert 0 < counts[0] < 300
    assert counts == sorted(set(counts))
    assert counts[-2:] == [300, 301]
