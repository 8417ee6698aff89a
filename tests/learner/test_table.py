"""The learner's table: what it does when, and what no history of votes, measurements and decisions breaks."""

import dataclasses
import json
import math
import re
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.state import stages
from learner.state.stages import STAGES, IllegalTransition, LearnerState, Limits, Outcome
from learner.state.table import REFUSALS, Batch, Measured, next_action

LIMITS = Limits(
    min_labels=100, labels_per_update=50, steps_per_candidate=6, kl_budget_nats=6.0, kl_refill_nats=2.0
)
SEEN = Measured(labels=200)
IMPROVING = LearnerState("improving", updates=1)
OFFERING = LearnerState("offering", updates=1, batches=6)


def after(state: LearnerState, share: float, passed: bool | None = None, **seen: bool | int) -> str:
    batch = Batch(share, passed)
    return next_action(state, dataclasses.replace(SEEN, batch=batch, **seen), LIMITS)  # type: ignore[arg-type]


def test_votes_are_read_then_fitted_then_trained_on() -> None:
    state = LearnerState(new_labels=60)
    assert next_action(state, Measured(labels=60, behind=True), LIMITS) == "read"
    assert next_action(state, Measured(labels=60), LIMITS) == "fit"
    state = stages.fitted(state, LIMITS)
    assert next_action(state, Measured(labels=60), LIMITS) == "wait"
    state = dataclasses.replace(state, new_labels=40)  # enough to train on, though no update is due yet
    assert next_action(state, Measured(labels=100), LIMITS) == "fit"
    state = stages.fitted(state, LIMITS)
    assert next_action(state, Measured(labels=100), LIMITS) == "begin"
    assert next_action(stages.begun(state), Measured(labels=100), LIMITS) == "sample"


@pytest.mark.parametrize("stage", ["collecting", "waiting"])
@pytest.mark.parametrize("during_a_fit", [1, 60, 1000])
def test_votes_that_come_faster_than_a_fit_takes_do_not_keep_a_learner_from_training(
    stage: str, during_a_fit: int
) -> None:
    state, labels, fits = LearnerState(stage, new_labels=100), 100, 0  # type: ignore[arg-type]
    while (action := next_action(state, Measured(labels=labels), LIMITS)) == "fit" and fits < 10:
        state, fits, labels = stages.fitted(state, LIMITS), fits + 1, labels + during_a_fit
        state = dataclasses.replace(state, new_labels=during_a_fit)
    assert (action, fits) == ("begin", 1)


def test_an_update_waits_for_a_fair_share_of_all_votes_unless_nothing_else_is_to_do() -> None:
    state = dataclasses.replace(IMPROVING, new_labels=60)
    assert next_action(state, Measured(labels=400), LIMITS) == "fit"
    assert next_action(state, Measured(labels=401), LIMITS) == "sample"
    waiting = dataclasses.replace(state, stage="waiting", used=1)
    assert next_action(waiting, Measured(labels=20_000), LIMITS) == "fit"
    assert next_action(dataclasses.replace(waiting, new_labels=49), Measured(labels=400), LIMITS) == "wait"


def test_a_trained_policy_is_offered_before_its_reward_models_are_fitted_again() -> None:
    trained = LearnerState("improving", updates=1, batches=LIMITS.steps_per_candidate, new_labels=1000)
    assert next_action(trained, SEEN, LIMITS) == "finish"
    offering = stages.advance(trained, "finished")
    assert next_action(offering, SEEN, LIMITS) == "compare"
    assert next_action(stages.published(offering, "policy-1-0123abcd"), SEEN, LIMITS) == "fit"
    assert next_action(stages.refused(offering, LIMITS), SEEN, LIMITS) == "fit"
    assert next_action(stages.turned(offering), SEEN, LIMITS) == "fit"


def test_a_turn_of_taste_wakes_a_learner_and_so_do_few_votes_where_votes_age_fast() -> None:
    waiting = LearnerState("waiting", updates=1, used=1, new_labels=7)
    assert next_action(waiting, SEEN, LIMITS) == "wait"
    turned = stages.turned(waiting)
    assert next_action(turned, SEEN, LIMITS) == "fit"
    assert next_action(dataclasses.replace(turned, new_labels=0), SEEN, LIMITS) == "wait"  # judges said it
    state = stages.fitted(turned, LIMITS)
    assert next_action(state, SEEN, LIMITS) == "begin"
    assert not state.turned
    many, few = dataclasses.replace(IMPROVING, new_labels=25), dataclasses.replace(IMPROVING, new_labels=24)
    fast = Measured(labels=20_000, half_life=100.0)
    assert (next_action(many, fast, LIMITS), next_action(few, fast, LIMITS)) == ("fit", "sample")


