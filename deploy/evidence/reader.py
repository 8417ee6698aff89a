"""Reads completions and votes from the log for a fold, in pieces, and keeps what it has not read from being
deleted.
"""

from typing import Generic, Protocol, TypeVar

from deploy.history.digests import Digests
from feedback.core.events import COMPLETIONS, FEEDBACK
from feedback.core.log import Cursor, EventLog, Record, reached

TOPICS = (COMPLETIONS, FEEDBACK)

READS = 20
"""At a time, so that an operator's command does not wait for a long catching up."""


class Fold(Protocol):
    """What records are read for."""

    def feed(self, records: list[Record]) -> None:
        """Take in the next ones."""
        ...


F = TypeVar("F", bound=Fold)


class EvidenceReader(Generic[F]):
    """Reads from a cursor on for a fold. name: of the hold on the log. `read` raises `LogError`."""

    def __init__(self, log: EventLog, name: str, cursor: Cursor, fold: F, wait_seconds: float) -> None:
        self.fold = fold
        self.cursor = dict(cursor)
        self.digests = Digests()  # of all that was read
        self.is_at_end = False  # of the log, as far as it was known at the last reading
        self._log = log
        self._wait_seconds = wait_seconds
        log.hold(name, self.cursor)

    def read(self) -> bool:
        """Read on. True when everything in the log by now was taken in."""
        end = self._log.end(TOPICS, wait_seconds=self._wait_seconds)
        for _ in range(READS):
            if reached(self.cursor, end):
                break
            records, self.cursor = self._log.read(TOPICS, self.cursor)
            self.digests.take(records)
            self.fold.feed(records)
        self.is_at_end = reached(self.cursor, end)
        return self.is_at_end
