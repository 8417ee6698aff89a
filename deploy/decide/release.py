"""What a release may do next, as pure functions: (state, what is known, now) -> the step to take.

Nothing here reads a clock, a file or a log. Every change of stage goes through the table in
deploy/history/states.py.
"""

from dataclasses import dataclass
from typing import NamedTuple

from deploy.engines.parity import UNTOLD, Parity
from deploy.evidence.comparing import Failure
from deploy.evidence.preference import Reading, said, unproven
from deploy.history.states import Number, ReleaseState, Step, step
from deploy.history.table import RoutingTable
from deploy.registry.manifest import Manifest
from feedback.core.events import BASE

PROMOTION_WEIGHT = 0.25
"""A candidate is promoted from this weight on, whatever votes say before: what serves everybody has served
many."""

LIVES_REMEMBERED = 16
"""How many live versions an operator can go back through."""


class Rung(NamedTuple):
    """A step of the ladder: the canary's share of all users, and how long it lasts at least. It ends when
    `ReleaseRules.rung_users` were served on it and users were heard enough to rule out the worst, never by
    time alone."""

    weight: float
    min_seconds: float


@dataclass(frozen=True, slots=True)
class ReleaseRules:
    """How a release goes. Times in seconds, weights as shares of all users."""

    ladder: tuple[Rung, ...]
    rung_users: int  # canary users who must have been served on a rung before the next one
    exposure_budget: int  # users who may meet a candidate before its votes rule out that it is awful
    max_seconds: float  # on a rung, before the canary ends as inconclusive
    holdback_weight: float
    holdback_min_seconds: float
    holdback_max_seconds: float
    anchor_weight: float
    anchor_seconds: float
    promote_bound: float
    harm_bound: float
    shadow_share: float = 0.0
    shadow_prompts: int = 0  # 0: no shadow
    shadow_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Known:
    """What a running release is judged by."""

    reading: Reading
    failure: Failure | None  # of a guardrail
    exposed: int  # canary users who were served under the table in force
    met: int  # canary users who were served since the release began
    judged: bool  # whether there were users enough for guardrails: too few is not the same as held
    cursor: dict[str, int]  # how far the log was read for this


def quiet(state: ReleaseState, live: str, now: float) -> dict[str, object]:
    """The changes that leave `live` alone in service. Versions after it in `lives` are dropped.

    The anchor of a live version that goes on stays.
    """
    lives = state.lives[: state.lives.index(live) + 1]
    alone = {"epoch": state.table.epoch + 1, "live": live, "control": None, "canary": None, "weight": 0.0}
    table = state.table.model_copy(update=alone)
    if live != state.table.live:
        table = table.without_anchor()
    return {
        "table": table,
        "lives": lives,
        "entered_at": now,
        "first_epoch": table.epoch,
    }


def begin(now: float, first: str = BASE) -> Step:
    """The first decision of all: the base model serves everybody, or version 0 does."""
    table = RoutingTable(epoch=1, live=first)
    who = "the base model" if first == BASE else f"{first}, made from demonstrations,"
    sentence = f"Began with {who} serving everybody."
    lives = (BASE,) if first == BASE else (BASE, first)
    return step(
        ReleaseState(), "begun", first, sentence, table=table, lives=lives, entered_at=now, first_epoch=1
    )


def rebase(state: ReleaseState, digest: str, now: float) -> Step:
    """What was live is a part of a new base (`digest`: sha256 of its weights), which serves everybody by
    itself. Versions of the old base are no way back."""
    table = RoutingTable(epoch=state.table.epoch + 1, salt=state.table.salt, live=BASE)
    return step(
        state,
        "rebased",
        state.table.live,
        f"Merged {state.table.live} into a new base, {digest[:12]}, which serves everybody.",
        {"base_digest": digest},
        table=table,
        lives=(BASE,),
        base=digest,
        entered_at=now,
        first_epoch=table.epoch,
    )


# -- candidates -----------------------------------------------------------------------------------------


def supersede(state: ReleaseState, newer: str) -> Step:
    """The waiting candidate makes room for a newer one."""
    sentence = f"Dropped {state.waiting} before its canary: {newer} is newer."
    return step(state, "superseded", state.waiting, sentence, waiting=None)


