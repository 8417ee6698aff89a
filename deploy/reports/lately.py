"""What changed within the last day, in a sentence; and which versions live grew from. Pure."""

from collections.abc import Mapping, Sequence

from deploy.history.releases import Decision
from deploy.history.states import Outcome
from deploy.reports.outcomes import BECAME

DAY_SECONDS = 86_400.0

_TOLD: Sequence[Outcome] = (
    *("started", "promoted", "harmful", "guardrail", "rolled_back", "inconclusive", "refused", "pinned"),
)
"""Outcomes of versions that are news, in the order in which they are told."""

_OF_RELEASES: Mapping[Outcome, str] = {"paused": "paused", "resumed": "resumed"}
"""Outcomes that are about no version."""


def lately(votes: int, decisions: Sequence[Decision], now: float, *, complete: bool = True) -> str:
    """What happened since `now` less a day, as one sentence.

    votes: how many came in that time. decisions: the newest, of any age. complete: False where there may be
    more votes or decisions than these.
    """
    outcomes: dict[Outcome, list[str]] = {}
    for decision in decisions:
        if decision.at >= now - DAY_SECONDS:
            outcomes.setdefault(decision.outcome, []).append(decision.version or "")
    parts = [f"{votes:,} vote{'' if votes == 1 else 's'}"]
    for outcome in _TOLD:
        versions = outcomes.get(outcome, [])
        if versions:
            whom = f"{versions[0]} was" if len(versions) == 1 else f"{len(versions)} versions were"
            parts.append(f"{whom} {BECAME[outcome]}")
    for outcome, words in _OF_RELEASES.items():
        count = len(outcomes.get(outcome, []))
        if count:
            parts.append(f"releases were {words}{'' if count == 1 else f' {count} times'}")
    if len(parts) == 1:
        parts.append("nothing was decided")
    return f"Within the last day{'' if complete else ', at least'}: {'; '.join(parts)}."


def line_of(version: str, parents: Mapping[str, str | None]) -> list[str]:
    """A version and what it grew from, the oldest first, as far as that is known."""
    line = [version]
    while (parent := parents.get(line[-1])) is not None and parent not in line:
        line.append(parent)
    return line[::-1]
