"""How learning goes, for an operator: votes as receipts count them, and the learner's steps from the log.

Steps lie in the topic in which updates name the votes that they used, so there is more to read than is shown.
It is read while somebody looks, in slices with rests between them: tokens that stream through this gateway
come first. What was read once is kept.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from deploy.history.releases import Decision
from deploy.reports.lately import DAY_SECONDS, lately
from deploy.reports.opinions import known, newest
from deploy.reports.plain_words import Votes, counted_from, in_words
from deploy.reports.timeline import spans
from feedback.core.events import UPDATES
from feedback.core.log import EventLog, LogUnavailable, reached
from feedback.updates.series import MOST_STEPS, StepFold
from serve.receipts.reader import Receipts
from serve.releases.decisions import KEPT

Json = dict[str, Any]

SLICE = 200
"""Records that are read in one go."""

REST = 3.0
"""A reading rests so many times as long as it worked."""

PATIENCE_SECONDS = 2.0
"""How long a look may read on before it answers with what there is, and wait for the log's end."""


class Learning:
    """Answers from a gateway's read model of votes, and from the steps in the log. patience_seconds: how long
    a look may read on."""

    def __init__(
        self, events: EventLog, receipts: Receipts, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._events = events
        self._patience_seconds = patience_seconds
        self._receipts = receipts
        self._fold = StepFold(most=MOST_STEPS)
        self._cursor: dict[str, int] = {}
        self._one_at_a_time = asyncio.Lock()

    async def told(self, state: Json, decisions: Sequence[Decision], *, decides: bool) -> Json:
        """state, decisions: as `serve.releases.decisions.Decisions.look` gives them, the state with the
        evidence.
        decides: whether a controller is there. Raises `LogError`.
        """
        now = time.time()
        votes, recent = await self._votes(counted_from(now), now - DAY_SECONDS)
        complete = recent.complete and (len(decisions) < KEPT or decisions[0].at < recent.since)
        opinions = known(decisions, state, now)
        return {
            "object": "learning",
            **in_words(votes, state, newest(opinions), decides=decides),
            "lately": lately(recent.count, decisions, now, complete=complete),
            "votes": asdict(votes),
            "lag": await asyncio.to_thread(self._receipts.store.behind),
            "stages": [asdict(span) for span in spans(decisions)],
            "opinions": [each.told() for each in opinions],
            "steps": await self._steps(),
        }

    async def _votes(self, *times: float) -> list[Votes]:
        """The votes since each of some times."""
        try:
            await self._receipts.caught_up()
            complete = True
        except LogUnavailable:
            complete = False
        votes_since = self._receipts.store.votes_since
        return [Votes(await asyncio.to_thread(votes_since, since), since, complete) for since in times]

    async def _steps(self) -> Json:
        async with self._one_at_a_time:
            complete = await self._read_on()
            return await asyncio.to_thread(self._fold.told) | {"complete": complete}

    async def _read_on(self) -> bool:
        """Read a slice, and more while patience lasts. True when all that was in the log was read."""
        until = time.monotonic() + self._patience_seconds
        end = await asyncio.to_thread(self._events.end, [UPDATES], PATIENCE_SECONDS)
        while not reached(self._cursor, end):
            began = time.monotonic()
            await asyncio.to_thread(self._read_slice)
            await asyncio.sleep(REST * (time.monotonic() - began))
            if time.monotonic() >= until:
                break
        return reached(self._cursor, end)

    def _read_slice(self) -> None:
        records, self._cursor = self._events.read([UPDATES], self._cursor, SLICE)
        for record in records:
            self._fold.take(record)