def accept(state: ReleaseState, version: str, why: str, manifest: str) -> Step:
    """A candidate passed the gate and waits for its canary. manifest: the sha256 of what was judged, by which
    it is known from now on."""
    used = {version, *state.lives, *state.table.adapters}
    known = {v: digest for v, digest in state.manifests.items() if v in used} | {version: manifest}
    return step(
        state, "accepted", version, f"{version} passed the gate: {why}.", waiting=version, manifests=known
    )


def refuse(state: ReleaseState, version: str, why: str, numbers: dict[str, Number] | None = None) -> Step:
    """A candidate will not be shown to users."""
    waiting = None if state.waiting == version else state.waiting
    return step(state, "refused", version, f"Refused {version}: {why}.", numbers, waiting=waiting)


def misfit(candidate: Manifest, live: str, live_manifest: Manifest | None) -> str | None:
    """Why a candidate cannot follow the live version, or None. `live_manifest` is None for the base model."""
    if candidate.parent != live:
        return (
            f"it was trained from {candidate.parent} and compared with it, but {live} is live now, "
            "so its offline numbers say nothing"
        )
    if live_manifest is not None and candidate.base_digest != live_manifest.base_digest:
        return (
            f"it was trained on base model {candidate.base_digest[:12]}, "
            f"but {live} on {live_manifest.base_digest[:12]}"
        )
    return None


def may_start(state: ReleaseState, rules: ReleaseRules, now: float) -> bool:
    """Whether the waiting candidate's turn has come."""
    if state.waiting is None or state.stage == "canary":
        return False
    if state.paused or state.frozen or state.pinned is not None:
        return False
    return state.stage == "idle" or now - state.entered_at >= rules.holdback_min_seconds


def start(
    state: ReleaseState,
    rules: ReleaseRules,
    now: float,
    cursor: dict[str, int],
    parity: Parity,
    length: float | None = None,
) -> Step:
    """The waiting candidate, loaded and probed on the engines, gets its first users.

    parity: of the engines' logprobs and the trainer's, for the record. length: of its answers over live's, as
    the gate measured it.
    """
    version, rung = state.waiting, rules.ladder[0]
    epoch = state.table.epoch + 1
    release_id = f"release-{epoch}"
    trial = {"control": state.table.live, "canary": version, "weight": rung.weight}
    table = state.table.model_copy(update={"epoch": epoch, "salt": release_id, **trial})
    return step(
        state,
        "started",
        version,
        f"Started the canary of {version} with {rung.weight:.0%} of users"
        + ("." if parity.tells else f"; {UNTOLD}."),
        {"weight": rung.weight, **parity.numbers},
        release_id=release_id,
        table=table,
        waiting=None,
        entered_at=now,
        first_epoch=epoch,
        length_foreseen=length,
        cursor=cursor,
    )


# -- a running release ----------------------------------------------------------------------------------


def judge(state: ReleaseState, rules: ReleaseRules, known: Known, now: float) -> Step | None:
    """What the canary or the holdback has come to, or None: it goes on as it is."""
    if state.stage == "idle":
        return None
    numbers = _numbers(state, known.reading)
    if known.failure is not None:
        return fail(state, known.failure, now, numbers)
    if known.reading.crossed == "harm":
        return _harmful(state, rules, known.reading, now, numbers)
    if state.paused:
        return None  # only back, never forward
    if state.stage == "holdback":
        return _end_holdback(state, rules, now, numbers)
    proven = known.reading.crossed == "promote" and state.table.weight >= PROMOTION_WEIGHT
    if proven and known.judged:
        words = _evidence(known.reading, known.reading.promote, rules.promote_bound)
        return promotion(state, rules, known, now, f"Promoted {state.table.canary}: {words}.")
    return _climb(state, rules, known, now, numbers)


def fail(state: ReleaseState, failure: Failure, now: float, numbers: dict[str, Number] | None = None) -> Step:
    """A guardrail failed: back to the version before."""
    version, back = state.table.canary, state.table.version("control")
    return step(
        state,
        "guardrail",
        version,
        f"Rolled back {version} to {back}: {failure.sentence}.",
        {**(numbers or {}), **failure.numbers, "guardrail": failure.guardrail},
        **quiet(state, back, now),
    )


def _harmful(
    state: ReleaseState, rules: ReleaseRules, reading: Reading, now: float, numbers: dict[str, Number]
) -> Step:
    version, back = state.table.canary, state.table.version("control")
    where = f" (of the tenant {reading.harmed!r})" if reading.harmed else ""
    why = _evidence(reading, reading.harm, rules.harm_bound)
    sentence = f"Rolled back {version} to {back}: {why}{where}."
    return step(state, "harmful", version, sentence, numbers, **quiet(state, back, now))


