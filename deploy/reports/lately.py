"""What changed within the last day, in a sentence; and which versions live grew from. Pure."""

from collections.abc import Mapping, Sequence

from deploy.history.releases import Decision

DAY_SECONDS = 86_400.0

_SAID = {
    "started": ("{} went on trial", "{} versions went on trial"),
    "promoted": ("{} went live", "{} versions went live"),
    "harmful": ("{} was taken back because people liked it less", "{} versions were taken back by votes"),
    "guardrail": ("{} was taken back by a guardrail", "{} versions were taken back by guardrails"),
    "rolled_back": ("{} was rolled back by an operator", "{} versions were rolled back by operators"),
    "inconclusive": ("{} ended without a clear result", "{} versions ended without a clear result"),
    "refused": ("{} was refused before its trial", "{} versions were refused before their trial"),
    "paused": ("releases were paused", "releases were paused {} times"),
    "resumed": ("releases were resumed", "releases were resumed {} times"),
    "pinned": ("{} was pinned", "{} versions were pinned"),
}
"""Outcome -> what is said of one decision, with its version, and of several, with their number."""


def lately(votes: int, decisions: Sequence[Decision], now: float, *, complete: bool = True) -> str:
    """What happened since `now` less a day, as one sentence.

    votes: how many came in that time. decisions: the newest, of any age. complete: False where there may be
    more votes or decisions than these.
    """
    outcomes: dict[str, list[str]] = {}
    for decision in decisions:
        if decision.at >= now - DAY_SECONDS and decision.outcome in _SAID:
            outcomes.setdefault(decision.outcome, []).append(decision.version or "")
    parts = [f"{votes:,} vote{'' if votes == 1 else 's'}"]
    for outcome, (one, several) in _SAID.items():
        versions = outcomes.get(outcome, [])
        if versions:
            parts.append(one.format(versions[0]) if len(versions) == 1 else several.format(len(versions)))
    if len(parts) == 1:
        parts.append("nothing was decided")
    return f"Within the last day{'' if complete else ', at least'}: {'; '.join(parts)}."


def line_of(version: str, parents: Mapping[str, str | None]) -> list[str]:
    """A version and what it grew from, the oldest first, as far as that is known."""
    line = [version]
    while (parent := parents.get(line[-1])) is not None and parent not in line:
        line.append(parent)
    return line[::-1]