def test_after_some_batches_the_policy_is_offered_once() -> None:
    state = IMPROVING
    for _ in range(LIMITS.steps_per_candidate):
        assert next_action(state, SEEN, LIMITS) == "sample"
        assert after(state, 0.5) == "step"
        state = stages.stepped(state, 0.5)
    assert next_action(state, SEEN, LIMITS) == "finish"
    state = stages.advance(state, "finished")
    assert next_action(state, SEEN, LIMITS) == "compare"
    assert after(state, 0.9, passed=True) == "publish"
    state = stages.published(state, "policy-1")
    assert next_action(state, SEEN, LIMITS) == "wait"
    assert stages.published(state, "policy-1") == state  # read from the log
    state = stages.settled(state, promoted=False, restarts=False)
    assert (state.stage, next_action(state, SEEN, LIMITS)) == ("waiting", "wait")
    state = stages.fitted(dataclasses.replace(state, new_labels=50), LIMITS)
    assert next_action(state, SEEN, LIMITS) == "begin"


def test_votes_that_came_during_the_trial_are_new_after_it() -> None:
    state = stages.published(OFFERING, "policy-1")
    state = stages.fitted(dataclasses.replace(state, new_labels=50), LIMITS)
    assert next_action(state, SEEN, LIMITS) == "wait"
    assert next_action(stages.settled(state, promoted=True, restarts=False), SEEN, LIMITS) == "begin"


def test_steps_go_on_near_the_limit_and_only_what_passes_it_is_undone() -> None:
    assert after(IMPROVING, 0.99, undoable=1) == "step"
    assert after(IMPROVING, 1.01, undoable=1) == "undo"
    further_out = dataclasses.replace(IMPROVING, limit_share=1.3)
    assert after(further_out, 1.2, undoable=1) == "step"  # it comes home
    assert after(IMPROVING, 1.2, undoable=0) == "step"  # the price will bring it home
    assert after(IMPROVING, 2.0, undoable=0) == "start over"
    assert after(IMPROVING, float("nan"), undoable=0) == "start over"
    assert after(IMPROVING, 2.0, is_live=True) == "step"  # live is what serves: it has no limit to itself


def test_what_the_gate_measures_past_a_limit_is_never_published() -> None:
    assert after(OFFERING, 1.01, passed=True) == "refuse"
    assert after(OFFERING, 1.01, passed=True, undoable=1) == "undo"
    assert after(OFFERING, float("nan"), passed=True) == "refuse"


def test_the_gate_refuses_a_few_times_and_then_votes_are_waited_for() -> None:
    state = OFFERING
    for _ in range(REFUSALS - 1):
        assert after(state, 0.5, passed=False) == "refuse"
        state = stages.refused(state, LIMITS)
        assert (state.stage, state.batches) == ("improving", 3)
        state = stages.advance(state, "finished")
    assert after(state, 0.5, passed=False) == "give up"
    assert next_action(stages.gave_up(state), SEEN, LIMITS) == "wait"


def test_a_policy_that_never_left_live_is_not_offered() -> None:
    assert next_action(OFFERING, dataclasses.replace(SEEN, is_live=True), LIMITS) == "give up"


def test_a_policy_that_runs_away_starts_again_slower_until_it_is_not_haste() -> None:
    state, running = IMPROVING, dataclasses.replace(SEEN, runs_away=True)
    paces = [state.pace]
    while next_action(state, running, LIMITS) == "start over":
        state = stages.started_over(state, slower=True)
        paces.append(state.pace)
    assert paces == [1, 1 / 2, 1 / 4, 1 / 8]
    assert next_action(state, running, LIMITS) == "give up"
    assert next_action(IMPROVING, dataclasses.replace(SEEN, fails=True), LIMITS) == "give up"


def test_one_step_from_live_that_is_undone_was_too_large() -> None:
    state = stages.undone(IMPROVING, is_live=True)
    assert (state.stage, state.pace) == ("improving", 1 / 2)
    slowest = dataclasses.replace(IMPROVING, pace=1 / 8)
    assert stages.undone(slowest, is_live=True).stage == "waiting"