def promotion(state: ReleaseState, rules: ReleaseRules, known: Known, now: float, sentence: str) -> Step:
    """The canary becomes live, whatever its evidence, and a holdback begins. sentence: who did it, why."""
    version, previous = state.table.version("canary"), state.table.live
    # The same salt: users keep what they have, only the live arm and the buckets' rest change over.
    table = RoutingTable(
        epoch=state.table.epoch + 1,
        salt=state.table.salt,
        live=version,
        control=previous,
        canary=version,
        weight=rules.holdback_weight,
    )
    return step(
        state,
        "promoted",
        version,
        sentence,
        _numbers(state, known.reading),
        table=table,
        lives=(*state.lives, version)[-LIVES_REMEMBERED:],
        entered_at=now,
        first_epoch=table.epoch,
        cursor=known.cursor,
    )


def _climb(
    state: ReleaseState, rules: ReleaseRules, known: Known, now: float, numbers: dict[str, Number]
) -> Step | None:
    """The next rung when this one has lasted; the end when there is none and nothing was decided."""
    version, spent = state.table.canary, now - state.entered_at
    awful = known.reading.not_awful < rules.promote_bound  # by all that is known it may still be
    if spent >= rules.max_seconds or (awful and known.met >= rules.exposure_budget):
        sentence = (
            f"Ended the canary of {version} as inconclusive after {spent:.0f} s at {state.table.weight:.0%} "
            f"and {known.met} users: {_open_evidence(known.reading, rules)}; {state.table.live} stays live."
        )
        return step(state, "inconclusive", version, sentence, numbers, **quiet(state, state.table.live, now))
    higher = [rung for rung in rules.ladder if rung.weight > state.table.weight]
    reached = [rung for rung in rules.ladder if rung.weight <= state.table.weight]
    if not higher or spent < (reached[-1].min_seconds if reached else 0.0):
        return None
    if awful or known.exposed < rules.rung_users or not known.judged:
        return None
    weight = higher[0].weight
    table = state.table.model_copy(update={"epoch": state.table.epoch + 1, "weight": weight})
    sentence = (
        f"Raised the canary of {version} to {weight:.0%} of users: guardrails held for {known.exposed} users "
        f"in {spent:.0f} s."
    )
    return step(
        state, "raised", version, sentence, {**numbers, "weight": weight, "exposed_users": known.exposed},
        table=table, entered_at=now,
    )  # fmt: skip


def _end_holdback(
    state: ReleaseState, rules: ReleaseRules, now: float, numbers: dict[str, Number]
) -> Step | None:
    spent = now - state.entered_at
    next_one = state.waiting if may_start(state, rules, now) else None
    if next_one is None and spent < rules.holdback_max_seconds:
        return None
    why = f"{next_one} is next" if next_one else "its time is over"
    sentence = (
        f"Ended the holdback after {spent:.0f} s without evidence of harm: {why}; "
        f"{state.table.live} stays live."
    )
    return step(state, "finished", state.table.live, sentence, numbers, **quiet(state, state.table.live, now))


# -- words ---------------------------------------------------------------------------------


def _numbers(state: ReleaseState, reading: Reading) -> dict[str, Number]:
    return {
        "weight": state.table.weight,
        "pairs": reading.pairs,
        "mean_difference": reading.mean_difference,
        "compared": reading.compared,
        "preferred": reading.preferred,
        "evidence_promote": reading.promote,
        "evidence_harm": reading.harm,
        "evidence_no_worse": reading.no_worse,
        "evidence_no_worse_compared": reading.no_worse_compared,
        "evidence_voters_alike": reading.voters_alike,
        "evidence_not_awful": reading.not_awful,
        "canary_users": reading.canary_users,
        "control_users": reading.control_users,
        "canary_value": reading.canary_value,
        "control_value": reading.control_value,
    }


def _evidence(reading: Reading, evidence: float, bound: float) -> str:
    return ", ".join([*said(reading), f"evidence {evidence:.1f} against a bound of {bound:g}"])


def _open_evidence(reading: Reading, rules: ReleaseRules) -> str:
    """What is known, and what was not shown of that which a promotion needs."""
    if not reading.pairs and not reading.compared:
        return "nobody voted"
    missing = unproven(reading, rules.promote_bound)
    also = f"; not shown: {', '.join(missing)}" if missing else ""
    return _evidence(reading, reading.promote, rules.promote_bound) + also
