"""Finds where a conversation went before, and remembers where it goes: the shell around
`serve.routing.placing`."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from typing import TypeVar

from feedback.core.ids import Signer
from serve.engines.pool import Fleet
from serve.generation.generation import Generation
from serve.generation.requests import ChatRequest
from serve.metrics import Metrics
from serve.routing.following import TableFollower
from serve.routing.leases import Leases
from serve.routing.marks import Marks, MarksUnavailable
from serve.routing.placing import Place, answers_of, draw, go_on, table_versions

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_ANSWERS = 8
"""Answers of one request that are remembered: people go on from one."""

_AWAY_SECONDS = 1.0  # how long the store is left alone after it did not answer


class Conversations:
    """Gives each turn of a conversation its place.

    A store that is away fails no chat: users go where the table sends them, and a conversation without a user
    is drawn anew. `hearken_conversations_unavailable_total` counts that.
    """

    def __init__(
        self,
        signer: Signer,
        marks: Marks,
        follower: TableFollower,
        fleet: Fleet,
        leases: Leases,
        metrics: Metrics,
    ) -> None:
        self._signer = signer
        self._marks = marks
        self._follower = follower
        self._fleet = fleet
        self._leases = leases
        self._metrics = metrics
        self._away_until = 0.0

    async def place(self, tenant: str, user: str, asked: ChatRequest) -> Place:
        """Where a turn goes. user: whose it is (a pseudonym), also where it names no user."""
        named = user if asked.user else None
        answers = answers_of(asked.messages)
        names = self._names(tenant, named, asked.episode_id, answers)
        record = await self._ask(self._marks.first, tenant, names) if names else None
        table = self._follower.table
        if record is None:
            self._metrics.turns.labels("unknown" if answers else "first").inc()
            return draw(table, named, self._unit(tenant, asked.episode_id))
        known = Place.of_record(record)
        place = go_on(known, table, table_versions(table) | self._former())
        self._metrics.turns.labels("kept" if place is known else "moved").inc()
        return place

    async def note(self, generation: Generation) -> None:
        """Remember the place of a conversation by its newest answers."""
        asked, route = generation.asked, generation.route
        said = generation.transcript.said[:MOST_ANSWERS]
        newest = [answers_of([*asked.messages, message])[0] for message in said]
        tenant, named = route.caller.tenant, route.user if asked.user else None
        names = self._names(tenant, named, asked.episode_id, list(dict.fromkeys(newest)))
        if names:
            evicted = await self._ask(self._marks.put, tenant, names, route.place.record())
            self._metrics.conversations_evicted.inc(evicted or 0)
            # After the mark was put, so that the version is held for as long as it.
            self._leases.answered(route.place.version)

    def close(self) -> None:
        """Let go of the store."""
        self._marks.close()

    def _names(self, tenant: str, user: str | None, episode_id: str | None, answers: list[str]) -> list[str]:
        """The marks of a conversation: that of the name that its client gave it, or those of its answers."""
        whose = f"{tenant}\0{user or ''}"
        if episode_id is not None:
            return [self._signer.sign("conversation by name", f"{whose}\0{episode_id}")]
        return [self._signer.sign("conversation by answer", f"{whose}\0{answer}") for answer in answers]

    def _unit(self, tenant: str, episode_id: str | None) -> str:
        """The pseudonym of a conversation that begins: by its name if it has one, so that it stays the same
        whatever becomes of the store."""
        if episode_id is None:
            return "c_" + secrets.token_hex(12)
        return "c_" + self._signer.sign("conversation", f"{tenant}\0{episode_id}")[:24]

    def _former(self) -> set[str]:
        """The versions that were live before, were not taken back, and that an engine still has."""
        return {version for version in self._follower.former if self._fleet.has(version)}

    async def _ask(self, operation: Callable[..., T], *arguments: object) -> T | None:
        """One operation of the store, off the event loop; None when the store is away."""
        if time.monotonic() < self._away_until:
            self._metrics.conversations_unavailable.inc()
            return None
        try:
            return await asyncio.to_thread(operation, *arguments)
        except MarksUnavailable as error:
            log.warning("conversations cannot be recognised: %s", error)
            self._away_until = time.monotonic() + _AWAY_SECONDS
            self._metrics.conversations_unavailable.inc()
            return None
