"""The stages of a release, the one table of transitions between them, and the state that each step changes.

canary: the candidate serves a growing share of users (the ladder), control users get the live version.
Guardrails
    and votes decide from the first user on.
holdback: the candidate has become live; a few users keep the previous version, and the comparison goes on.
idle: one version serves everybody, but for the users of the anchor (deploy/decide/anchor.py).
"""

from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from deploy.history.scope import Scope
from deploy.history.table import RoutingTable
from feedback.core.events import BASE

Stage = Literal["idle", "canary", "holdback"]
Outcome = Literal[
    "begun",
    "accepted",
    "refused",
    "superseded",
    "started",
    "raised",
    "promoted",
    "harmful",
    "guardrail",
    "inconclusive",
    "finished",
    "rolled_back",
    "paused",
    "resumed",
    "frozen",
    "unfrozen",
    "pinned",
    "unpinned",
    "not_done",
    "rejected",
    "restored",
    "rebased",
    "anchored",
    "shadowed",
]
Action = Literal["rollback", "promote", "pause", "resume", "freeze", "unfreeze", "pin", "unpin"]
Number = float | int | str | None

_ANYWHERE: tuple[Outcome, ...] = (
    *("accepted", "refused", "superseded", "rejected", "restored"),
    *("paused", "resumed", "frozen", "unfrozen", "unpinned", "not_done"),
)

TRANSITIONS: dict[tuple[Stage, Outcome], Stage] = {
    ("idle", "begun"): "idle",
    ("idle", "shadowed"): "idle",
    ("idle", "started"): "canary",
    ("idle", "rolled_back"): "idle",
    ("idle", "guardrail"): "idle",
    ("idle", "harmful"): "idle",
    ("idle", "anchored"): "idle",
    ("idle", "rebased"): "idle",
    ("idle", "pinned"): "idle",
    ("canary", "raised"): "canary",
    ("canary", "anchored"): "canary",
    ("canary", "promoted"): "holdback",
    ("canary", "harmful"): "idle",
    ("canary", "guardrail"): "idle",
    ("canary", "inconclusive"): "idle",
    ("canary", "rolled_back"): "idle",
    ("holdback", "shadowed"): "holdback",
    ("holdback", "finished"): "idle",
    ("holdback", "harmful"): "idle",
    ("holdback", "guardrail"): "idle",
    ("holdback", "rolled_back"): "idle",
    ("holdback", "pinned"): "idle",
    **{(stage, outcome): stage for stage in get_args(Stage) for outcome in _ANYWHERE},
}
"""Everything that can happen, by the stage that it happens in, and the stage after it."""

SETTLING: frozenset[Outcome] = frozenset(
    {"refused", "superseded", "promoted", "harmful", "guardrail", "inconclusive", "rolled_back", "pinned"}
)
"""The outcomes with which the trial of a candidate is over."""


class IllegalTransition(Exception):
    """A step that the table does not have: a mistake in the controller, never an operator's."""


class Standing(BaseModel):
    """The test of live against the anchor: what earlier periods left, and where the running one began.

    live: the version that is tested. period: its number, from 1 on; 0 where no engine can serve the anchor,
    so that there is none. evidence: of the periods before (deploy/decide/anchor.py).
    """

    model_config = ConfigDict(frozen=True)

    live: str
    period: int = Field(ge=0)
    evidence: float = Field(default=0.0, ge=0.0)
    began_at: float
    first_epoch: int  # completions from this table on belong to the period
    cursor: dict[str, int] = Field(default_factory=dict)  # the log's position when it began


class Shadow(BaseModel):
    """A candidate that answers prompts of users whom it does not serve (deploy/decide/shadow.py).

    number: of the service's shadows, from 1 on. live: whose answers users get. share: of their prompts;
    prompts: how many are judged. The patterns are those that tell refusals and praise. length_foreseen: of
    its answers over live's by the gate, None where that was not measured.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    number: int = Field(ge=1)
    version: str
    live: str
    share: float
    prompts: int
    began_at: float
    refusal_pattern: str
    flattery_pattern: str
    length_foreseen: float | None = None


class ReleaseState(BaseModel):
    """All that the controller has to remember. Each decision carries it; the newest one is in force."""

    model_config = ConfigDict(frozen=True, extra="allow")

    stage: Stage = "idle"
    release_id: str = ""
    table: RoutingTable = RoutingTable()
    lives: tuple[str, ...] = (BASE,)  # live versions, oldest first; the last one is live, rollback drops it
    waiting: str | None = None  # the candidate that is next
    paused: bool = False  # the running release stays as it is
    frozen: bool = False  # no canary starts; the running release goes on
    pinned: str | None = None  # the version that nothing may replace until it is unpinned
    entered_at: float = 0.0  # when this stage, and in a canary this rung, began
    first_epoch: int = 0  # completions of this stage count: from this table on
    base: str = ""  # sha256 of a merged base's weights; "" for the base that the service began with
    manifests: dict[str, str] = Field(default_factory=dict)  # version -> sha256 of its manifest, where known
    quarantined: tuple[str, ...] = ()  # engines that could not prove a version in use
    length_foreseen: float | None = None  # answer length over live's by the gate; None: not measured
    cursor: dict[str, int] = Field(default_factory=dict)  # the log's position when this stage began
    standing: Standing | None = None  # the test of live against the anchor
    shadow: Shadow | None = None  # of the candidate that waits
    shadows: int = 0  # how many there were

    def scope(self) -> Scope:
        """The completions that are compared in this stage."""
        return Scope(self.first_epoch, self.table.version("canary"), self.table.version("control"))


@dataclass(frozen=True, slots=True)
class Step:
    """One transition: what happened to which version, the state after it, and why."""

    outcome: Outcome
    version: str | None
    state: ReleaseState
    sentence: str
    numbers: dict[str, Number]


def step(
    state: ReleaseState,
    outcome: Outcome,
    version: str | None,
    sentence: str,
    numbers: dict[str, Number] | None = None,
    **changes: object,
) -> Step:
    """The one place where a stage changes. Raises `IllegalTransition`."""
    after = TRANSITIONS.get((state.stage, outcome))
    if after is None:
        raise IllegalTransition(f"{outcome!r} cannot happen in stage {state.stage!r}")
    changed = state.model_copy(update={**changes, "stage": after})
    if changed.shadow is not None and changed.shadow.version != changed.waiting:
        changed = changed.model_copy(update={"shadow": None})  # it is over with the wait
    return Step(outcome, version, changed, sentence, numbers or {})


def picture() -> str:
    """The transitions that change something, as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> idle: begun"]
    for (before, outcome), after in TRANSITIONS.items():
        if outcome not in _ANYWHERE and outcome != "begun":
            lines.append(f"    {before} --> {after}: {outcome}")
    return "\n".join(lines)
