"""Release steps as pure functions: each stage's ways out, and that nothing else is possible."""

from collections import Counter
from dataclasses import replace
from typing import get_args

import pytest

from deploy.decide import release
from deploy.decide.release import Known, ReleaseRules, Rung
from deploy.engines.parity import UNTOLD, Parity, Rough
from deploy.evidence.comparing import Failure
from deploy.evidence.preference import Reading
from deploy.history.scope import Scope
from deploy.history.states import TRANSITIONS, IllegalTransition, Outcome, ReleaseState, Stage, picture, step
from deploy.history.table import assign
from deploy.registry.manifest import Manifest
from tests.deploy.builders import GOOD_GATE

RULES = ReleaseRules(
    ladder=(Rung(0.05, 60), Rung(0.25, 100), Rung(0.5, 0)),
    rung_users=40,
    exposure_budget=300,
    max_seconds=1000,
    holdback_weight=0.05,
    holdback_min_seconds=50,
    holdback_max_seconds=500,
    anchor_weight=0.0,
    anchor_seconds=86400.0,
    promote_bound=20,
    harm_bound=100,
)
NEW, OLD = "policy-2-bbbbbbbb", "policy-1-aaaaaaaa"
READING = Reading(
    pairs=212, mean_difference=0.184, compared=31, preferred=0.645, not_awful=20.0, canary_users=230,
    control_users=212, canary_value=0.7, control_value=0.52,
)  # fmt: skip
QUIET = Known(reading=READING, failure=None, exposed=40, met=40, judged=True, cursor={"feedback/0": 9})


def known(crossed: str | None = None, **changes: object) -> Known:
    reading = replace(READING, crossed=crossed, promote=23.41, harm=110.0)  # type: ignore[arg-type]
    return replace(QUIET, reading=reading, **changes)  # type: ignore[arg-type]


def idle() -> ReleaseState:
    """`OLD` was promoted over the base model some time ago, `NEW` waits."""
    state = release.begin(0.0).state
    table = state.table.model_copy(update={"live": OLD, "epoch": 5})
    return state.model_copy(update={"table": table, "lives": ("base", OLD), "waiting": NEW})


def canary(weight: float = 0.05) -> ReleaseState:
    state = release.start(idle(), RULES, 100.0, {"feedback/0": 3}, Parity(None, 0.001, 0.05)).state
    now = 100.0
    while state.table.weight < weight:
        now += 100
        raised = release.judge(state, RULES, QUIET, now)
        assert raised is not None
        state = raised.state
    return state


def holdback() -> ReleaseState:
    promoted = release.judge(canary(0.25), RULES, known("promote"), 300.0)
    assert promoted is not None
    return promoted.state


def test_a_canary_starts_with_equal_buckets_on_the_first_rung() -> None:
    started = release.start(idle(), RULES, 100.0, {"feedback/0": 3}, Parity(None, 0.001, 0.05))
    table = started.state.table
    assert (table.live, table.control, table.canary, table.weight) == (OLD, OLD, NEW, 0.05)
    assert (table.epoch, table.salt) == (6, "release-6")
    assert started.state.scope() == Scope(6, NEW, OLD)
    assert started.state.cursor == {"feedback/0": 3}
    assert started.state.waiting is None
    assert started.sentence == f"Started the canary of {NEW} with 5% of users."
    assert started.numbers == {"weight": 0.05, "parity_nats": 0.001, "parity_ratio": 0.05}


def test_a_canary_that_logprobs_cannot_tell_from_the_base_says_so() -> None:
    blurred = Parity(None, 0.3, 0.8, Rough(1400, 0.05, 1.0, 1.2, 0.4, 1.1))
    started = release.start(idle(), RULES, 100.0, {}, blurred)
    assert started.sentence == f"Started the canary of {NEW} with 5% of users; {UNTOLD}."
    assert (started.numbers["parity_effect"], started.numbers["parity_effect_limit"]) == (0.4, 1.1)


