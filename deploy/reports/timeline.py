"""Stages of releases over time: who served when, out of decisions. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from deploy.history.releases import Decision
from deploy.history.states import Stage


@dataclass(frozen=True, slots=True)
class Span:
    """A time in which the same was served to the same shares of users; times in Unix seconds.

    until: None for the one that lasts. tried: the version on trial, where one is. against: what users of the
    equal bucket get. weight: the share of either bucket. ended: the outcome that the span ended with.
    """

    since: float
    until: float | None
    stage: Stage
    live: str
    tried: str | None
    against: str | None
    weight: float
    ended: str | None


def spans(decisions: Iterable[Decision]) -> list[Span]:
    """The spans that decisions, oldest first, divide time into; the last one lasts."""
    found: list[Span] = []
    for decision in decisions:
        span = _begun(decision)
        if found:
            if replace(span, since=found[-1].since) == found[-1]:
                continue
            found[-1] = replace(found[-1], until=decision.at, ended=decision.outcome)
        found.append(span)
    return found


def _begun(decision: Decision) -> Span:
    table, stage = decision.state.table, decision.stage_after
    tried = table.canary if stage == "canary" else None
    against = table.control if stage != "idle" else None
    return Span(decision.at, None, stage, table.live, tried, against, table.weight, None)
