"""The story of a run: what the log says of learning and of releases, as series of numbers. Pure.

`told` is what `hearken report --json` prints; the page and the lines for people are made of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deploy.history.releases import Candidate, Decision
from deploy.reports.ab_report import Report
from deploy.reports.lately import line_of
from feedback.core.events import BASE
from feedback.updates.series import StepFold
from hearken.story import timeline
from hearken.story.outcomes import count_outcomes

MOST_VERSIONS = 100
"""Versions that are told of, the newest."""
MOST_FLAGS = 100
"""Promotions and rollbacks that are told of, the newest; all are counted."""
FLAGS: Mapping[str, bool] = {"promoted": True, "harmful": False, "guardrail": False, "rolled_back": False}
"""Outcomes that are flags on the time axis, and whether the flag is one of a promotion."""


@dataclass(frozen=True, slots=True)
class Story:
    """What the log says of a time. Times are Unix seconds.

    decisions: of that time, candidates: all, both oldest first. votes: when each came that came then.
    reports: of the releases that began then, the newest ones, oldest first; unreported: how many older ones
    there are.
    complete: whether all votes were read.
    """

    since: float
    until: float
    live: str
    decisions: Sequence[Decision] = ()
    candidates: Sequence[Candidate] = ()
    steps: StepFold = field(default_factory=StepFold)
    votes: Sequence[float] = ()
    reports: Sequence[Report] = ()
    unreported: int = 0
    complete: bool = True


def told(story: Story) -> dict[str, Any]:
    """The story as JSON types."""
    width, name = timeline.bin_width(story.until - story.since)
    offset = timeline.offset_seconds(story.until)
    flags = [each for each in story.decisions if each.outcome in FLAGS]
    return {
        "since": story.since,
        "until": story.until,
        "complete": story.complete,
        "live": story.live,
        **count_outcomes(story.decisions),
        "releases": [report.told() for report in story.reports],
        "releases_unreported": story.unreported,
        "steps": story.steps.told(),
        "votes": {
            "count": len(story.votes),
            "bin": name,
            "bin_seconds": width,
            "bins": timeline.binned(story.votes, story.since, story.until, width, offset),
        },
        "flags": [
            {"at": each.at, "outcome": each.outcome, "version": each.version, "sentence": each.sentence}
            for each in flags[-MOST_FLAGS:]
        ],
        "flags_left_out": max(0, len(flags) - MOST_FLAGS),
        **_lineage(story),
    }


def _lineage(story: Story) -> dict[str, Any]:
    """Versions that were offered or decided about, the newest last, and the line that live comes from."""
    parents = {each.version: each.parent for each in story.candidates}
    versions = [each.version for each in story.candidates if story.since <= each.at <= story.until]
    versions += [each.version for each in story.decisions if each.version not in (None, BASE)]
    known = list(dict.fromkeys(versions))
    shown = known[-MOST_VERSIONS:]
    return {
        "line": line_of(story.live, parents),
        "versions": [_version(version, story) for version in shown],
        "versions_left_out": len(known) - len(shown),
    }


def _version(version: str, story: Story) -> dict[str, Any]:
    offered = next((each for each in story.candidates if each.version == version), None)
    about = [each for each in story.decisions if each.version == version]
    settled = [each for each in about if each.settled] or about
    return {
        "version": version,
        "parent": None if offered is None else offered.parent,
        "offered_at": None if offered is None else offered.at,
        "outcome": settled[-1].outcome if settled else None,
        "decided_at": settled[-1].at if settled else None,
        "is_live": version == story.live,
    }


def begins(since: float | None, events: Iterable[float], until: float) -> float:
    """Where a story begins: at the time that was asked for (None: at none), or with the log's first event
    where that is later. Without events it begins when it was asked for."""
    first = min((at for at in events if at <= until), default=until if since is None else since)
    return first if since is None else max(since, first)
