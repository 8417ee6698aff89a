"""The learner's next action: a pure function of its state, of what it sees, and of its limits.

Nothing here reads a clock, a log or a model.

Why it never goes round in circles: each batch of rollouts adds to `batches` until the policy is offered, each
refusal to `refusals` until the learner gives up, and each start over halves `pace` until it gives up as well.
Only new votes take these back. A candidate and a training that was given up use up the votes that there are
(`used`), and nothing begins before there are more.
"""

import math
from dataclasses import dataclass
from typing import Literal

from learner.state.stages import LearnerState, Limits

Action = Literal[
    "read",  # what is in the log, before anything else
    "wait",
    "fit",  # the reward models, to the votes that there are
    "begin",
    "sample",  # rollouts of the policy, to be measured
    "step",  # learn from them
    "undo",  # the newest step
    "start over",  # from live, more slowly
    "give up",  # go back to live, and wait for votes
    "finish",  # training; the policy is offered next
    "compare",  # with live
    "publish",
    "refuse",  # to publish, and train on
]

UPDATE_SHARE = 0.15
"""New labels as a share of all that start an update of the reward models during training and trials: a fit
reads all. One that waits has the time, and would wait ever longer for a share of ever more."""

AGED_SHARE = 0.25
"""New labels as a share of a half-life that start one, too: where votes age fast, few are much."""

FAR = 1.5
"""Times a KL limit. From further out no step leads home; from nearer, the KL's price does it."""

REFUSALS = 3
"""Candidates that the gate may refuse before the learner waits for new votes."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What the newest rollouts show of the policy that made them.

    limit_share: the upper confidence bound of its KL over the limit, of the reference where that is more.
    passed: whether the gate lets it through; None for rollouts to learn from, which no gate sees.
    """

    limit_share: float
    passed: bool | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What the learner sees right now.

    labels: that train; half_life: newer votes after which a vote weighs half as much; behind: whether the log
    has much that was not read; is_live: whether the policy is live's copy; undoable: PPO steps that can be
    undone; runs_away, fails: whether the self-check finds that the policy moves too fast, or anything else
    against it.
    """

    labels: int
    half_life: float = math.inf
    behind: bool = False
    is_live: bool = False
    undoable: int = 0
    runs_away: bool = False
    fails: bool = False
    batch: Batch | None = None


def next_action(state: LearnerState, measured: Measured, limits: Limits) -> Action:
    """What to do next. With `measured.batch`, what to do with the policy that made it."""
    if measured.behind:
        return "read"
    if measured.batch is not None:
        return _after_batch(state, measured, measured.batch)
    if _rewards_are_due(state, measured, limits):
        return "fit"
    if measured.labels < limits.min_labels or state.stage == "on trial":
        return "wait"
    if state.stage in ("collecting", "waiting"):
        return "begin" if state.updates > state.used else "wait"
    if measured.runs_away:
        return _start_over(state)
    if measured.fails:
        return "give up"
    if state.stage == "offering":
        return "give up" if measured.is_live else "compare"
    return "finish" if _is_trained(state, limits) else "sample"


def _is_trained(state: LearnerState, limits: Limits) -> bool:
    """Whether the policy has had its steps, and is offered next if it is not already."""
    full = state.stage == "improving" and state.batches >= limits.steps_per_candidate
    return full or state.stage == "offering"


def _rewards_are_due(state: LearnerState, measured: Measured, limits: Limits) -> bool:
    """After a number of new labels, or some when taste has turned. A learner that has other things to do
    waits for a fair share of all; one that can begin, begins: where votes come faster than a fit takes, there
    are always new ones, and fits would never end. A policy that is there is offered first: it has waited long
    enough, and while it is on trial there is time."""
    if state.turned and state.new_labels:
        return True
    if _is_trained(state, limits):
        return False
    idle = state.stage in ("collecting", "waiting")
    if idle and state.updates > state.used and measured.labels - state.new_labels >= limits.min_labels:
        return False
    if state.stage == "collecting" and state.new_labels and measured.labels >= limits.min_labels:
        return True
    share = 0.0 if idle else UPDATE_SHARE
    fair = max(limits.labels_per_update, share * measured.labels)
    return state.new_labels >= min(fair, AGED_SHARE * measured.half_life)


def _after_batch(state: LearnerState, measured: Measured, batch: Batch) -> Action:
    if batch.passed is not None:
        return _after_gate(state, measured, batch)
    if measured.is_live or batch.limit_share <= 1:
        return "step"
    if batch.limit_share < state.limit_share:
        return "step"  # it is on its way home
    if measured.undoable:
        return "undo"
    return _start_over(state) if not batch.limit_share <= FAR else "step"


def _after_gate(state: LearnerState, measured: Measured, batch: Batch) -> Action:
    if batch.passed and batch.limit_share <= 1:
        return "publish"
    if not batch.limit_share <= 1 and measured.undoable:
        return "undo"
    return "refuse" if state.refusals + 1 < REFUSALS else "give up"


def _start_over(state: LearnerState) -> Action:
    return "give up" if state.is_slowest else "start over"
