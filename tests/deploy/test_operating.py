"""A controller that operators steer: what it does, what it tells, and that who asked and why is on record."""

from typing import Any

import pytest

from deploy.audit.replay import audit
from deploy.controller.notices import Notices
from deploy.history import leases
from deploy.history.asking import Asked, not_yet
from deploy.history.notice import KEY, read_notice
from deploy.history.releases import Decision, append_command, entry, make_command, read_history
from deploy.history.states import Action
from deploy.reports.status import told
from feedback.core.events import COMPLETIONS
from feedback.core.log import Entry
from feedback.shared import SharedUnavailable
from tests.deploy.builders import completion, publish
from tests.deploy.world import MakeWorld, World


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()


def ask(world: World, action: Action, version: str | None = None) -> Decision:
    """What the controller decides upon ann's wish."""
    command = append_command(world.log, action, version, reason="odd answers", who="ann")
    world.tick()
    (decision,) = [each for each in world.decisions if each.answers == command.event_id]
    assert (decision.action, decision.who, decision.reason) == (action, "ann", "odd answers")
    return decision


def metric(world: World, name: str, **labels: str) -> float | None:
    return world.metrics.registry.get_sample_value(name, labels)


def canary(world: World) -> str:
    version = world.offer().version
    world.pass_time(until="started", users=0)
    return version


def test_a_promotion_serves_at_once_and_harm_still_takes_it_back(world: World) -> None:
    version = canary(world)
    promoted = ask(world, "promote")
    assert (promoted.outcome, world.state.table.live, world.state.stage) == ("promoted", version, "holdback")
    assert audit(world.log, world.settings) == [], "what a person decided follows from no votes"
    world.taste = lambda served: 0.05 if served == version else 0.95
    harmful = world.pass_time(until="harmful", users=200)
    assert harmful.state.table.live == "base"


def test_a_canary_that_fails_a_guardrail_is_not_promoted_by_the_command_that_comes_with_the_failure(
    world: World,
) -> None:
    version = canary(world)
    world.answer = lambda served: {"text": "", "tokens": 0} if served == version else {}
    world.serve("canary", 200)
    world.serve("control", 200)
    refused = ask(world, "promote")
    assert f"a guardrail of {version} failed: empty answers" in refused.sentence
    assert world.outcomes == ["begun", "accepted", "started", "not_done", "guardrail"]


def test_a_promotion_waits_for_the_end_of_the_log_and_a_rollback_does_not(world: World) -> None:
    canary(world)
    old = completion(1, user="ada", epoch=0).model_dump_json().encode()
    world.log.append([Entry(COMPLETIONS, "x", old)] * 25_000).result()  # more than one round reads
    promote = append_command(world.log, "promote", who="ann")
    rollback = append_command(world.log, "rollback", who="bob")
    world.tick()
    world.tick()
    answers = {d.answers: d.outcome for d in world.decisions if d.answers}
    assert (answers[rollback.event_id], answers[promote.event_id]) == ("rolled_back", "not_done")


def test_a_freeze_lets_the_canary_go_on_and_the_next_one_wait(world: World) -> None:
    better = canary(world)
    ask(world, "freeze")
    world.taste = lambda version: 0.9 if version == better else 0.3
    world.pass_time(until="promoted")
    following = world.offer(b"two", parent=better)
    world.taste = lambda version: 0.9
    world.pass_time(until="finished")
    for _ in range(3):
        world.now += 1
        world.tick()
    assert (world.state.stage, world.state.waiting) == ("idle", following.version)
    world.kill_controller()
    world.tick()
    assert world.state.frozen
    assert ask(world, "unfreeze").outcome == "unfrozen"
    world.pass_time(until="started", users=0)


def test_a_pin_holds_over_candidates_and_restarts_until_it_ends(world: World) -> None:
    first = canary(world)
    world.taste = lambda version: 0.9 if version == first else 0.3
    world.pass_time(until="promoted")
    world.taste = lambda version: 0.9
    world.pass_time(until="finished")
    pinned = ask(world, "pin", "base")
    assert (pinned.outcome, pinned.table is not None) == ("pinned", True)
    assert world.state.table.live == "base"
    held = {hold: metric(world, "hearken_release_held", hold=hold) for hold in ("pause", "freeze", "pin")}
    assert held == {"pause": 0.0, "freeze": 0.0, "pin": 1.0}
    waiting = world.offer(b"two")
    for _ in range(30):
        world.now += 1
        world.tick()
    world.kill_controller()
    world.tick()
    assert (world.state.stage, world.state.waiting) == ("idle", waiting.version)
    assert ask(world, "rollback").outcome == "not_done"
    assert ask(world, "unpin").outcome == "unpinned"
    world.pass_time(until="started", users=0)


def test_a_version_of_the_registry_that_never_was_a_candidate_is_proven_before_it_is_pinned(
    world: World,
) -> None:
    world.tick()
    manifest = publish(world.registry, world.folder / "scratch", b"by hand")
    pinned = ask(world, "pin", manifest.version)
    assert pinned.outcome == "pinned"
    assert manifest.version in world.engines[0].loaded
    assert world.state.manifests[manifest.version] == world.registry.manifest_digest(manifest.version)
    assert ask(world, "unpin").state.table.live == manifest.version
    assert ask(world, "rollback").state.table.live == "base"


