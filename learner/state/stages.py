"""The stages of learning, the one table of transitions between them, and the state that each step changes.

    collecting  too few votes to train on
    improving   a batch of rollouts and a PPO step, one after the other
    offering    the policy is compared with live; it is published, or not
    on trial    the controller has the candidate; votes are still learned from
    waiting     what the votes had to say is used up: only new ones lead on

Pure, as `learner.state.table` is, which says what to do in each of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from learner.settings import LearnerSettings

Stage = Literal["collecting", "improving", "offering", "on trial", "waiting"]
STAGES: tuple[Stage, ...] = get_args(Stage)

Outcome = Literal[
    "fitted",
    "begun",
    "stepped",
    "undone",
    "started over",
    "gave up",
    "finished",
    "published",
    "refused",
    "settled",
    "went back",
]

_ANYWHERE: tuple[Outcome, ...] = ("fitted",)

TRANSITIONS: dict[tuple[Stage, Outcome], Stage] = {
    ("collecting", "begun"): "improving",
    ("waiting", "begun"): "improving",
    ("improving", "stepped"): "improving",
    ("improving", "undone"): "improving",
    ("improving", "started over"): "improving",
    ("improving", "gave up"): "waiting",
    ("improving", "finished"): "offering",
    ("offering", "undone"): "offering",
    ("offering", "refused"): "improving",
    ("offering", "started over"): "improving",
    ("offering", "gave up"): "waiting",
    ("on trial", "settled"): "waiting",
    # Somebody went back to an earlier policy, so live is another one.
    ("collecting", "went back"): "collecting",
    ("improving", "went back"): "improving",
    ("offering", "went back"): "improving",
    ("on trial", "went back"): "on trial",
    ("waiting", "went back"): "waiting",
    # A candidate may also be found in the log: it was published just before the learner was killed.
    **{(stage, "published"): "on trial" for stage in STAGES},
    **{(stage, outcome): stage for stage in STAGES for outcome in _ANYWHERE},
}
"""Everything that can happen, by the stage that it happens in, and the stage after it."""

SLOWEST_PACE = 1 / 8
"""Of the learning rate. A policy that runs away at this pace too does not do so by haste."""


class IllegalTransition(Exception):
    """An outcome that the table does not have in this stage: a mistake in the learner."""


@dataclass(frozen=True, slots=True)
class LearnerState:
    """What the learner knows of its own way; all of it is in the checkpoint.

    updates: of the reward models; used: the update whose votes were used up; new_labels: training labels
    since the newest update; batches: of rollouts since training began, or since half of it after a refusal;
    refusals: by the gate since new votes; pace: share of the learning rate; limit_share: of the KL limit
    that is nearer, used by the policy before its newest step; turned: whether people like something else than
    the reward models know; live_nats: KL of live to the base per response,
    None before it is measured; spent_nats: of the KL budget to the base, by what went live.
    """

    stage: Stage = "collecting"
    trial: str | None = None  # the candidate that the controller has, not yet decided
    updates: int = 0
    used: int = 0
    new_labels: int = 0
    turned: bool = False
    batches: int = 0
    refusals: int = 0
    pace: float = 1.0
    limit_share: float = 0.0
    live_nats: float | None = None
    spent_nats: float = 0.0

    @property
    def is_slowest(self) -> bool:
        """Whether a policy that still moves too far will not be slowed down any more."""
        return self.pace <= SLOWEST_PACE


@dataclass(frozen=True, slots=True)
class Limits:
    """When the learner does what, as `LearnerSettings` has it."""

    min_labels: int
    labels_per_update: int
    steps_per_candidate: int
    kl_budget_nats: float
    kl_refill_nats: float  # for 1,000 labels

    @classmethod
    def of(cls, settings: LearnerSettings) -> "Limits":
        """The limits among all settings."""
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})


# -- what became of it ----------------------------------------------------------------------------------


def advance(state: LearnerState, outcome: Outcome, **changes: Any) -> LearnerState:
    """The one place where a stage changes. Raises `IllegalTransition`."""
    after = TRANSITIONS.get((state.stage, outcome))
    if after is None:
        raise IllegalTransition(f"{outcome!r} cannot happen while {state.stage}")
    return replace(state, **changes, stage=after)


def voted(state: LearnerState) -> LearnerState:
    """A vote that trains came, or another one took its place."""
    return replace(state, new_labels=state.new_labels + 1)


def turned(state: LearnerState) -> LearnerState:
    """Votes are not what the reward models expect any more."""
    return replace(state, turned=True)


def met_live(state: LearnerState, live_nats: float | None) -> LearnerState:
    """Live's KL to the base was measured, or (None) another policy is live now."""
    return replace(state, live_nats=live_nats)


