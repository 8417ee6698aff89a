"""Follows the routing table: that of the newest decision on the RELEASES topic that counts is in force.

The fold is the controller's own (`deploy.history.releases.History`), so no gateway takes a table that the
controller does not know of. A new table is taken in one assignment. Before it, the lease names its versions
and the engines were asked anew what they have; after it, the table is saved: what users wait for comes first.
"""

import asyncio
import logging
from pathlib import Path

from pydantic import ValidationError

from deploy.history.releases import History, parse
from deploy.history.states import ReleaseState, Shadow
from deploy.history.table import RoutingTable
from feedback.core.events import RELEASES
from feedback.core.files import replace_durably
from feedback.core.log import EventLog, LogError, reached
from serve.engines.pool import Fleet
from serve.metrics import Metrics
from serve.routing.leases import Leases

log = logging.getLogger(__name__)

_WAIT_SECONDS = 0.25  # longest pause inside one read; also the longest that shutting down can take here
_RETRY_SECONDS = 1.0

FORMER_LIVES = 4
"""Newest live versions that conversations may go on with: one keeps its version over three promotions. More
would fill the engines with adapters that nobody new is sent to."""


class TableFollower:
    """Keeps `table` up to date, and `former`: versions that were live and that nobody took back; `shadow`.

    The last table seen is kept in a file, so that a gateway that boots while the log's broker is away
    goes on with the table that it knew, and not with the base model for everyone. Until the log was read to
    where it ended, only a higher epoch takes its place; then the log is right, whatever the file said.
    """

    def __init__(self, events: EventLog, path: Path, fleet: Fleet, leases: Leases, metrics: Metrics) -> None:
        self._events = events
        self._path = path
        self._fleet = fleet
        self._leases = leases
        self._metrics = metrics
        self.table = load_table(path)
        self.former: frozenset[str] = frozenset()
        self.shadow: Shadow | None = (
            None  # of a candidate that answers prompts of users whom it does not serve
        )
        metrics.show_table(self.table)

    async def follow(self) -> None:
        """Read RELEASES from its beginning, for ever."""
        await self._leases.hold(self.table)
        history = History(remembered=1)
        cursor: dict[str, int] = {}
        end: dict[str, int] | None = None  # where the log ended at the beginning; not known yet
        while True:
            try:
                records, cursor = await asyncio.to_thread(
                    self._events.read, [RELEASES], cursor, 1000, _WAIT_SECONDS
                )
            except LogError as error:
                log.warning("cannot follow the routing table, keeping epoch %d: %s", self.table.epoch, error)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            for record in records:
                if (event := parse(record.value)) is not None:
                    history.apply(event)
            end = end if end is not None else await asyncio.to_thread(self._end)
            replayed = end is not None and reached(cursor, end)
            if history.state is None:
                continue
            self.shadow = history.state.shadow if replayed else None
            if self._is_due(history.state.table, replayed):
                await self._take(history.state)
            elif history.state.table == self.table:  # it was saved, and the log is read up to it
                self.former = former_lives(history.state)

    def _end(self) -> dict[str, int] | None:
        """Where the log ends; None where that is not known now, as while much here waits for the broker."""
        try:
            return self._events.end([RELEASES], _WAIT_SECONDS)
        except LogError:
            return None

    def _is_due(self, table: RoutingTable, replayed: bool) -> bool:
        return table != self.table if replayed else table.epoch > self.table.epoch

    async def _take(self, state: ReleaseState) -> None:
        table, former = state.table, former_lives(state)
        # Together: neither waits for the other. Both tables are held until the new one is in force.
        await asyncio.gather(
            self._leases.hold(self.table, table, former=self.former | former),
            self._fleet.look_for(table.adapters),
        )
        self.table, self.former = table, former
        self._metrics.show_table(table)
        await asyncio.gather(
            self._leases.hold(table, former=former), asyncio.to_thread(save_table, self._path, table)
        )
        log.info("routing table %d is in force: %s", table.epoch, table)


def former_lives(state: ReleaseState) -> frozenset[str]:
    """The versions that conversations may go on with: a rollback takes a version out of `lives`."""
    return frozenset(state.lives[-FORMER_LIVES:])


def load_table(path: Path) -> RoutingTable:
    """The saved table; without one, or when it cannot be read as a table, the base model for everyone."""
    try:
        return RoutingTable.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return RoutingTable()
    except ValidationError as error:
        log.warning("%s is not a routing table, starting without it: %s", path, error)
        return RoutingTable()


def save_table(path: Path, table: RoutingTable) -> None:
    """Replace the saved table in one rename; a crash leaves the old one or the new one."""
    replace_durably(path, table.model_dump_json().encode())