def test_what_is_not_in_the_registry_or_proven_by_no_engine_is_not_pinned(world: World) -> None:
    world.tick()
    unknown = ask(world, "pin", "policy-9-aaaaaaaa")
    assert (unknown.outcome, world.state.pinned) == ("not_done", None)
    assert "no version 'policy-9-aaaaaaaa'" in unknown.sentence
    manifest = publish(world.registry, world.folder / "scratch", b"by hand")
    (world.registry.path(manifest.version) / "adapter_model.safetensors").write_bytes(b"other weights")
    changed = ask(world, "pin", manifest.version)
    assert (changed.outcome, world.state.table.live) == ("not_done", "base")
    assert world.engines[0].loaded == {}
    assert "adapter_model.safetensors" in changed.sentence


def test_the_same_command_twice_is_done_once(world: World) -> None:
    first = canary(world)
    world.taste = lambda version: 0.9 if version == first else 0.3
    world.pass_time(until="promoted")
    command = make_command("rollback", who="ann", key="shop\0abc")
    again = make_command("rollback", who="ann", key="shop\0abc")
    assert command.event_id == again.event_id
    assert command.event_id != make_command("rollback", who="ann", key="shop\0abd").event_id
    for each in (command, again):
        world.log.append([entry(each)]).result()
        world.tick()
    assert world.outcomes.count("rolled_back") == 1
    assert world.outcomes.count("not_done") == 0


def test_the_controller_tells_why_and_the_decisions_who(world: World) -> None:
    world.tick()
    notice = read_notice(world.shared)
    assert notice is not None
    assert (notice.number, notice.evidence) == (1, None)
    version = canary(world)
    world.tick()
    told_now = read_notice(world.shared)
    assert told_now is not None
    assert f"{version} has been on trial with 5% of users" in told_now.why[0]
    assert told_now.evidence is not None
    assert told_now.evidence["pairs"] == 0
    assert told_now.guardrails["empty_answers"] == "not judged yet"
    ask(world, "pause")
    world.tick()
    paused = read_notice(world.shared)
    assert paused is not None
    assert any("Releases are paused" in sentence for sentence in paused.why)
    row = told(world.decisions[-1])
    assert (row["action"], row["who"], row["reason"]) == ("pause", "ann", "odd answers")
    assert told(world.decisions[0])["who"] is None
    world.shared.put(KEY, b"{}", 10)
    assert read_notice(world.shared) is None, "what is no notice is none"


class AwayStore:
    """A shared store that is away, until `stored` is a list."""

    def __init__(self) -> None:
        self.stored: list[str] | None = None

    def put(self, key: str, *_: object) -> None:
        if self.stored is None:
            raise SharedUnavailable("away")
        self.stored.append(key)


def test_a_store_that_is_away_is_left_alone_for_a_while(world: World) -> None:
    world.tick()
    store = AwayStore()
    notices, rules = Notices(store), world.settings.release_rules  # type: ignore[arg-type]
    notices.tell(world.state, 1, None, rules, 100.0)
    assert not notices.are_due(1, 110.0)
    assert notices.are_due(1, 130.0)
    assert notices.are_due(2, 100.5), "a decision is told at once"
    store.stored = []
    notices.tell(world.state, 2, None, rules, 130.0)
    assert store.stored == [KEY]
    assert notices.are_due(2, 131.0)
    assert notices.are_due(2, 50.0), "the clock was put back"


def test_a_page_of_decisions_is_the_newest_below_a_number(world: World) -> None:
    world.tick()
    for _ in range(6):
        ask(world, "pause")
    numbers = [decision.number for decision in read_history(world.log, 3).decisions]
    assert numbers == [5, 6, 7]
    found = read_history(world.log, 3, before=5)
    assert [decision.number for decision in found.decisions] == [2, 3, 4]
    assert found.state == world.state, "the state is the newest all the same"


def test_who_asks_finds_the_answer_and_another_use_of_its_id(world: World) -> None:
    world.tick()
    asked = Asked(world.log, make_command("pause", who="ann", key="k"))
    asked.append()
    assert asked.look()
    assert (asked.decision, asked.is_another) == (None, False)
    world.tick()
    asked.look()
    assert asked.decision is not None
    assert asked.decision.outcome == "paused"
    other = Asked(world.log, make_command("resume", who="ann", key="k"))
    other.append()
    other.look()
    assert other.is_another


def lease(world: World, name: str, epoch: int) -> None:
    leases.write(world.shared, name, [], epoch)


def test_a_decision_is_in_force_when_all_gateways_go_by_it(world: World) -> None:
    world.tick()
    decision = world.decisions[-1]
    epoch = decision.state.table.epoch
    world.shared.delete(leases.KEY + "gateway")
    assert (
        not_yet(world.shared, decision) == "no gateway has told the shared store by which decision it serves"
    )
    lease(world, "a", epoch)
    lease(world, "b", epoch - 1)
    assert not_yet(world.shared, decision) == "1 of 2 gateways do not serve by the decision yet"
    lease(world, "b", epoch + 1)
    assert not_yet(world.shared, decision) is None


def test_a_decision_of_before_operators_were_noted_is_read(world: World) -> None:
    world.tick()
    old = world.decisions[0].model_dump(mode="json")
    for name in ("action", "who", "reason"):
        del old[name]
    for name in ("frozen", "pinned"):
        del old["state"][name]
    read: Any = Decision.model_validate(old)
    assert (read.action, read.state.frozen, read.state.pinned) == (None, False, None)
