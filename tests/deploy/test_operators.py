"""What operators ask for, in each stage, and what is refused."""

from dataclasses import replace
from typing import get_args

import pytest

from deploy.controller.operators import Grounds, Steps, obey
from deploy.decide import release
from deploy.decide.engine_steps import fall_back
from deploy.evidence.comparing import Failure
from deploy.history.releases import Command, make_command
from deploy.history.states import Action, ReleaseState, Stage
from tests.deploy.test_release import NEW, OLD, QUIET, RULES, canary, holdback, idle, known

OTHER = "policy-7-cccccccc"
FAILURE = Failure("empty_answers", "all are empty", {})


def ask(state: ReleaseState, action: Action, version: str | None = None, **grounds: object) -> Steps:
    """What becomes of ann's wish at second 400. grounds: what it is decided by, besides."""
    command = make_command(action, version, reason="odd answers", who="ann")
    given = Grounds(RULES, 400.0, **({"known": QUIET} | grounds))  # type: ignore[arg-type]
    return obey(state, command, given)


def one(state: ReleaseState, action: Action, version: str | None = None, **grounds: object) -> release.Step:
    (step,) = ask(state, action, version, **grounds)
    return step


def states() -> dict[Stage, ReleaseState]:
    return {"idle": idle(), "canary": canary(0.25), "holdback": holdback()}


OUTCOMES: dict[tuple[Stage, Action], tuple[tuple[str, ...], Stage, str]] = {
    ("idle", "rollback"): (("rolled_back",), "idle", "base"),
    ("canary", "rollback"): (("rolled_back",), "idle", OLD),
    ("holdback", "rollback"): (("rolled_back",), "idle", OLD),
    ("idle", "promote"): (("not_done",), "idle", OLD),
    ("canary", "promote"): (("promoted",), "holdback", NEW),
    ("holdback", "promote"): (("not_done",), "holdback", NEW),
    ("idle", "pin"): (("pinned",), "idle", OTHER),
    ("canary", "pin"): (("rolled_back", "pinned"), "idle", OTHER),
    ("holdback", "pin"): (("pinned",), "idle", OTHER),
    **{
        (stage, action): ((outcome,), stage, NEW if stage == "holdback" else OLD)
        for stage in get_args(Stage)
        for action, outcome in (
            *(("pause", "paused"), ("resume", "resumed"), ("freeze", "frozen"), ("unfreeze", "unfrozen")),
            ("unpin", "unpinned"),
        )
    },
}
"""Stage and action -> the outcomes, the stage after them, and the version that is live then."""


@pytest.mark.parametrize("stage", get_args(Stage))
@pytest.mark.parametrize("action", get_args(Action))
def test_each_action_in_each_stage(stage: Stage, action: Action) -> None:
    steps = ask(states()[stage], action, OTHER if action == "pin" else None)
    after = steps[-1].state
    found = (tuple(step.outcome for step in steps), after.stage, after.table.live)
    assert found == OUTCOMES[stage, action]
    assert all("for ann: odd answers" in step.sentence for step in steps), "who and why"
    if after.stage != "canary":
        assert after.lives[-1] == after.table.live


def test_operators_roll_back_until_nothing_is_left() -> None:
    first = one(canary(), "rollback")
    assert first.sentence == f"Rolled back {NEW} to {OLD} for ann: odd answers."
    to_base = one(first.state, "rollback").state
    assert (to_base.table.live, to_base.lives) == ("base", ("base",))
    nothing = one(to_base, "rollback")
    assert (nothing.outcome, nothing.state) == ("not_done", to_base)
    assert "no version came before it" in nothing.sentence


def test_a_rollback_of_a_version_that_serves_no_more_is_not_done() -> None:
    assert one(canary(), "rollback", NEW).outcome == "rolled_back"
    late = one(idle(), "rollback", NEW)  # it ended while the operator was typing
    assert (late.outcome, late.state) == ("not_done", idle())
    assert f"{NEW} is not what would be rolled back; {OLD} is" in late.sentence


def test_a_person_promotes_without_evidence_and_the_decision_says_so() -> None:
    promoted = one(canary(0.25), "promote", known=known())
    assert promoted.sentence == (
        f"Promoted {NEW} for ann: odd answers. A person decided it, not the evidence: 212 paired users, mean "
        "difference +0.18, preferred in 64% by 31 users who compared, evidence 23.4 of the 20 that promote "
        "it and evidence 110 of the 100 that find harm; guardrails hold."
    )
    assert promoted.numbers["pairs"] == 212
    by_votes = release.judge(canary(0.25), RULES, known("promote"), 400.0)
    assert by_votes is not None
    assert promoted.state == by_votes.state, "what comes after is the same, the holdback too"


def test_a_promotion_says_that_guardrails_were_not_judged() -> None:
    promoted = one(canary(), "promote", known=replace(QUIET, judged=False))
    assert promoted.outcome == "promoted"
    assert promoted.sentence.endswith("that find harm; guardrails were not judged yet.")


@pytest.mark.parametrize(
    ("found", "word"),
    [
        ({"known": known(failure=FAILURE)}, "all are empty"),
        ({"known": known("harm")}, "does harm: 212 paired users"),
        ({"known": None}, "not known yet"),
    ],
)
@pytest.mark.parametrize("action", ["promote", "pin"])
def test_what_is_known_to_be_bad_or_not_known_is_not_promoted(
    action: Action, found: dict[str, object], word: str
) -> None:
    state = canary(0.25)
    refused = one(state, action, NEW, **found)
    assert (refused.outcome, refused.state) == ("not_done", state)
    assert word in refused.sentence