def test_the_budget_to_the_base_is_spent_by_promotions_and_refilled_by_votes() -> None:
    state = stages.published(OFFERING, "policy-1")
    state = stages.settled(state, promoted=True, restarts=False, rise_nats=5.0)
    assert stages.room_nats(state, LIMITS) == pytest.approx(1.0)
    state = stages.fitted(dataclasses.replace(state, new_labels=1000), LIMITS)
    assert stages.room_nats(state, LIMITS) == pytest.approx(3.0)
    state = stages.fitted(dataclasses.replace(state, new_labels=9000), LIMITS)
    assert stages.room_nats(state, LIMITS) == pytest.approx(6.0)  # and never more than all of it
    nearer = stages.settled(stages.published(OFFERING, "p"), promoted=True, restarts=False, rise_nats=-3.0)
    assert stages.room_nats(nearer, LIMITS) == 6.0


@pytest.mark.parametrize("stage", STAGES)
def test_an_outcome_out_of_place_is_a_mistake(stage: stages.Stage) -> None:
    state = LearnerState(stage)
    for outcome in get_args(Outcome):
        if (stage, outcome) in stages.TRANSITIONS:
            assert stages.advance(state, outcome).stage == stages.TRANSITIONS[stage, outcome]
        else:
            with pytest.raises(IllegalTransition, match=f"cannot happen while {stage}"):
                stages.advance(state, outcome)


def test_the_documentation_shows_the_table() -> None:
    with open("docs/learning.md") as file:
        shown = re.search(r"```mermaid\n(stateDiagram.*?)\n```", file.read(), re.DOTALL)
    assert shown is not None
    assert shown[1] == stages.picture()


@pytest.mark.parametrize(
    ("place", "stage", "used"),
    [
        ({}, "collecting", 0),
        ({"reward_updates": 2, "steps_since_offer": 5}, "improving", 0),
        ({"reward_updates": 2, "steps_since_offer": 5, "at_limit": True}, "offering", 0),
        ({"reward_updates": 2, "gave_up_at": 2}, "waiting", 2),
        ({"reward_updates": 2, "gave_up_at": 1, "trial": "policy-1", "pace": 0.5}, "on trial", 1),
    ],
)
def test_checkpoints_of_before_stand_for_a_stage(
    place: dict[str, object], stage: stages.Stage, used: int
) -> None:
    state = stages.from_place(place | {"turn": 9, "cursor": {}, "rollout_tokens": 64})
    assert (state.stage, state.used) == (stage, used)
    assert (state.trial, state.pace) == (place.get("trial"), place.get("pace", 1.0))


def test_a_saved_state_comes_back_and_unknown_fields_do_not_matter() -> None:
    state = dataclasses.replace(OFFERING, trial=None, live_nats=2.5)
    saved = json.loads(json.dumps(dataclasses.asdict(state)))
    assert stages.from_saved({**saved, "of_a_later_version": 1}) == state
    assert stages.from_saved({"stage": "waiting"}) == LearnerState("waiting")


# -- any history ----------------------------------------------------------------------------------------


