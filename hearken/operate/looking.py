"""What the log says of how learning goes, in words, for whoever looks from the command line."""

import time
from dataclasses import asdict
from typing import Any

from deploy.history.releases import History
from deploy.reports.opinions import known, newest
from deploy.reports.plain_words import Votes, counted_from, in_words
from feedback.core.events import FEEDBACK
from feedback.core.log import EventLog, reached
from hearken.story import log as story_log


def learning(
    log: EventLog, history: History, told: dict[str, Any], patience_seconds: float
) -> dict[str, Any]:
    """As `deploy.reports.plain_words.in_words`. told: the summary of `history`
    (`deploy.reports.status.summary`), with the evidence of the release under way.

    Votes are read for `patience_seconds` at most. Raises `LogError`.
    """
    now = time.time()
    votes = count_votes(log, history, counted_from(now), now, patience_seconds)
    words = in_words(votes, told, newest(known(history.decisions, told, now)))
    return words | {"votes": asdict(votes)}


def count_votes(log: EventLog, history: History, since: float, now: float, patience_seconds: float) -> Votes:
    """How many votes came since a Unix time, as far as the log is read in `patience_seconds`. Retractions and
    signals are none."""
    start = story_log.votes_cursor(history, since)
    after = {place: offset for place, offset in start.items() if place.startswith(FEEDBACK)}
    until, end = time.monotonic() + patience_seconds, log.end([FEEDBACK], patience_seconds)
    votes = story_log.Votes(since, now)
    while not reached(after, end) and time.monotonic() < until:
        records, after = log.read([FEEDBACK], after)
        votes.feed(records)
    return Votes(len(votes.times), since, reached(after, end))
