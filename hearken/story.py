"""The story of a run: what the log says of learning and of releases, as series of numbers. Pure.

`told` is what `hearken report --json` prints; the page and the lines for people are made of it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deploy.ab_report import Report
from deploy.releases import Candidate, Decision
from feedback.events import BASE
from feedback.steps import StepRecord
from hearken import timeline
from hearken.report import count_outcomes

MOST_POINTS = 300
"""Points of a line: longer ones are drawn by so many groups of steps."""
MOST_VERSIONS = 100
"""Versions that are told of, the newest."""
MOST_FLAGS = 100
"""Promotions and rollbacks that are told of, the newest; all are counted."""
FLAGS: Mapping[str, bool] = {"promoted": True, "harmful": False, "guardrail": False, "rolled_back": False}
"""Outcomes that are flags on the time axis, and whether the flag is one of a promotion."""

Series = list[list[float]]
"""[Unix time, value] pairs."""


def mean(values: Sequence[float]) -> float:
    """The mean of at least one value."""
    return math.fsum(values) / len(values)


SERIES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "kl_nats": max,
    "kl_budget_nats": min,
    "reward": mean,
    "accuracy": mean,
    "entropy_nats": mean,
    "response_tokens": mean,
    "cut_off": mean,
}
"""What is drawn of steps, and what stands for a group of them: of KL and its budget the worst."""


class StepFold:
    """Steps as columns of numbers, each step once however often its record comes."""

    def __init__(self, since: float = -math.inf, until: float = math.inf) -> None:
        self._since, self._until = since, until
        self.first = math.inf  # when the first step was that was seen, of whatever time
        self._rows: dict[str, tuple[float, int, int, tuple[float | None, ...]]] = {}

    def add(self, record: StepRecord) -> None:
        """Take in a record; others than of the time asked for are passed over."""
        self.first = min(self.first, record.at)
        if self._since <= record.at <= self._until:
            values = tuple(getattr(record, name) for name in SERIES)
            self._rows[record.event_id] = (record.at, record.step, record.votes, values)

    def told(self) -> dict[str, Any]:
        """count, the votes used by the newest step, and each of `SERIES` as points of so many steps."""
        rows = sorted(self._rows.values(), key=lambda row: row[:2])
        group = max(1, math.ceil(len(rows) / MOST_POINTS))
        series = {}
        for place, (name, pick) in enumerate(SERIES.items()):
            points = [(row[0], row[3][place]) for row in rows]
            series[name] = thinned([(at, v) for at, v in points if v is not None], group, pick)
        return {
            "count": len(rows),
            "first": rows[0][1] if rows else None,
            "newest": rows[-1][1] if rows else None,
            "votes_used": rows[-1][2] if rows else None,
            "steps_per_point": group,
            "series": series,
        }


def thinned(
    points: Sequence[tuple[float, float]], group: int, pick: Callable[[Sequence[float]], float]
) -> Series:
    """Points of `group` each: at the time of the group's newest, with what `pick` makes of its values."""
    groups = [points[i : i + group] for i in range(0, len(points), group)]
    return [[each[-1][0], float(f"{pick([value for _, value in each]):.6g}")] for each in groups]


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


def line_of(version: str, parents: Mapping[str, str | None]) -> list[str]:
    """A version and what it grew from, the oldest first, as far as that is known."""
    line = [version]
    while (parent := parents.get(line[-1])) is not None and parent not in line:
        line.append(parent)
    return line[::-1]


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