def test_the_ladder_is_climbed_in_time_by_users_served_and_heard() -> None:
    state = canary()
    assert release.judge(state, RULES, QUIET, 159.0) is None
    assert release.judge(state, RULES, replace(QUIET, exposed=39), 500.0) is None, "one user is missing"
    assert release.judge(state, RULES, replace(QUIET, judged=False), 500.0) is None, "no data is not held"
    unheard = replace(QUIET, reading=replace(READING, not_awful=19.9))
    assert release.judge(state, RULES, unheard, 500.0) is None, "by all that is known it may be awful"
    raised = release.judge(state, RULES, QUIET, 160.0)
    assert raised is not None
    assert (raised.outcome, raised.state.table.weight, raised.state.entered_at) == ("raised", 0.25, 160.0)
    assert raised.state.scope() == Scope(6, NEW, OLD), "votes count from the first user on"
    top = release.judge(raised.state, RULES, known(), 260.0)
    assert top is not None
    assert (top.state.table.weight, top.state.table.epoch) == (0.5, 8)
    assert top.state.table.salt == "release-6"
    assert release.judge(top.state, RULES, known(), 1259.0) is None


def test_evidence_promotes_at_once_and_keeps_a_holdback() -> None:
    promoted = release.judge(canary(0.25), RULES, known("promote"), 201.0)
    assert promoted is not None
    assert promoted.outcome == "promoted"
    assert promoted.sentence == (
        f"Promoted {NEW}: 212 paired users, mean difference +0.18, "
        "preferred in 64% by 31 users who compared, evidence 23.4 against a bound of 20."
    )
    state, table = promoted.state, promoted.state.table
    assert (table.live, table.canary, table.control, table.weight) == (NEW, NEW, OLD, 0.05)
    assert state.stage == "holdback"
    assert state.lives == ("base", OLD, NEW)
    assert state.cursor == QUIET.cursor
    assert state.scope() == Scope(table.epoch, NEW, OLD), "fresh evidence only"
    assert promoted.numbers["pairs"] == 212


def test_a_promotion_takes_the_new_version_from_nobody() -> None:
    """Users are not drawn anew: that would give the old version back to some who had the new one."""
    before = canary(0.25)
    promoted = release.judge(before, RULES, known("promote"), 201.0)
    assert promoted is not None
    tables = before.table, promoted.state.table
    ways = Counter(tuple(table.version(assign(f"u{i}", table)) for table in tables) for i in range(4000))
    assert set(ways) == {(NEW, NEW), (OLD, NEW), (OLD, OLD)}
    assert ways[NEW, NEW] / 4000 == pytest.approx(0.25, abs=0.03)
    assert ways[OLD, OLD] / 4000 == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize(("state", "back"), [(canary(0.25), OLD), (holdback(), OLD)])
def test_harm_and_guardrails_roll_back(state: ReleaseState, back: str) -> None:
    failure = Failure("latency_seconds", "latency in seconds: median 3 against 1", {"latency_canary": 3.0})
    for what, outcome, words in [
        (known("harm"), "harmful", "evidence 110.0 against a bound of 100"),
        (known(failure=failure), "guardrail", "median 3 against 1"),
        (known("promote", failure=failure), "guardrail", "median 3 against 1"),
    ]:
        ended = release.judge(state, RULES, what, 301.0)
        assert ended is not None
        assert (ended.outcome, ended.version, ended.state.stage) == (outcome, NEW, "idle")
        table = ended.state.table
        assert (table.live, table.canary, table.control, table.weight) == (back, None, None, 0.0)
        assert table.epoch == state.table.epoch + 1
        assert ended.state.lives == ("base", OLD)
        assert f"Rolled back {NEW} to {OLD}" in ended.sentence
        assert words in ended.sentence


def test_a_promotion_waits_for_many_users_served() -> None:
    early = release.judge(canary(), RULES, known("promote"), 161.0)
    assert early is not None
    assert (early.outcome, early.state.table.weight) == ("raised", 0.25)


def test_a_candidate_that_may_be_awful_meets_no_more_users_than_its_budget() -> None:
    unheard = replace(QUIET, reading=replace(READING, not_awful=19.9), met=299)
    assert release.judge(canary(), RULES, unheard, 161.0) is None
    ended = release.judge(canary(), RULES, replace(unheard, met=300), 161.0)
    assert ended is not None
    assert (ended.outcome, ended.state.table.live) == ("inconclusive", OLD)
    assert "300 users" in ended.sentence
    assert release.judge(canary(0.5), RULES, replace(QUIET, met=300), 161.0) is None, "it is not awful"


