"""The history of releases as operators read it: again and again, so what was read once is kept."""

import asyncio
from typing import Any

from deploy.history.releases import Candidate, Decision, History, parse, read_history
from deploy.history.states import ReleaseState
from deploy.reports.lately import line_of
from deploy.reports.status import summary
from feedback.core.events import RELEASES
from feedback.core.log import EventLog
from feedback.core.replay import replay

KEPT = 200
"""Decisions kept in memory, the newest. For older ones the topic is read anew, from its beginning."""

LINE = 20
"""Versions of the line that live grew from, the newest; `hearken report` has all of it."""

PATIENCE_SECONDS = 5.0
"""How long nothing may arrive before the end of the log."""


class Decisions:
    """Follows the `releases` topic from one look to the next.

    A page that an operator leaves open looks every second. A topic of years would be read as often otherwise.
    """

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._history = History(remembered=KEPT)
        self._parents: dict[str, str | None] = {}  # of every version that was offered
        self._cursor: dict[str, int] = {}
        self._one_at_a_time = asyncio.Lock()  # those who wait hold no thread, also while the log is away

    async def look(
        self, limit: int, before: int | None
    ) -> tuple[ReleaseState | None, dict[str, Any], list[Decision]]:
        """The state, its summary (`deploy.reports.status.summary`), and at most `limit` decisions, oldest
        first: the newest, or those with a number below `before`. The summary has the line that live grew from
        as `lineage`, the oldest first.

        Raises `LogError`.
        """
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._look, limit, before)

    def _look(
        self, limit: int, before: int | None
    ) -> tuple[ReleaseState | None, dict[str, Any], list[Decision]]:
        self._follow()
        kept = list(self._history.decisions)
        page = [each for each in kept if before is None or each.number < before][-limit:]
        if len(page) < limit and len(kept) == KEPT:  # there may be older ones
            page = list(read_history(self._events, limit, PATIENCE_SECONDS, before).decisions)
        told = summary(self._history, 0)
        if told["live"] is not None:
            told["lineage"] = line_of(told["live"], self._parents)[-LINE:]
        return self._history.state, told, page

    def _follow(self) -> None:
        for records, cursor in replay(self._events, [RELEASES], self._cursor, PATIENCE_SECONDS):
            for record in records:
                event = parse(record.value)
                if isinstance(event, Candidate):
                    self._parents[event.version] = event.parent
                if event is not None:
                    self._history.apply(event)
            self._cursor = cursor