def fitted(state: LearnerState, limits: Limits) -> LearnerState:
    """The reward models learned the new labels, which also refill the KL budget to the base."""
    refilled = limits.kl_refill_nats * state.new_labels / 1000 if state.new_labels else 0.0
    return advance(
        state,
        "fitted",
        updates=state.updates + 1,
        new_labels=0,
        turned=False,
        refusals=0,
        spent_nats=max(0.0, state.spent_nats - refilled),
    )


def begun(state: LearnerState) -> LearnerState:
    """There are new votes to learn from. A learner that was slowed down is trusted with more again."""
    return advance(state, "begun", batches=0, refusals=0, pace=min(1.0, 2 * state.pace))


def stepped(state: LearnerState, limit_share: float, batches: int = 1) -> LearnerState:
    """A PPO step was taken, on so many batches' rollouts of a policy that used `limit_share` of its nearer KL
    limit."""
    return advance(state, "stepped", batches=state.batches + batches, limit_share=limit_share)


def undone(state: LearnerState, *, is_live: bool) -> LearnerState:
    """The newest step was taken back. Where that leaves live itself, one step was too large already."""
    if is_live:
        return gave_up(state) if state.is_slowest else started_over(state, slower=True)
    batches = state.batches + 1 if state.stage == "improving" else state.batches
    return advance(state, "undone", batches=batches)


def started_over(state: LearnerState, *, slower: bool) -> LearnerState:
    """The policy is live's copy again."""
    pace = state.pace / 2 if slower else state.pace
    return advance(state, "started over", batches=0, limit_share=0.0, pace=pace)


def gave_up(state: LearnerState) -> LearnerState:
    """The policy is live's copy again, and the votes have nothing more to say."""
    return advance(state, "gave up", used=state.updates, batches=0, refusals=0, limit_share=0.0)


def published(state: LearnerState, version: str) -> LearnerState:
    """A candidate is in the log; the same one twice is one."""
    if state.trial == version:
        return state
    return advance(state, "published", trial=version, used=state.updates, batches=0, refusals=0)


def refused(state: LearnerState, limits: Limits) -> LearnerState:
    """The gate wants a better policy: half as many batches until it is offered again."""
    half = limits.steps_per_candidate // 2
    return advance(state, "refused", refusals=state.refusals + 1, batches=half)


def settled(state: LearnerState, *, promoted: bool, restarts: bool, rise_nats: float = 0.0) -> LearnerState:
    """The trial is over. rise_nats: what a promoted policy's KL to the base is above live's before."""
    changes: dict[str, Any] = {"trial": None, "batches": 0}
    if promoted:
        changes |= {
            "pace": min(1.0, 2 * state.pace),
            "spent_nats": state.spent_nats + max(0.0, rise_nats),
        }
    if promoted or restarts:
        changes["limit_share"] = 0.0
    return advance(state, "settled", **changes)


def went_back(state: LearnerState) -> LearnerState:
    """Another policy than the candidate became live, and the policy is its copy."""
    return advance(state, "went back", batches=0, limit_share=0.0)


def room_nats(state: LearnerState, limits: Limits) -> float:
    """How much further from the base than live a policy may be, per response of up to 64 tokens."""
    return max(0.0, limits.kl_budget_nats - state.spent_nats)


# -- checkpoints ----------------------------------------------------------------------------------------


def from_saved(saved: Mapping[str, Any]) -> LearnerState:
    """The state in a checkpoint. Fields that are missing have their default, unknown ones are passed over."""
    known = {field.name for field in fields(LearnerState)}
    return LearnerState(**{name: value for name, value in saved.items() if name in known})


def from_place(place: Mapping[str, Any]) -> LearnerState:
    """The state that the loose fields of checkpoints before the table stood for."""
    updates, gave_up_at = int(place.get("reward_updates", 0)), int(place.get("gave_up_at", 0))
    trial = place.get("trial")
    if trial is not None:
        stage: Stage = "on trial"
    elif not updates:
        stage = "collecting"
    elif gave_up_at >= updates:
        stage = "waiting"
    else:
        stage = "offering" if place.get("at_limit") else "improving"
    return LearnerState(
        stage=stage,
        trial=trial,
        updates=updates,
        used=gave_up_at,
        new_labels=int(place.get("new_labels", 0)),
        batches=int(place.get("steps_since_offer", 0)),
        pace=float(place.get("pace", 1.0)),
    )


def picture() -> str:
    """The transitions that change something, as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> collecting"]
    for (before, outcome), after in TRANSITIONS.items():
        if outcome not in (*_ANYWHERE, "went back"):
            lines.append(f"    {before.replace(' ', '_')} --> {after.replace(' ', '_')}: {outcome}")
    return "\n".join(lines)
