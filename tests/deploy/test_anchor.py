"""A few users keep the version before live: harm that shows late is found and rolled back."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.audit.replay import replayed
from deploy.controller.loop import STANDING_SECONDS
from deploy.decide import anchor
from deploy.decide.release import LIVES_REMEMBERED, quiet
from deploy.engines.quarantine import UNSERVED_SECONDS
from deploy.evidence.betting import log_evidence
from deploy.evidence.preference import EvidenceRules, Reading
from deploy.evidence.reader import TOPICS
from deploy.history.states import ReleaseState, Standing
from deploy.history.table import RoutingTable, assign
from deploy.reports.why import why
from feedback.core.events import FEEDBACK
from tests.deploy.certified import entries_of, named, verified, with_value
from tests.deploy.test_controller import Sips
from tests.deploy.test_release import RULES as WITHOUT
from tests.deploy.world import MakeWorld, World

LIVE, BEFORE, NEXT = "policy-2-bbbbbbbb", "policy-1-aaaaaaaa", "policy-3-cccccccc"
RULES = replace(WITHOUT, anchor_weight=0.05, anchor_seconds=1000.0)
IDLE = ReleaseState(
    table=RoutingTable(epoch=7, salt="release-5", live=LIVE), lives=("base", BEFORE, LIVE), entered_at=100.0
)


def turned(state: ReleaseState = IDLE, now: float = 200.0, reading: Reading | None = None) -> ReleaseState:
    return anchor.turn(state, RULES, now, {"feedback/0": 5}, reading).state


def harm(times: float) -> Reading:
    return Reading(harm=times)


# -- users --------------------------------------------------------------------------------------------------


def test_the_anchor_takes_its_share_and_the_rest_is_split_as_ever() -> None:
    state = turned()
    table = state.table.model_copy(update={"canary": NEXT, "control": LIVE, "weight": 0.25, "salt": "s"})
    arms = [assign(f"u{i}", table) for i in range(40_000)]
    shares = {arm: arms.count(arm) / len(arms) for arm in set(arms)}
    assert shares["anchor"] == pytest.approx(0.05, abs=0.005)
    assert shares["canary"] == pytest.approx(0.95 * 0.25, abs=0.01)
    assert shares["control"] == pytest.approx(0.95 * 0.25, abs=0.01)
    assert table.version("anchor") == BEFORE
    assert table.adapters == {LIVE, BEFORE, NEXT}


def test_each_period_draws_other_users_and_a_growing_canary_moves_nobody() -> None:
    first = turned()
    second = turned(first, now=1300.0)
    users = [f"u{i}" for i in range(20_000)]
    anchored = [{u for u in users if assign(u, s.table) == "anchor"} for s in (first, second)]
    both = len(anchored[0] & anchored[1]) / len(anchored[0])
    assert both == pytest.approx(0.05, abs=0.02)  # as many as chance says
    trial = first.table.model_copy(update={"canary": NEXT, "control": LIVE, "weight": 0.05, "salt": "s"})
    grown = trial.model_copy(update={"weight": 0.5})
    assert {u for u in users if assign(u, grown) == "anchor"} == anchored[0]
    assert all(assign(u, grown) == "canary" for u in users if assign(u, trial) == "canary")


# -- when ---------------------------------------------------------------------------------------------------


def test_an_anchor_begins_where_nothing_else_goes_on_and_turns_each_period() -> None:
    assert anchor.is_due(IDLE, RULES, 200.0)
    state = turned()
    assert state.standing == Standing(
        live=LIVE, period=1, began_at=200.0, first_epoch=8, cursor={"feedback/0": 5}
    )
    scope = anchor.scope(state.standing, BEFORE)
    assert (scope.side(LIVE, 8), scope.side(BEFORE, 8)) == ("new", "old")
    assert scope.side(LIVE, 7) is None, "its user may be another one in this period"
    assert not anchor.is_due(state, RULES, 1199.0)
    assert anchor.is_due(state, RULES, 1200.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"stage": "canary"},
        {"stage": "holdback"},
        {"paused": True},
        {"pinned": LIVE},
        {"lives": ("base",), "table": RoutingTable(epoch=1)},
        {
            "lives": ("base", "policy-0-dddddddd"),
            "table": RoutingTable(epoch=1, live="policy-0-dddddddd"),
        },
        {"standing": Standing(live=LIVE, period=0, began_at=0.0, first_epoch=7)},
    ],
    ids=["canary", "holdback", "paused", "pinned", "base", "version 0", "given up"],
)
def test_no_anchor_where_it_would_be_in_the_way(changes: dict[str, object]) -> None:
    assert not anchor.is_due(IDLE.model_copy(update=changes), RULES, 1e9)


def test_a_weight_of_0_takes_the_anchor_away() -> None:
    assert not anchor.is_due(IDLE, WITHOUT, 200.0)
    state = turned()
    assert anchor.is_due(state, WITHOUT, 200.0)
    after = anchor.turn(state, WITHOUT, 200.0, {}, None).state
    assert (after.table.anchor, after.table.anchor_weight, after.standing) == (None, 0.0, None)
    assert not anchor.is_due(after, WITHOUT, 1e9)


def test_the_anchor_stays_while_live_does_and_goes_with_it() -> None:
    state = turned()
    same = state.model_copy(update=quiet(state, LIVE, 300.0))
    assert (same.table.anchor, same.table.anchor_salt) == (BEFORE, state.table.anchor_salt)
    assert not anchor.is_due(same, RULES, 300.0)
    back = state.model_copy(update=quiet(state, BEFORE, 300.0))
    assert back.table.anchor is None
    assert anchor.turn(back, RULES, 300.0, {}, None).state.table.anchor == "base"
    assert len(back.lives) < LIVES_REMEMBERED


def test_why_tells_who_keeps_an_older_version() -> None:
    sentences = why(turned(), None, RULES, 400.0)
    assert sentences == [
        f"{LIVE} has served 95% of users for 5 min; no candidate waits.",
        f"5% of users get {BEFORE}, to find harm of {LIVE} that shows late.",
    ]


# -- evidence -----------------------------------------------------------------------------------------------


def test_evidence_begins_at_1_and_its_bound_is_that_of_the_sum() -> None:
    state = turned()
    for found in (1.0, 3.0, 0.2, 40.0, 0.0):
        standing = state.standing
        assert standing is not None
        if standing.period == 1:
            assert anchor.evidence(standing, harm(1.0)) == pytest.approx(1.0)
        bound = anchor.rules_of(standing, EvidenceRules()).harm_bound
        assert anchor.evidence(standing, harm(bound)) == pytest.approx(100.0)
        before = anchor.evidence(standing, harm(found))
        state = turned(state, now=standing.began_at + 2000, reading=harm(found))
        assert state.standing is not None
        assert anchor.evidence(state.standing, harm(1.0)) == pytest.approx(before)  # a turn changes nothing


def simulated(means: list[float], rng: np.random.Generator, bound: float) -> int | None:
    """The first period in which evidence of harm reaches a bound; votes of live with these mean effects."""
    carried = 0.0
    for k, mean in enumerate(means, start=1):
        gains = -np.clip(rng.normal(mean, 0.4, 40), -1, 1)
        here = np.exp(log_evidence(gains))
        path = (carried + 1 / (k * (k + 1))) * here + 1 / (k + 1)
        if (path >= bound).any():
            return k
        carried = (carried + 1 / (k * (k + 1))) * float(here[-1])
    return None


def test_equal_versions_are_hardly_ever_rolled_back_however_long_they_serve() -> None:
    rng = np.random.default_rng(3)
    found = [simulated([0.0] * 200, rng, bound=10.0) for _ in range(400)]
    share = sum(each is not None for each in found) / len(found)
    assert share <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / len(found))


def test_harm_after_months_takes_a_few_periods_more_than_harm_on_the_first_day() -> None:
    rng = np.random.default_rng(4)
    early = [simulated([-0.15] * 40, rng, 100.0) for _ in range(60)]
    late = [simulated([0.1] * 100 + [-0.15] * 40, rng, 100.0) for _ in range(60)]
    assert all(each is not None for each in (*early, *late))
    delay = float(np.median([each - 100 for each in late if each is not None]))
    assert delay <= 3 * float(np.median([each for each in early if each is not None]))


def test_harm_ends_the_canary_first_and_then_everybody_gets_the_anchor() -> None:
    state = turned()
    trial = {"canary": NEXT, "control": LIVE, "weight": 0.25, "salt": "s", "epoch": 9}
    canary = state.model_copy(
        update={"stage": "canary", "table": state.table.model_copy(update=trial), "first_epoch": 9}
    )
    assert anchor.judge(canary, RULES, harm(150.0), 900.0) == ()  # not crossed
    ended, rolled_back = anchor.judge(canary, RULES, replace(harm(150.0), crossed="harm"), 900.0)
    assert (ended.outcome, ended.version) == ("inconclusive", NEXT)
    assert (rolled_back.outcome, rolled_back.version) == ("harmful", LIVE)
    table = rolled_back.state.table
    assert (table.live, table.canary, table.anchor, table.weight) == (BEFORE, None, None, 0.0)
    assert rolled_back.state.lives == ("base", BEFORE)


# -- the controller -----------------------------------------------------------------------------------------

OPTIONS = {"anchor_weight": 0.3, "anchor_seconds": 60.0}


def live_by_promotion(world: World) -> str:
    """A version that users like, live with its anchor."""
    manifest = world.offer()
    world.taste = lambda served: 0.8 if served == manifest.version else 0.4
    world.pass_time(until="promoted")
    world.pass_time(until="anchored", users=0)
    return manifest.version


def test_late_harm_is_found_while_the_next_candidate_is_on_trial(make_world: MakeWorld) -> None:
    world = make_world(**OPTIONS)
    live = live_by_promotion(world)
    assert world.outcomes[-2:] == ["finished", "anchored"]
    for _ in range(10):
        world.chat(60)
        world.now += 1
        world.tick()
    offered = world.offer(b"two", parent=live)
    world.pass_time(until="started")
    world.taste = lambda served: 0.1 if served != "base" else 0.7  # the new one is as bad: no help from it
    world.answer = lambda served: {}
    harmful = world.pass_time(until="harmful", rounds=60)
    ended = world.decisions[-2]
    assert (ended.outcome, ended.version) == ("inconclusive", offered.version)
    assert harmful.version == live
    assert "which some users had kept" in harmful.sentence
    assert (world.state.table.live, world.state.stage) == ("base", "idle")
    again = list(replayed(world.log, world.settings))
    assert {each.verdict for each in again} == {"same"}
    assert [each.decision.outcome for each in again[-2:]] == ["inconclusive", "harmful"]


def replayed_outcomes(world: World) -> list[tuple[str, str]]:
    return [(each.decision.outcome, each.verdict) for each in replayed(world.log, world.settings)]


def test_what_it_found_is_certified_and_a_changed_vote_is_named(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    world = make_world(**OPTIONS | {"anchor_seconds": 20.0})
    live_by_promotion(world)
    world.taste = lambda served: 0.1 if served != "base" else 0.7
    harmful = world.pass_time(until="harmful", users=20, rounds=60)
    entries = entries_of(world.log)
    assert verified(entries, tmp_path, world).problems == []
    votes = [i for i, each in enumerate(entries) if each.topic == FEEDBACK]
    last = entries[votes[-1]].value
    other = last.replace(b'"up"', b'"no"').replace(b'"down"', b'"none"')
    assert other != last
    found = verified(with_value(entries, votes[-1], other), tmp_path, world)
    assert named(found) == [f"decision {harmful.number}"]


def test_a_killed_controller_finds_the_same_harm(make_world: MakeWorld) -> None:
    sentences = []
    for kill in (False, True):
        world = make_world(**OPTIONS)
        live_by_promotion(world)
        world.taste = lambda served: 0.1 if served != "base" else 0.7
        for _ in range(40):
            if kill:
                world.kill_controller()
            world.tick()
            if "harmful" in world.outcomes:
                break
            world.chat(60)
            world.now += 1
        sentences.append([decision.sentence for decision in world.decisions])
    assert "Rolled back" in sentences[0][-1]
    assert sentences[0] == sentences[1]


def test_a_period_ends_and_what_it_found_goes_on(make_world: MakeWorld) -> None:
    world = make_world(**OPTIONS | {"anchor_seconds": 20.0})
    live_by_promotion(world)
    world.taste = lambda served: 0.5
    first = world.state.standing
    world.now += 1
    second = world.pass_time(until="anchored").state.standing
    assert first is not None
    assert second is not None
    assert (first.period, second.period) == (1, 2)
    assert second.evidence > 0
    assert second.cursor["feedback/0"] > first.cursor["feedback/0"]
    assert replayed_outcomes(world)[-1] == ("anchored", "same")
    assert world.metrics.registry.get_sample_value("hearken_anchor_weight_ratio") == 0.3
    world.tick()
    shown = world.metrics.registry.get_sample_value("hearken_anchor_evidence")
    assert shown == pytest.approx(second.evidence + 1 / 6 + 1 / 3)


def test_a_period_has_the_votes_of_its_own_users_alone(make_world: MakeWorld) -> None:
    world = make_world(**OPTIONS | {"anchor_seconds": 20.0})
    live_by_promotion(world)
    world.taste = lambda served: 0.5
    world.now += 1
    heard = world.pass_time(until="anchored")
    world.now += 1
    silent = world.pass_time(until="anchored", users=0)
    assert (heard.numbers["period"], silent.numbers["period"]) == (2, 3)
    pairs = heard.numbers["pairs"]
    assert isinstance(pairs, int)
    assert pairs > 0
    assert silent.numbers["pairs"] == 0


def unread(make_world: MakeWorld, chance: float, **options: float) -> World:
    """A world where live and its anchor got many votes (live's are up with this chance) while no controller
    looked; the one that begins now needs several rounds to read them."""
    world = make_world(**OPTIONS | options)
    live_by_promotion(world)
    world.taste = lambda served: chance if served != "base" else 0.7
    for _ in range(6):
        world.serve("live", 60)
        world.serve("anchor", 60)
        world.now += 10
    world.kill_controller(Sips(world.log))
    return world


def test_late_harm_is_no_verdict_before_all_that_is_in_the_log_was_read(make_world: MakeWorld) -> None:
    world = unread(make_world, 0.1, anchor_seconds=1000.0)
    rounds = 0
    while world.outcomes[-1] != "harmful" and rounds < 30:
        world.now += STANDING_SECONDS  # it is judged no more often
        world.tick()
        rounds += 1
    assert world.decisions[-1].outcome == "harmful"
    assert world.decisions[-1].cursor == world.log.end(TOPICS)
    assert rounds > 2, "or nothing was ever half read"


def test_a_period_ends_with_all_its_votes(make_world: MakeWorld) -> None:
    world = unread(make_world, 0.7)
    rounds = 0
    while world.outcomes.count("anchored") < 2 and rounds < 30:
        world.tick()
        rounds += 1
    assert (world.decisions[-1].outcome, world.decisions[-1].numbers["period"]) == ("anchored", 2)
    assert world.decisions[-1].cursor == world.log.end(TOPICS)
    assert rounds > 2, "or nothing was ever half read"


def test_an_anchor_that_no_engine_can_serve_is_done_without(make_world: MakeWorld) -> None:
    world = make_world(**OPTIONS)
    first = live_by_promotion(world)
    second = world.offer(b"two", parent=first)
    world.taste = lambda served: {first: 0.4, second.version: 0.8}.get(served, 0.3)
    world.pass_time(until="promoted")
    world.pass_time(until="anchored", users=0)
    assert world.state.table.anchor == first
    (world.folder / "adapters" / first / "adapter_model.safetensors").write_bytes(b"broken")
    for engine in world.engines:
        engine.stop()
        engine.start()
    world.now += UNSERVED_SECONDS / 2
    world.tick()
    world.now += UNSERVED_SECONDS + 1
    world.tick()
    given_up = next(d for d in world.decisions[::-1] if d.outcome == "anchored")
    assert "is not tested against it" in given_up.sentence
    assert (world.state.table.anchor, world.state.table.live) == (None, second.version)
    world.now += 500
    world.tick()
    assert world.state.table.anchor is None
