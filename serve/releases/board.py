"""What operators see: where releases stand and why, and how learning goes."""

import asyncio
from typing import Any

from deploy.history.holds import holds
from deploy.history.notice import NOTICE_SECONDS, read_notice
from deploy.reports.status import told
from feedback.core.log import EventLog, LogError
from feedback.shared import SharedStore
from serve.http.errors import Unavailable
from serve.receipts.reader import Receipts
from serve.releases.decisions import KEPT, Decisions
from serve.releases.learning import Learning

Json = dict[str, Any]


class Board:
    """Answers from the log and from what controller and gateways tell in the shared store. All raise
    `Unavailable` while the log is away."""

    def __init__(self, events: EventLog, shared: SharedStore, receipts: Receipts) -> None:
        self._shared = shared
        self._decisions = Decisions(events)
        self._learning = Learning(events, receipts)

    async def release(self, limit: int, before: int | None = None, after: int = 0) -> Json:
        """Where releases stand, why, and at most `limit` decisions, the newest last: of those with a number
        above `after` and below `before`."""
        try:
            release, state, decisions = await self._decisions.look(limit + 1, before)
        except LogError as error:
            raise log_away("read") from error
        notice = await asyncio.to_thread(read_notice, self._shared)
        del state["decisions"]  # the history has them
        if notice is None:
            why = holds(release) if release is not None else []
            why.append(f"No controller has told for {NOTICE_SECONDS:g} s why nothing more happens.")
        else:
            state |= {"evidence": notice.evidence, "guardrails": notice.guardrails}
            why = notice.why
        page = [told(decision) for decision in decisions[-limit:] if decision.number > after]
        return {
            "object": "release",
            "state": state,
            "why": why,
            "told_at": None if notice is None else notice.at,
            "history": {"object": "list", "data": page, "has_more": len(decisions) > limit},
        }

    async def learning(self) -> Json:
        """How learning goes in words, what users said of versions, and the learner's steps as series."""
        try:
            _, state, decisions = await self._decisions.look(KEPT, None)
            notice = await asyncio.to_thread(read_notice, self._shared)
            if notice is not None:
                state["evidence"] = notice.evidence
            return await self._learning.told(state, decisions, decides=notice is not None)
        except LogError as error:
            raise log_away("read") from error


def log_away(done: str) -> Unavailable:
    """What a client hears while the log is away. done: read or written."""
    return Unavailable(f"The log cannot be {done} at the moment.", code="log_unavailable")
