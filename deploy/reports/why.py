"""Why a release stands where it stands, in plain sentences with numbers, as pure functions."""

from collections.abc import Callable, Mapping
from math import inf, isfinite

from deploy.decide.release import ReleaseRules
from deploy.evidence.preference import Reading, said, unproven, votes_needed
from deploy.history.holds import holds
from deploy.history.releases import History
from deploy.history.states import ReleaseState, Shadow, Stage
from deploy.reports.running import Running


def why(state: ReleaseState | None, found: Running | None, rules: ReleaseRules, now: float) -> list[str]:
    """Why nothing more has happened yet, and what has to, a sentence for each reason.

    found: what the running release has come to, None where none runs or nobody here knows. now: Unix time in
    seconds.
    """
    if state is None:
        return ["No controller has decided anything yet: the base model serves everybody."]
    return [*_STAGES[state.stage](state, found, rules, now), *_anchor(state), *holds(state)]


def evidence_words(reading: Reading, promote_bound: float, harm_bound: float) -> str:
    """The evidence so far against its bounds. A bound of infinity is of a test that is not made."""
    tests = [(reading.promote, promote_bound, "promote it"), (reading.harm, harm_bound, "find harm")]
    return f"{', '.join(said(reading)) or 'nobody voted'}, " + " and ".join(
        f"evidence {evidence:.3g} of the {bound:g} that {what}"
        for evidence, bound, what in tests
        if isfinite(bound)
    )


def span(seconds: float) -> str:
    """A duration for people: "45 s", "12 min", "3.5 h", "2 days"."""
    if seconds < 120:
        return f"{max(seconds, 0):.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


def where_now(history: History, version: str) -> str | None:
    """Where a version stands; None for one of which the history has nothing."""
    if any(candidate.version == version for candidate in history.candidates):
        return f"{version} was offered, and no controller has judged it yet."
    state = history.state
    if state is None:
        return None
    if version == state.table.live:
        return f"{version} is live."
    if version == state.table.canary:
        return f"{version} is on trial."
    if version == state.waiting:
        return f"{version} waits for its canary."
    if version in state.lives:
        return f"{version} was live before {state.table.live}: a rollback may come to it."
    known = any(decision.version == version for decision in history.decisions)
    return f"{version} serves nobody." if known else None


# -- stages ------------------------------------------------------------------------------------------------


def _idle(state: ReleaseState, found: Running | None, rules: ReleaseRules, now: float) -> list[str]:
    live, waiting = state.table.live, state.waiting
    kept = state.table.anchor_weight
    whom = f"{1 - kept:.0%} of users" if kept else "everybody"
    if waiting is None:
        return [f"{live} has served {whom} for {span(now - state.entered_at)}; no candidate waits."]
    held = state.paused or state.frozen or state.pinned is not None
    then = (
        "" if held else ": its canary starts when an engine has loaded it and its logprobs are the trainer's"
    )
    if state.shadow is not None:
        return [f"{live} serves {whom}.", _shadow(state.shadow, rules, now)]
    if not held and rules.shadow_prompts:
        then += "; before it, it answers prompts of users whom it is not shown"
    return [f"{live} serves {whom}, and {waiting} waits{then}."]


def _shadow(shadow: Shadow, rules: ReleaseRules, now: float) -> str:
    left = span(rules.shadow_seconds - (now - shadow.began_at))
    return (
        f"{shadow.version} is shadowed: it answers {shadow.share:.0%} of the prompts of users as well, which "
        f"nobody sees, and is judged by the first {shadow.prompts}, or by those that there are in {left}."
    )


def _anchor(state: ReleaseState) -> list[str]:
    table = state.table
    if table.anchor is None:
        return []
    share = f"{table.anchor_weight:.0%} of users"
    return [f"{share} get {table.anchor}, to find harm of {table.live} that shows late."]


def _canary(state: ReleaseState, found: Running | None, rules: ReleaseRules, now: float) -> list[str]:
    table, spent = state.table, now - state.entered_at
    sentences = [
        f"{table.canary} has been on trial with {table.weight:.0%} of users, beside {table.control} with as "
        f"many, for {span(spent)}."
    ]
    if found is None:
        return [*sentences, _UNKNOWN]
    failed = _named(found, "failed")
    if failed:
        sentences.append(f"It is about to be rolled back: {failed} failed.")
    if any(rung.weight > table.weight for rung in rules.ladder):
        sentences.append(_next_step(state, found, rules, spent))
    if not state.paused:
        sentences.append(_end(found, rules, spent))
    return [*sentences, *_evidence(found, found.rules.promote_bound), *_partial(found)]


