"""Tells the controller which versions this gateway still needs: those of its table and of its requests."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from deploy.history import leases
from deploy.history.table import RoutingTable
from feedback.core.events import BASE
from feedback.shared import SharedStore, SharedUnavailable

log = logging.getLogger(__name__)


class Leases:
    """This gateway's lease, under a name of its own.

    A store that is away costs nothing here: requests go on, and a controller that sees no lease waits
    for longer than any request takes.

    A version that was live is held while conversations may come back to it: `conversation_seconds` after its
    last answer. A gateway that starts does not know that answer, and holds all of them for as long.
    """

    def __init__(self, shared: SharedStore, conversation_seconds: float) -> None:
        self._shared = shared
        self._conversation_seconds = conversation_seconds
        self._former: frozenset[str] = frozenset()
        self._started = time.monotonic()
        self._answered: dict[str, float] = {}  # when each version gave its last answer (monotonic seconds)
        self._name = secrets.token_hex(8)
        self._tables: frozenset[str] = frozenset()
        self._epoch = 0
        self._in_flight: Counter[str] = Counter()
        self._away = False

    @contextmanager
    def using(self, version: str) -> Iterator[None]:
        """Hold a version while a request of it runs, whatever tables come meanwhile."""
        self._in_flight[version] += 1
        try:
            yield
        finally:
            self._in_flight[version] -= 1
            if not self._in_flight[version]:
                del self._in_flight[version]

    def answered(self, version: str) -> None:
        """Hold a version, if it was live, for `conversation_seconds` from now on: a conversation has it."""
        self._answered[version] = time.monotonic()

    async def hold(self, *tables: RoutingTable, former: Collection[str] = ()) -> None:
        """Hold the versions of these tables from now on, and only theirs but for requests in flight and for
        `former`, which may go on in conversations that they have. The first table is the one in force."""
        self._tables = frozenset().union(*(table.adapters for table in tables))
        self._former = frozenset(former)
        self._epoch = tables[0].epoch
        await self._write()

    async def renew(self) -> None:
        """Write the lease again and again, for ever; at the end give it up."""
        try:
            while True:
                await self._write()
                await asyncio.sleep(leases.RENEW_SECONDS)
        finally:
            with contextlib.suppress(SharedUnavailable):
                leases.give_up(self._shared, self._name)

    async def _write(self) -> None:
        since = time.monotonic() - self._conversation_seconds
        self._answered = {version: at for version, at in self._answered.items() if at > since}
        active = {version for version in self._former if self._answered.get(version, self._started) > since}
        versions = (self._tables | set(self._in_flight) | active) - {BASE}
        try:
            await asyncio.to_thread(leases.write, self._shared, self._name, versions, self._epoch)
        except SharedUnavailable as error:
            if not self._away:
                log.warning("the lease on %d versions cannot be written: %s", len(versions), error)
            self._away = True
        else:
            self._away = False
