"""How learning goes, in a sentence with numbers, and what a person should do about it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from deploy.reports.opinions import Estimate, Opinion
from deploy.reports.outcomes import BECAME

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
BACK_DAYS = 6
"""Votes are counted from the beginning of the day so long ago: the oldest that its weekday names alone."""


@dataclass(frozen=True, slots=True)
class Votes:
    """How many votes came since a Unix time. complete: False where there may be more."""

    count: int
    since: float
    complete: bool = True


def counted_from(now: float) -> float:
    """The Unix time from which votes are counted: midnight, local time, `BACK_DAYS` days ago."""
    day = datetime.fromtimestamp(now) - timedelta(days=BACK_DAYS)
    return day.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()


def in_words(
    votes: Votes, state: Mapping[str, Any], newest: Opinion | None, *, decides: bool = True
) -> dict[str, Any]:
    """`sentence`, and `to_do`: what a person should do, a sentence each; mostly nothing.

    state: as `deploy.reports.status.summary` has it. newest: what users said of the version that met them
    last.
    decides: whether a controller is there, as far as is known.
    """
    tasks = to_do(votes, state, decides=decides)
    parts = [_votes(votes), _opinion(state, newest), *_waiting(state)]
    parts.append(f"{len(tasks)} {_plural('thing', len(tasks))} to do" if tasks else "nothing to do")
    return {"sentence": f"{'; '.join(parts)}.", "to_do": tasks}


def lines(words: Mapping[str, Any]) -> list[str]:
    """What `in_words` gives, as lines for people."""
    return [words["sentence"], *(f"to do       {task}" for task in words["to_do"])]


def to_do(votes: Votes, state: Mapping[str, Any], *, decides: bool = True) -> list[str]:
    """What waits for a person, the most urgent first."""
    tasks = []
    if not decides or state["stage"] is None:
        tasks.append("Start the release controller: without one no version is tried (`hearken doctor`).")
    quarantined = state.get("quarantined") or ()
    if quarantined:
        names = ", ".join(quarantined)
        tasks.append(f"See why {names} cannot prove a version in use, and serves nobody with it.")
    if state.get("paused"):
        tasks.append("Resume releases when you are ready (`hearken resume`): until then candidates wait.")
    if state.get("frozen"):
        tasks.append("Unfreeze releases when you are ready (`hearken release unfreeze`): no canary starts.")
    if state.get("pinned"):
        pinned = state["pinned"]
        tasks.append(f"Unpin {pinned} when you are ready (`hearken release unpin`): nothing replaces it.")
    if not votes.count and votes.complete:
        tasks.append("Ask people what they think of answers: without votes nothing is learned.")
    return tasks


def _votes(votes: Votes) -> str:
    day = DAYS[datetime.fromtimestamp(votes.since).weekday()]
    least = "" if votes.complete else "At least "
    count = f"{votes.count:,}" if votes.count or least else "No"
    return f"{least}{count} {_plural('vote', votes.count)} since {day}"


def _opinion(state: Mapping[str, Any], newest: Opinion | None) -> str:
    canary = state.get("canary") if state["stage"] == "canary" else None
    if canary is not None and (newest is None or newest.version != canary):
        return f"{canary} is on trial, and what people say of it is not known yet"
    if newest is None:
        return "no policy has met people yet"
    name = f"the newest policy, {newest.version} ({_became(state, newest)}),"
    if newest.preferred is not None:
        return f"{name} is preferred to {newest.against} in {_share(newest.preferred)} who compared"
    if newest.thumbs is not None:
        return f"{name} has {_points(newest.thumbs, newest.against)}"
    return f"{name} was judged by nobody who votes"


def _became(state: Mapping[str, Any], newest: Opinion) -> str:
    if newest.outcome is None:
        return "on trial"
    if newest.outcome == "promoted":
        return "live" if state.get("live") == newest.version else "promoted, and no longer live"
    return BECAME[newest.outcome]


def _share(found: Estimate) -> str:
    users = f"{found.users:,} {_plural('user', found.users)}"
    return f"{100 * found.value:.0f}% [{100 * found.low:.0f}, {100 * found.high:.0f}] of {users}"


def _points(found: Estimate, against: str) -> str:
    low, high = 100 * found.low, 100 * found.high
    users = f"{found.users:,} paired {_plural('user', found.users)}"
    points = f"{100 * found.value:+.0f} points [{low:+.0f}, {high:+.0f}]"
    return f"{points} in thumbs up against {against}, of {users}"


def _waiting(state: Mapping[str, Any]) -> Sequence[str]:
    waiting = state.get("waiting")
    return [f"{waiting} waits for its trial"] if waiting else []


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