def _end(found: Running, rules: ReleaseRules, spent: float) -> str:
    """When it ends without a verdict."""
    ends = f"This step ends without a verdict in {span(rules.max_seconds - spent)}"
    if found.reading.not_awful >= rules.promote_bound:
        return f"{ends}."
    left = max(0, rules.exposure_budget - found.met)
    return f"{ends}, or when {left} more users met it and votes do not rule out the worst."


def _next_step(state: ReleaseState, found: Running, rules: ReleaseRules, spent: float) -> str:
    """What the next rung of the ladder needs."""
    weight = next(rung.weight for rung in rules.ladder if rung.weight > state.table.weight)
    reached = [rung.min_seconds for rung in rules.ladder if rung.weight <= state.table.weight]
    least = reached[-1] if reached else 0.0
    needs = []
    if spent < least:
        needs.append(f"{span(least - spent)} more")
    if found.exposed < rules.rung_users:
        needs.append(
            f"{rules.rung_users - found.exposed} more canary users ({found.exposed} of {rules.rung_users} "
            "were served on this step)"
        )
    if found.reading.not_awful < rules.promote_bound:
        evidence = f"evidence {found.reading.not_awful:.3g} of {rules.promote_bound:g}"
        needs.append(f"votes that rule out the worst ({evidence})")
    if not found.judged:
        needs.append(f"users enough to judge guardrails by ({_named(found, 'not judged yet')})")
    return f"For the next step, {weight:.0%} of users, it needs " + (
        ", ".join(needs) + "." if needs else "nothing more."
    )


def _holdback(state: ReleaseState, found: Running | None, rules: ReleaseRules, now: float) -> list[str]:
    table, spent = state.table, now - state.entered_at
    sentences = [
        f"{table.live} has been live for {span(spent)}; {table.weight:.0%} of users keep {table.control}, to "
        "find harm that shows late."
    ]
    sentences += _holdback_ends(state, rules, spent)
    if found is None:
        return [*sentences, _UNKNOWN]
    return [*sentences, *_evidence(found, inf), *_partial(found)]


def _holdback_ends(state: ReleaseState, rules: ReleaseRules, spent: float) -> list[str]:
    """When a holdback ends; nothing while a pause holds it."""
    longest, least = span(rules.holdback_max_seconds - spent), span(rules.holdback_min_seconds - spent)
    if state.paused:
        return []
    if state.waiting is None:
        return [f"That ends in {longest}, or for the next candidate in {least}."]
    if state.frozen:
        return [f"That ends in {longest}; {state.waiting} waits."]
    if state.shadow is not None:
        return [_shadow(state.shadow, rules, state.entered_at + spent)]
    return [f"{state.waiting} waits until it has lasted {least} more."]


_STAGES: Mapping[Stage, Callable[[ReleaseState, Running | None, ReleaseRules, float], list[str]]] = {
    "idle": _idle,
    "canary": _canary,
    "holdback": _holdback,
}
_UNKNOWN = "What users did with it is not known here."


def _evidence(found: Running, promote_bound: float) -> list[str]:
    words = evidence_words(found.reading, promote_bound, found.rules.harm_bound)
    missing = unproven(found.reading, promote_bound) if isfinite(promote_bound) else []
    needs = f" For a promotion votes have to show {', '.join(missing)}." if missing else ""
    more = votes_needed(found.reading, promote_bound) if missing else None
    if more is not None:
        needs += f" Should evidence grow as it did, about {more:,} more users have to vote for that."
    waits = "" if found.judged else " Nothing is promoted before guardrails were judged."
    return [f"So far: {words}.{needs}{waits}"]


def _partial(found: Running) -> list[str]:
    return [] if found.complete else ["This is of a part of the votes: reading all takes too long here."]


def _named(found: Running, state: str) -> str:
    return ", ".join(name for name, became in found.guardrails.items() if became == state)