def test_any_rung_ends_inconclusive_and_says_what_was_not_shown() -> None:
    silent = release.judge(canary(), RULES, replace(QUIET, reading=Reading()), 1100.0)
    assert silent is not None
    assert (silent.outcome, "nobody voted" in silent.sentence) == ("inconclusive", True)
    ended = release.judge(canary(0.5), RULES, known(), 5000.0)
    assert ended is not None
    assert "not shown: that thumbs are no lower, that comparisons agree" in ended.sentence
    assert (ended.outcome, ended.state.stage, ended.state.table.live) == ("inconclusive", "idle", OLD)
    assert f"{OLD} stays live" in ended.sentence


def test_a_holdback_ends_for_the_next_candidate_or_in_time() -> None:
    state = holdback()
    assert release.judge(state, RULES, known(), 799.0) is None
    ended = release.judge(state, RULES, known(), 800.0)
    assert ended is not None
    assert (ended.outcome, ended.state.stage, ended.state.table.live) == ("finished", "idle", NEW)
    assert ended.state.table.adapters == {NEW}
    waiting = release.accept(state, "policy-3-cccccccc", "fine", "d" * 64).state
    assert release.judge(waiting, RULES, known(), 349.0) is None
    sooner = release.judge(waiting, RULES, known(), 350.0)
    assert sooner is not None
    assert "policy-3-cccccccc is next" in sooner.sentence
    assert sooner.state.waiting == "policy-3-cccccccc"
    for held in ({"paused": True}, {"frozen": True}):
        assert release.judge(waiting.model_copy(update=held), RULES, known(), 350.0) is None


def manifest(parent: str, digest: str = "d1") -> Manifest:
    return Manifest(
        version=NEW, seq=2, parent=parent, base_digest=digest, files={}, created_at=0, rank=8, gate=GOOD_GATE
    )


def test_a_candidate_fits_the_live_version_or_is_refused() -> None:
    assert release.misfit(manifest(OLD), OLD, manifest("base")) is None
    assert release.misfit(manifest("base"), "base", None) is None
    assert "trained from base" in (release.misfit(manifest("base"), OLD, manifest("base")) or "")
    assert "base model d2" in (release.misfit(manifest(OLD, "d2"), OLD, manifest("base")) or "")


def test_a_newer_candidate_takes_the_waiting_ones_place() -> None:
    dropped = release.supersede(idle(), "policy-3-cccccccc")
    assert (dropped.version, dropped.state.waiting) == (NEW, None)
    assert "policy-3-cccccccc is newer" in dropped.sentence
    refused = release.refuse(idle(), "policy-3-cccccccc", "too long")
    assert refused.state.waiting == NEW, "the one that waits is not concerned"
    assert release.refuse(idle(), NEW, "too long").state.waiting is None


def test_what_the_table_does_not_have_cannot_happen() -> None:
    states: dict[Stage, ReleaseState] = {"idle": idle(), "canary": canary(), "holdback": holdback()}
    for stage, state in states.items():
        for outcome in get_args(Outcome):
            if (stage, outcome) in TRANSITIONS:
                assert step(state, outcome, None, "x").state.stage == TRANSITIONS[stage, outcome]
            else:
                with pytest.raises(IllegalTransition, match=f"{outcome}.*{stage}"):
                    step(state, outcome, None, "x")
    assert ("idle", "promoted") not in TRANSITIONS


def test_the_picture_has_every_transition() -> None:
    lines = picture().splitlines()
    assert lines[0] == "stateDiagram-v2"
    assert "    canary --> holdback: promoted" in lines
    assert "    holdback --> idle: harmful" in lines
    assert len(lines) == len(set(lines))


def test_the_state_survives_its_json() -> None:
    for state in (idle(), canary(0.25), holdback()):
        assert ReleaseState.model_validate_json(state.model_dump_json()) == state
