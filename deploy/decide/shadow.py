"""What a shadow (deploy/history/shadowed.py) comes to, as pure functions: its beginning, its end, and the
verdict."""

import math
import re
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Literal, NamedTuple

from deploy.answer_guards import AnswerLimits, Share, judged, said_shares
from deploy.decide.release import ReleaseRules
from deploy.evidence.guardrails import GuardrailLimits, lengths_allowed
from deploy.guards import Guard
from deploy.history.releases import Decision
from deploy.history.shadowed import Shadowed
from deploy.history.states import Number, ReleaseState, Shadow, Step, step

NUMBER = "shadow_"
"""How the names of a shadow's numbers begin in a decision."""


def begin(
    state: ReleaseState, rules: ReleaseRules, limits: AnswerLimits, now: float, length: float | None
) -> Step:
    """The waiting candidate, loaded and proven, answers prompts of users beside live from now on. length: of
    its answers over live's, as the gate measured it."""
    version = state.waiting
    assert version is not None
    shadow = Shadow(
        number=state.shadows + 1,
        version=version,
        live=state.table.live,
        share=rules.shadow_share,
        prompts=rules.shadow_prompts,
        began_at=now,
        refusal_pattern=limits.refusal_pattern,
        flattery_pattern=limits.flattery_pattern,
        length_foreseen=length,
    )
    sentence = (
        f"Began to shadow {version}: {rules.shadow_share:.0%} of the prompts of users are answered by it as "
        f"well, up to {rules.shadow_prompts} in {rules.shadow_seconds:.0f} s; nobody sees these answers."
    )
    return step(state, "shadowed", version, sentence, shadow=shadow, shadows=shadow.number)


def is_over(shadow: Shadow, pairs: int, rules: ReleaseRules, now: float) -> bool:
    """Whether a shadow is to be judged: it has its prompts, or its time is over. Never by what they say, so
    the one look at them is honest."""
    return pairs >= shadow.prompts or now - shadow.began_at >= rules.shadow_seconds


def is_judged(before: ReleaseState, decision: Decision) -> bool:
    """Whether a decision was made by what a shadow came to. before: the state that it was made in."""
    return before.shadow is not None and f"{NUMBER}prompts" in decision.numbers


class Judged(NamedTuple):
    """What a shadow has come to. problem: why the candidate is refused, None where it is not; told: what
    is said where nothing was judged; numbers: for the decision."""

    problem: str | None
    told: str
    guards: list[Guard]
    numbers: dict[str, Number]


def judge(
    shadow: Shadow, pairs: Sequence[Shadowed], limits: AnswerLimits, guardrails: GuardrailLimits
) -> Judged:
    """Hold a candidate's answers to the prompts of users against live's."""
    guards = _guards(shadow, pairs, limits, guardrails)
    refusing = [guard.sentence for guard in guards if guard.refuses]
    problem = None
    if refusing:
        problem = f"in the shadow of {len(pairs)} prompts of users, {'; '.join(refusing)}"
    numbers: dict[str, Number] = {f"{NUMBER}prompts": len(pairs)}
    for guard in guards:
        if guard.figure is not None and guard.best is not None:
            name = NUMBER + re.sub(r"\W", "_", guard.name)
            numbers |= {name: guard.figure, f"{name}_best": guard.best, f"{name}_limit": guard.limit}
    few = f"{len(pairs)} prompts of users were too few to judge a shadow by"
    return Judged(problem, few if len(pairs) < limits.least else "", guards, numbers)


def _guards(
    shadow: Shadow, pairs: Sequence[Shadowed], limits: AnswerLimits, guardrails: GuardrailLimits
) -> list[Guard]:
    failed = Share(
        "failed requests",
        "requests without an answer",
        [pair.candidate.failed for pair in pairs],
        [pair.live.failed for pair in pairs],
        guardrails.failed_share,
    )
    answered = [pair for pair in pairs if not pair.candidate.failed and not pair.live.failed]
    ours, theirs = [pair.candidate for pair in answered], [pair.live for pair in answered]
    found = [failed, *said_shares(ours, theirs, limits)]
    ratios = 3 if len(answered) >= limits.least else 0
    shorter, longer = lengths_allowed(guardrails, shadow.length_foreseen)
    judging = ratios + sum(len(each.ours) >= limits.least for each in found)
    z, lengths = limits.z(judging), [_log_length(pair) for pair in answered]
    paces = [_log_pace(pair) for pair in answered]
    return [
        *judged(found, limits, others=ratios),
        _ratio("length", "the answers' length, in live's,", lengths, z, limits.least, longer, "at most"),
        _ratio("shortness", "the answers' length, in live's,", lengths, z, limits.least, shorter, "at least"),
        _ratio("latency", "the time that answers take, in live's,", paces, z, limits.least,
               guardrails.latency_ratio, "at most"),
    ]  # fmt: skip


def _log_length(pair: Shadowed) -> float:
    """The logarithm of the candidate's tokens over live's. An answer of nothing counts as half a token."""
    return math.log(max(pair.candidate.tokens, 0.5) / max(pair.live.tokens, 0.5))


def _log_pace(pair: Shadowed) -> float:
    """The logarithm of the candidate's time over live's. A longer answer may take as much longer; that of a
    shorter one is not held against its tokens, for a prompt takes its time as well."""
    least = 1e-6  # seconds, for a clock that saw none
    times = math.log(max(pair.candidate.seconds, least) / max(pair.live.seconds, least))
    return times - max(0.0, _log_length(pair))


def _ratio(
    name: str,
    what: str,
    logs: Sequence[float],
    z: float,
    least: int,
    limit: float,
    side: Literal["at most", "at least"],
) -> Guard:
    """A guard on the geometric mean of ratios."""
    count = len(logs)
    if count < least:
        lacks = f"{count} pairs are too few, {least} are needed"
        return Guard(name=name, what=what, limit=limit, side=side, count=count, lacks=lacks)
    mean, error = fmean(logs), stdev(logs) / math.sqrt(count)
    best = mean - z * error if side == "at most" else mean + z * error
    return Guard(
        name=name, what=what, figure=math.exp(mean), best=math.exp(best), limit=limit, side=side, count=count
    )
