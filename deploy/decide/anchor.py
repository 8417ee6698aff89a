"""The standing anchor: a few users keep the version before live, and live is tested against it all the time.

A holdback ends, and harm that shows later would be found by nobody. So `anchor_weight` of all users get the
version before live, for as long as live serves, also while the next candidate is on trial. Each period
(`anchor_seconds`) draws its users anew: nobody keeps an old version for long, and a chance difference between
two sets of users, who have lasting tastes, does not add up over months. A user counts once in a period.

Harm may begin at any time, so evidence is a weighted sum over the periods in which it may have begun:

    S_k = (S_{k-1} + w_k) E_k        w_k = 1 / (k (k + 1))

E_k is the evidence of harm in period k alone (deploy/evidence/preference.py). The weights sum to 1, those of
periods to come are 1 / (k + 1), and so S_k + 1 / (k + 1) is evidence too: the chance that it ever reaches b
is at most 1 / b, however long live serves. It is the Shiryaev-Roberts e-detector of Shin, Ramdas & Rinaldo,
"E-detectors: a nonparametric framework for sequential change detection" (2024), with weights that sum to 1.

Pure functions; the steps go through the table in deploy/history/states.py.
"""

import math
from dataclasses import replace

from deploy.decide.release import ReleaseRules, quiet
from deploy.evidence.preference import EvidenceRules, Reading, said
from deploy.history.scope import Scope
from deploy.history.states import Number, ReleaseState, Standing, Step, step
from deploy.history.table import RoutingTable
from deploy.registry.versions import seq_of


def is_due(state: ReleaseState, rules: ReleaseRules, now: float) -> bool:
    """Whether `turn` has something to do: an anchor is missing, its period is over, or it is not wanted."""
    if state.stage != "idle" or state.paused:
        return False
    if rules.anchor_weight == 0:
        return state.table.anchor is not None
    if state.pinned is not None or len(state.lives) < 2 or seq_of(state.table.live) == 0:
        return False  # a version 0 (`hearken sft`) took nothing over
    standing = state.standing
    if standing is None or standing.live != state.table.live:
        return True
    return standing.period > 0 and now - standing.began_at >= rules.anchor_seconds


def turn(
    state: ReleaseState, rules: ReleaseRules, now: float, cursor: dict[str, int], reading: Reading | None
) -> Step:
    """A period begins, with other users. cursor: the log's end. reading: of the period before; None: none."""
    if rules.anchor_weight == 0:
        table = _without(state.table)
        sentence = "No users keep an older version any more: anchor_weight is 0."
        return step(state, "anchored", None, sentence, table=table, standing=None)
    live, anchor, epoch = state.table.live, state.lives[-2], state.table.epoch + 1
    before = state.standing if state.standing is not None and state.standing.live == live else None
    standing = Standing(
        live=live,
        period=1 if before is None else before.period + 1,
        evidence=0.0 if before is None else carried(before, reading),
        began_at=now,
        first_epoch=epoch,
        cursor=cursor,
    )
    drawn = {"anchor": anchor, "anchor_weight": rules.anchor_weight, "anchor_salt": f"anchor-{epoch}"}
    table = state.table.model_copy(update={**drawn, "epoch": epoch})
    sentence = (
        f"{rules.anchor_weight:.0%} of users, drawn anew, get {anchor} while {live} serves the others, to "
        f"find harm that shows late (period {standing.period})."
    )
    numbers: dict[str, Number] = {"anchor_weight": rules.anchor_weight, "period": standing.period}
    if reading is not None:
        numbers |= _numbers(reading, standing.evidence)
    return step(state, "anchored", None, sentence, numbers, table=table, standing=standing)


def give_up(state: ReleaseState, why: str, numbers: dict[str, Number]) -> Step:
    """No engine can serve the anchor: its users get live, which is not tested any more."""
    anchor, live = state.table.anchor, state.table.live
    table = _without(state.table)
    none = Standing(live=live, period=0, began_at=state.entered_at, first_epoch=table.epoch)
    sentence = f"No users get {anchor} any more, so {live} is not tested against it: {why}."
    return step(state, "anchored", None, sentence, numbers, table=table, standing=none)


def scope(standing: Standing, anchor: str) -> Scope:
    """The completions that are compared: live's and the anchor's, whatever their arm."""
    return Scope(standing.first_epoch, standing.live, anchor)


def rules_of(standing: Standing, rules: EvidenceRules) -> EvidenceRules:
    """The rules of evidence in a period: only harm is looked for, and with what periods before left."""
    left = rules.harm_bound - _to_come(standing.period)
    return replace(rules, promote_bound=math.inf, harm_bound=left / _staked(standing))


def evidence(standing: Standing, reading: Reading) -> float:
    """The evidence of harm by now, over all periods; 1 at the beginning."""
    return carried(standing, reading) + _to_come(standing.period)


def judge(state: ReleaseState, rules: ReleaseRules, reading: Reading, now: float) -> tuple[Step, ...]:
    """The steps that follow from harm that was found, none where there is none: a canary, which was made from
    live, ends first; then everybody gets the anchor."""
    standing, anchor, live = state.standing, state.table.anchor, state.table.live
    if reading.crossed != "harm" or standing is None or anchor is None:
        return ()
    steps: tuple[Step, ...] = ()
    if state.stage == "canary":
        canary = state.table.canary
        sentence = f"Ended the canary of {canary}: {live}, which it was made from, does harm."
        why: dict[str, Number] = {"anchor": anchor}
        steps = (step(state, "inconclusive", canary, sentence, why, **quiet(state, live, now)),)
        state = steps[0].state
    found = evidence(standing, reading)
    where = f" (of the tenant {reading.harmed!r})" if reading.harmed else ""
    words = ", ".join([*said(reading), f"evidence {found:.1f} against a bound of {rules.harm_bound:g}"])
    sentence = f"Rolled back {live} to {anchor}, which some users had kept: {words}{where}."
    numbers = {"anchor": anchor, **_numbers(reading, found)}
    return (*steps, step(state, "harmful", live, sentence, numbers, **quiet(state, anchor, now)))


def _without(table: RoutingTable) -> RoutingTable:
    return table.without_anchor().model_copy(update={"epoch": table.epoch + 1})


def _staked(standing: Standing) -> float:
    """What the period's evidence is multiplied with."""
    return standing.evidence + 1 / (standing.period * (standing.period + 1))


def carried(standing: Standing, reading: Reading | None) -> float:
    """What a period leaves to the next ones: S_k."""
    return _staked(standing) * (1.0 if reading is None else reading.harm)


def _to_come(period: int) -> float:
    return 1 / (period + 1)


def _numbers(reading: Reading, evidence_harm: float) -> dict[str, Number]:
    return {
        "pairs": reading.pairs,
        "mean_difference": reading.mean_difference,
        "compared": reading.compared,
        "preferred": reading.preferred,
        "evidence_harm": evidence_harm,
    }
