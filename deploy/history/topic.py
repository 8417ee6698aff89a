"""The releases topic as a controller reads and writes it: each decision is read back before the next one."""

import logging
import time
from collections.abc import Callable, Sequence

from deploy.history.releases import Decision, History, entry, parse
from feedback.core.events import RELEASES
from feedback.core.log import EventLog, LogUnavailable, Record
from feedback.core.replay import replay

CONFIRM_SECONDS = 5.0
"""How long `append` waits until a decision is back from the log."""

REPLAY_SECONDS = 30.0
"""How long nothing may arrive before the end of the log."""

logger = logging.getLogger(__name__)


class Overtaken(Exception):
    """A decision does not count, or was not made, because another controller was first or leads now."""


class Topic:
    """The history of releases, and the one place that adds to it.

    `history` is what the log says and nothing else. `pending` is a decision that was appended and has not
    come back yet: with Kafka it may lie in the outbox. It may count, so nothing is decided on top of it.
    `made` is told of each decision of this process that counts.
    """

    def __init__(
        self, log: EventLog, made: Callable[[Decision], None], confirm_seconds: float = CONFIRM_SECONDS
    ) -> None:
        self.history = History()
        self.pending: Decision | None = None
        self._log = log
        self._made = made
        self._confirm_seconds = confirm_seconds
        self._is_replayed = False
        self._cursor: dict[str, int] = {}
        self._arrived: list[Record] = []  # before that cursor, and not taken in yet

    def wait(self, seconds: float) -> None:
        """Wait for the next record, at most `seconds`. Raises `LogError`."""
        if not self._arrived:
            self._arrived, self._cursor = self._log.read([RELEASES], self._cursor, wait_seconds=seconds)

    def follow(self) -> None:
        """Take in news; the first time, all of it. Raises `LogError`, and `Overtaken` about `pending`."""
        if not self._is_replayed:
            self.replay()
            self._is_replayed = True
        if not self._arrived:
            self.wait(0.0)
        self._take_arrived()

    def replay(self) -> None:
        """Take in everything that is in the log by now. Raises as `follow` does."""
        self._take_arrived()
        for records, cursor in replay(self._log, [RELEASES], self._cursor, REPLAY_SECONDS):
            self._cursor = cursor
            self._take(records)

    def append(self, decision: Decision) -> None:
        """Make a decision durable, and return when it counts.

        Raises `Overtaken` when it does not, and `LogUnavailable` when it is not known yet: see `pending`.
        """
        self._log.append([entry(decision)]).result()
        self.pending = decision
        deadline = time.monotonic() + self._confirm_seconds
        while self.pending is not None:
            if (left := deadline - time.monotonic()) <= 0:
                raise LogUnavailable(f"decision {decision.number} has not come back from the log yet")
            self.wait(left)
            self._take_arrived()

    def _take_arrived(self) -> None:
        records, self._arrived = self._arrived, []
        self._take(records)

    def _take(self, records: Sequence[Record]) -> None:
        """Apply records; raise `Overtaken` after all of them."""
        overtaken = None
        for record in records:
            event = parse(record.value)
            if event is None:
                continue
            counts = self.history.apply(event, record.value)
            if self.pending is not None and event.event_id == self.pending.event_id:
                ours, self.pending = self.pending, None
                if counts:
                    self._made(ours)
                else:
                    overtaken = Overtaken(f"decision {ours.number} does not count, another controller's does")
        if overtaken is not None:
            raise overtaken
