"""Tells the controller which versions this gateway still needs: those of its table and of its requests."""

import asyncio
import contextlib
import logging
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from deploy import leases
from deploy.table import RoutingTable
from feedback.events import BASE
from feedback.shared import SharedStore, SharedUnavailable

log = logging.getLogger(__name__)


class Leases:
    """This gateway's lease, under a name of its own.

    A store that is away costs nothing here: requests go on, and a controller that sees no lease waits
    for longer than any request takes.
    """

    def __init__(self, shared: SharedStore) -> None:
        self._shared = shared
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

    async def hold(self, *tables: RoutingTable) -> None:
        """Hold the versions of these tables from now on, and only theirs but for requests in flight.

        The first of several is the one in force.
        """
        self._tables = frozenset().union(*(table.adapters for table in tables))
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
        versions = (self._tables | set(self._in_flight)) - {BASE}
        try:
            await asyncio.to_thread(leases.write, self._shared, self._name, versions, self._epoch)
        except SharedUnavailable as error:
            if not self._away:
                log.warning("the lease on %d versions cannot be written: %s", len(versions), error)
            self._away = True
        else:
            self._away = False