class History:
    """A learner of nothing but its table, in a world that draws all else."""

    def __init__(self, draw: st.DataObject, bad: float) -> None:
        self.draw, self.bad = draw, bad
        self.state = LearnerState()
        self.labels = 0
        self.half_life = math.inf
        self.is_live, self.undoable = True, 0
        self.runs_away = self.fails = False
        self.ever_new = 0  # votes since the last candidate
        self.sampled = self.stepped = self.published = self.worked = 0
        self.share = 0.0

    def chance(self, of: float) -> bool:
        return self.draw.draw(st.floats(0, 1, exclude_max=True)) < of

    def measured(self, batch: Batch | None = None) -> Measured:
        return Measured(
            labels=self.labels,
            half_life=self.half_life,
            is_live=self.is_live,
            undoable=self.undoable,
            runs_away=self.runs_away,
            fails=self.fails,
            batch=batch,
        )

    def vote(self, count: int) -> None:
        self.labels += count
        self.ever_new += count
        self.state = dataclasses.replace(self.state, new_labels=self.state.new_labels + count)
        if count and self.chance(0.2):
            self.state = stages.turned(self.state)
        self.half_life = self.draw.draw(st.sampled_from([10.0, 250.0, 4000.0, math.inf]))

    def restart(self) -> None:
        self.is_live, self.undoable, self.runs_away, self.fails = True, 0, False, False

    def outside(self) -> None:
        """What happens beside votes: kills, decisions, somebody who goes back, erasures."""
        what = self.draw.draw(st.sampled_from(["kill", "decide", "go back", "erase", "nothing"]))
        if what == "kill":
            self.state = stages.from_saved(json.loads(json.dumps(dataclasses.asdict(self.state))))
        elif what == "decide" and self.state.trial is not None:
            outcome = self.draw.draw(st.sampled_from(["promoted", "harmful", "inconclusive"]))
            if outcome != "inconclusive":
                self.restart()
            rise = self.draw.draw(st.floats(-5, 5))
            self.state = stages.settled(
                self.state, promoted=outcome == "promoted", restarts=outcome == "harmful", rise_nats=rise
            )
        elif what == "go back":
            self.restart()
            self.state = stages.went_back(self.state)
        elif what == "erase":
            self.labels -= self.draw.draw(st.integers(0, self.labels))

    def turn(self) -> str:
        """One turn: an action and what comes of it. Gives the action that it ended with."""
        action = next_action(self.state, self.measured(), LIMITS)
        if action == "sample":
            self.sampled += 1
            self.share = self.draw.draw(st.floats(0, 0.9)) * (3 if self.chance(self.bad) else 1)
            action = next_action(self.state, self.measured(Batch(self.share)), LIMITS)
            if action != "undo" and not self.is_live:
                self.runs_away, self.fails = self.chance(self.bad), self.chance(self.bad)
            if self.runs_away or self.fails:
                return "observed"  # the next turn goes back
        elif action == "compare":
            self.share = self.draw.draw(st.floats(0, 0.9)) * (3 if self.chance(self.bad) else 1)
            passed = not self.chance(self.bad)
            action = next_action(self.state, self.measured(Batch(self.share, passed)), LIMITS)
        self.do(action)
        return action

    def do(self, action: str) -> None:
        if action not in ("wait", "read", "fit"):
            assert self.labels >= LIMITS.min_labels
        if action == "fit":
            assert self.state.new_labels
            self.state = stages.fitted(self.state, LIMITS)
            self.runs_away = self.fails = False  # others judge
        elif action == "begin":
            self.state = stages.begun(self.state)
        elif action == "step":
            self.stepped += 1
            self.is_live, self.undoable = False, min(2, self.undoable + 1)
            self.state = stages.stepped(self.state, self.share)
        elif action == "undo":
            self.undoable -= 1  # a loop that undoes what there is not fails here
            assert self.undoable >= 0
            self.is_live = self.undoable == 0 and self.chance(0.5)
            self.state = stages.undone(self.state, is_live=self.is_live)
            if self.is_live:
                self.restart()
        elif action == "start over":
            self.restart()
            self.state = stages.started_over(self.state, slower=True)
        elif action == "give up":
            self.restart()
            self.state = stages.gave_up(self.state)
        elif action == "finish":
            self.state = stages.advance(self.state, "finished")
        elif action == "publish":
            assert self.share <= 1, "published past a limit"
            assert self.ever_new > 0, "a candidate without new votes"
            assert not self.is_live
            self.ever_new, self.published = 0, self.published + 1
            self.state = stages.published(self.state, f"policy-{self.published}")
        elif action == "refuse":
            self.state = stages.refused(self.state, LIMITS)

    def run_out(self) -> None:
        """Without new votes every way ends in waiting, or with a candidate."""
        for _ in range(200):
            if self.turn() == "wait":
                return
        pytest.fail(f"no end: {self.state}")


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from([0.0, 0.1, 0.5, 0.95]))
def test_no_history_makes_the_learner_go_round_in_circles(data: st.DataObject, bad: float) -> None:
    history = History(data, bad)
    for _ in range(data.draw(st.integers(1, 6))):
        history.vote(data.draw(st.integers(0, 150)))
        for _ in range(data.draw(st.integers(0, 25))):
            history.turn()
            history.outside()
        before = history.published
        history.run_out()
        assert history.published <= before + 1


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from([0.0, 0.5, 0.95]))
def test_after_new_votes_there_is_always_a_step(data: st.DataObject, bad: float) -> None:
    history = History(data, bad)
    history.vote(200)
    for _ in range(data.draw(st.integers(1, 5))):
        for _ in range(data.draw(st.integers(0, 40))):
            history.turn()
        history.run_out()
        if history.state.trial is not None:
            promoted = data.draw(st.booleans())
            history.restart()
            history.state = stages.settled(history.state, promoted=promoted, restarts=not promoted)
        stepped = history.stepped
        history.vote(LIMITS.labels_per_update + LIMITS.min_labels)  # however many there were
        for _ in range(8):
            history.turn()
        assert history.stepped > stepped
