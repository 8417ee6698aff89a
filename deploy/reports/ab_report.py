"""What people think of a version against the one before it, by all votes since its canary began.

For whoever has to say whether learning pays. It is counted anew from the log, by the rules that the release
was started with, so anybody who has the log comes to the same figures.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.evidence.interval import Interval, interval
from deploy.evidence.streams import Heard
from deploy.history.releases import Decision, History
from deploy.reports.observation import Observation
from deploy.reports.running import read_on, rules_of
from deploy.settings import ControllerSettings
from feedback.core.log import Cursor, EventLog, Record
from feedback.core.losses import place


@dataclass(frozen=True, slots=True)
class Said:
    """What some users said. preferred: the share of those who chose between both that preferred the version,
    with the interval that holds at every look; thumbs: the difference of thumbs, -1 to 1. None: nobody said
    anything.
    """

    compared: int
    preferred: float | None
    preferred_interval: Interval | None
    matched: int
    thumbs: float | None
    thumbs_interval: Interval | None


@dataclass(frozen=True, slots=True)
class Report:
    """A version against the one before. Times are Unix seconds; exposed: users whom its trial served with it.

    complete: False when time was up before the log's end. tenants: each by itself, where there are several.
    """

    version: str
    against: str
    outcome: str
    started_at: float
    until: float
    exposed: int
    complete: bool
    users: Said
    tenants: dict[str, Said]

    def told(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


class NoRelease(Exception):
    """There is no canary of that version in the log."""


def report(log: EventLog, history: History, version: str | None, patience_seconds: float) -> Report:
    """The newest release of a version; None: of the one whose canary began last.

    Reads for `patience_seconds` at most. Raises `LogError`, and `NoRelease` where there is none to tell of.
    """
    trial = Trial(_started(history, version))
    _, complete = read_on(log, trial.cursor, trial.feed, patience_seconds)
    return trial.report(history, complete=complete)


class Trial:
    """What users say of one release, counted by the rules that it was started with.

    Feed it completions and votes from its `cursor` on; others that lie before are passed over.
    """

    def __init__(self, started: Decision) -> None:
        self.started = started
        settings = ControllerSettings(data=Path(), engines=("http://none",), **asdict(rules_of(started)))
        self._observation = Observation(started.state, settings)

    @property
    def cursor(self) -> Cursor:
        """Where in the log the release began."""
        return self.started.state.cursor

    def feed(self, records: Iterable[Record]) -> None:
        """Take in what comes next in the log."""
        first = self.cursor
        self._observation.feed(
            record
            for record in records
            if record.offset >= first.get(place(record.topic, record.partition), 0)
        )

    def report(self, history: History, *, complete: bool) -> Report:
        """What was said so far. history: has what came of it; complete: whether the log was read to its
        end."""
        evidence, table = self._observation.evidence, self.started.state.table
        heard = evidence.heard()
        all_users = heard.pop("")
        return Report(
            version=table.version("canary"),
            against=table.version("control"),
            outcome=_of(history, self.started)[-1].outcome,
            started_at=self.started.at,
            until=max(self.started.at, evidence.clock),
            exposed=self._observation.guardrails.canary_users,
            complete=complete,
            users=said(all_users),
            tenants={name: said(each) for name, each in heard.items()} if len(heard) > 1 else {},
        )


def _started(history: History, version: str | None) -> Decision:
    found = [d for d in history.decisions if d.outcome == "started" and version in (None, d.version)]
    if found:
        return found[-1]
    what = "no canary began yet" if version is None else f"no canary of {version!r} began"
    raise NoRelease(f"{what}, as far as the last {len(history.decisions)} decisions tell")


def _of(history: History, started: Decision) -> list[Decision]:
    """The decisions about the version from its start on."""
    return [d for d in history.decisions if d.number >= started.number and d.version == started.version]


def said(heard: Heard, alpha: float = 0.05) -> Said:
    """Means and intervals. alpha: the chance that an interval ever leaves the truth out."""
    preferences, thumbs = heard.given_preferences().gains, heard.given_thumbs().gains
    share = interval(preferences, alpha)
    return Said(
        compared=preferences.size,
        preferred=float(preferences.mean() + 1) / 2 if preferences.size else None,
        preferred_interval=Interval(*((end + 1) / 2 for end in share)) if preferences.size else None,
        matched=thumbs.size,
        thumbs=float(thumbs.mean()) if thumbs.size else None,
        thumbs_interval=interval(thumbs, alpha) if thumbs.size else None,
    )
