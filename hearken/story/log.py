"""Reads the story of a run from the log: decisions, candidates, steps and votes, each once."""

import math
import time
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from deploy.history.releases import Candidate, Decision, History, parse
from deploy.reports.ab_report import Trial
from deploy.reports.running import read_on
from feedback.core.events import BASE, FEEDBACK, RELEASES, UPDATES
from feedback.core.log import Cursor, EventLog, Record
from feedback.core.replay import replay
from feedback.updates.series import StepFold
from hearken.story.series import Story, begins

ALL = 1_000_000
"""More decisions than a service makes in its life."""
MOST_RELEASES = 10
"""Releases whose votes are counted, the newest: each one reads all votes since it began."""


class Votes:
    """When each vote came first, by the server's clock. Retractions and signals are none.

    A changed vote is one.
    """

    def __init__(self, since: float, until: float) -> None:
        self.times = array("d")
        self.first = math.inf  # when the first vote was that was seen, of whatever time
        self._since, self._until = since, until
        self._seen: set[str] = set()

    def feed(self, records: Sequence[Record]) -> None:
        """Take in records of the log."""
        for record in records:
            if record.topic != FEEDBACK or (event := _vote(record.value)) is None:
                continue
            name, at = event
            self.first = min(self.first, at)
            if self._since <= at <= self._until and name not in self._seen:
                self._seen.add(name)
                self.times.append(at)


def _vote(value: bytes) -> tuple[str, float] | None:
    """The id and time of a vote; None for a retraction, for what people did (a signal), and for no vote."""
    try:
        event: Any = orjson.loads(value)
        if event["kind"] in ("retraction", "signal"):
            return None
        return str(event["event_id"]), float(event["at"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None


def read_story(log: EventLog, since: float | None, patience_seconds: float) -> Story:
    """What happened from a Unix time on until now; None: since the log began, before which no story begins.

    Decisions, candidates and steps are read to the log's end, votes for `patience_seconds` at most. Raises
    `LogError`.
    """
    until, begin = time.time(), -math.inf if since is None else since
    history, candidates, fold = History(ALL), dict[str, Candidate](), StepFold(begin, until)
    for records, _ in replay(log, [RELEASES, UPDATES], {}, patience_seconds):
        for record in records:
            if record.topic == RELEASES:
                event = parse(record.value)
                if event is not None:
                    history.apply(event)
                if isinstance(event, Candidate):
                    candidates.setdefault(event.version, event)
            else:
                fold.take(record)
    decisions = [each for each in history.decisions if begin <= each.at <= until]
    began = [each for each in decisions if each.outcome == "started"]
    trials, votes = [Trial(each) for each in began[-MOST_RELEASES:]], Votes(begin, until)

    def feed(records: Sequence[Record]) -> None:
        votes.feed(records)
        for trial in trials:
            trial.feed(records)

    cursors = [votes_cursor(history, begin), *(trial.cursor for trial in trials)]
    _, complete = read_on(log, earliest(cursors), feed, patience_seconds)
    releases = [each.at for each in (*candidates.values(), *history.decisions)]
    return Story(
        since=begins(since, (fold.first, votes.first, *releases), until),
        until=until,
        live=BASE if history.state is None else history.state.table.live,
        decisions=decisions,
        candidates=list(candidates.values()),
        steps=fold,
        votes=votes.times,
        reports=[trial.report(history, complete=complete) for trial in trials],
        unreported=len(began) - len(trials),
        complete=complete,
    )


def votes_cursor(history: History, since: float) -> Cursor:
    """Where no vote since a time lies before: how far votes were read for the last decision before it."""
    before: list[Decision] = [each for each in history.decisions if each.at <= since and each.cursor]
    return before[-1].cursor if before else {}


def earliest(cursors: Sequence[Cursor]) -> Mapping[str, int]:
    """A cursor before which nothing lies that any of these would read: the log's beginning where they are not
    of the same topics (see `feedback.core.losses` for what else is in a cursor)."""
    first = cursors[0]
    if any(each.keys() != first.keys() for each in cursors):
        return {}
    if any(each[name] != first[name] for each in cursors for name in first if name.endswith("#")):
        return {}
    return {name: min(each[name] for each in cursors) for name in first}