def test_a_promotion_of_another_canary_than_the_one_that_was_meant_is_refused() -> None:
    assert one(canary(), "promote", NEW).outcome == "promoted"
    refused = one(canary(), "promote", OTHER)
    assert refused.outcome == "not_done"
    assert f"{OTHER} is not the canary that runs; {NEW} is" in refused.sentence


def test_a_promotion_that_a_person_asks_for_goes_over_a_pause_and_a_freeze() -> None:
    held = one(one(canary(), "pause").state, "freeze").state
    after = one(held, "promote").state
    assert (after.table.live, after.paused, after.frozen) == (NEW, True, True)


def test_a_pause_holds_everything_where_it_is_but_harm_and_guardrails() -> None:
    for state in (canary(), canary(0.25), canary(0.5), holdback()):
        paused = one(state, "pause")
        assert "harm and guardrails still roll back" in paused.sentence
        for now in (460.0, 1e6):
            assert release.judge(paused.state, RULES, QUIET, now) is None
            assert release.judge(paused.state, RULES, known("promote"), now) is None
            for what, outcome in ((known("harm"), "harmful"), (known(failure=FAILURE), "guardrail")):
                back = release.judge(paused.state, RULES, what, now)
                assert back is not None
                assert (back.outcome, back.state.paused) == (outcome, True)
        resumed = one(paused.state, "resume").state
        assert release.judge(resumed, RULES, QUIET, 1e6) is not None


def test_a_freeze_starts_nothing_and_lets_what_runs_go_on() -> None:
    frozen = one(idle(), "freeze").state
    assert release.may_start(idle(), RULES, 500.0)
    assert not release.may_start(frozen, RULES, 500.0)
    assert release.may_start(one(frozen, "unfreeze").state, RULES, 500.0)
    running = one(canary(0.25), "freeze").state
    promoted = release.judge(running, RULES, known("promote"), 500.0)
    assert promoted is not None
    assert (promoted.outcome, promoted.state.frozen) == ("promoted", True)
    assert frozen.waiting == NEW, "it waits, and is not dropped"


def test_a_pause_holds_the_next_canary() -> None:
    paused = one(idle(), "pause").state
    assert not release.may_start(paused, RULES, 500.0)
    assert release.may_start(one(paused, "resume").state, RULES, 500.0)


def test_a_pin_serves_everybody_and_nothing_replaces_it() -> None:
    for state in states().values():
        steps = ask(state, "pin", OTHER, digest="d" * 64)
        pinned = steps[-1].state
        table = pinned.table
        assert (table.live, table.control, table.canary, table.weight) == (OTHER, None, None, 0.0)
        assert table.epoch == state.table.epoch + len(steps)
        assert pinned.manifests[OTHER] == "d" * 64
        assert not release.may_start(pinned.model_copy(update={"waiting": NEW}), RULES, 1e9)
        assert one(pinned, "promote").outcome == "not_done"
        refused = one(pinned, "rollback")
        assert (refused.outcome, refused.state) == ("not_done", pinned)
        assert f"{OTHER} is pinned; unpin it first" in refused.sentence
        free = one(pinned, "unpin").state
        assert free.pinned is None
        assert one(free, "rollback").state.table.live == state.lives[-1], "the way back is what it was"


def test_a_pin_of_what_is_live_moves_nobody() -> None:
    pinned = one(idle(), "pin", OLD).state
    assert (pinned.pinned, pinned.table, pinned.waiting) == (OLD, idle().table, NEW)


def test_a_pin_of_the_canary_promotes_it_first() -> None:
    promoted, pinned = ask(canary(), "pin", NEW)
    assert (promoted.outcome, pinned.outcome) == ("promoted", "pinned")
    assert (pinned.state.stage, pinned.state.table.live, pinned.state.lives[-2:]) == ("idle", NEW, (OLD, NEW))


def test_a_pin_of_the_waiting_candidate_ends_its_trial() -> None:
    pinned = one(idle(), "pin", NEW)
    assert (pinned.version, pinned.state.table.live, pinned.state.waiting) == (NEW, NEW, None)


def test_a_pin_of_an_earlier_version_goes_back_to_it() -> None:
    pinned = one(holdback(), "pin", "base").state
    assert (pinned.table.live, pinned.lives) == ("base", ("base",))


def test_a_pin_that_no_engine_can_serve_gives_way_and_starts_nothing_else() -> None:
    pinned = one(idle(), "pin", OTHER).state
    fallen = fall_back(pinned, OLD, FAILURE, 500.0).state
    assert (fallen.table.live, fallen.pinned) == (OLD, OTHER)
    assert not release.may_start(fallen.model_copy(update={"waiting": NEW}), RULES, 1e9)


@pytest.mark.parametrize("stage", get_args(Stage))
def test_what_cannot_serve_is_not_pinned(stage: Stage) -> None:
    state = states()[stage]
    refused = one(state, "pin", OTHER, obstacle="no engine proves it")
    assert (refused.outcome, refused.state) == ("not_done", state)
    assert f"{OTHER} cannot serve: no engine proves it" in refused.sentence
    nameless = obey(state, Command(event_id="c", at=0.0, action="pin"), Grounds(RULES, 1.0))
    assert "needs the version" in nameless[-1].sentence
