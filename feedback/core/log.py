"""The one interface to the durable log, and the two types that cross it."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol

Cursor = Mapping[str, int]
"""Where a reader stands: "topic/partition" -> the next offset to read; a missing entry is the beginning."""


def reached(cursor: Cursor, end: Cursor) -> bool:
    """Whether everything before `end` lies before `cursor`."""
    return all(cursor.get(place, 0) >= offset for place, offset in end.items())


class LogError(Exception):
    """The log could not do what was asked."""


class LogUnavailable(LogError):
    """The log cannot do it now (disk full, broker away). Nothing was acknowledged; callers answer 503."""


class Place(NamedTuple):
    """Where a record lies."""

    topic: str
    partition: int
    offset: int


class Entry(NamedTuple):
    """What a writer hands over. Entries of one `key` keep their order."""

    topic: str
    key: str
    value: bytes


class Record(NamedTuple):
    """What a reader gets back."""

    topic: str
    partition: int
    offset: int
    key: str
    value: bytes


class EventLog(Protocol):
    """An append-only log of topics. At least once: readers deduplicate by event id."""

    def append(self, entries: Sequence[Entry]) -> "Future[None]":
        """Hand over entries, all or none of which become durable.

        The future resolves once they are on disk, and fails with `LogUnavailable` when they are not.
        Async callers await `asyncio.wrap_future(...)`; others call `.result()`.
        """
        ...

    def read(
        self, topics: Sequence[str], cursor: Cursor, limit: int = 1000, wait_seconds: float = 0.0
    ) -> tuple[list[Record], dict[str, int]]:
        """Records at or after `cursor`, at most `limit`, and the cursor after them.

        With nothing new it waits up to `wait_seconds` for the first record, then answers an empty list.
        """
        ...

    def fetch(self, places: Sequence[Place], wait_seconds: float = 0.0) -> list[Record | None]:
        """The records at some places, in their order; None where nothing lies (any more).

        Raises `LogUnavailable` when that is not known within `wait_seconds`.
        """
        ...

    def end(self, topics: Sequence[str], wait_seconds: float = 0.0) -> dict[str, int]:
        """The cursor after everything that is in the log now, this process's own appends included.

        An empty answer from `read` may also mean that a broker is away, so a process that rebuilds its state
        at start reads until it has reached this cursor. Raises `LogUnavailable` when it is not known
        within `wait_seconds`.
        """
        ...

    def behind(self, topics: Sequence[str], cursor: Cursor) -> tuple[int, float]:
        """How many records a reader at `cursor` has not read, and the age of the oldest of them in seconds.

        As far as that is known without asking a broker.
        """
        ...

    def hold(self, reader: str, cursor: Cursor) -> "Future[None]":
        """Keep what lies at or after `cursor`, whatever its age: `reader` may read it again.

        Only the embedded log asks; a broker deletes by its own settings.
        """
        ...

    def release_hold(self, reader: str) -> "Future[None]":
        """Keep nothing for `reader` any more."""
        ...

    def bury(self, reader: str, record: Record, reason: str) -> "Future[None]":
        """Keep a record that `reader` cannot use among the dead letters, where an operator finds it and why.

        They are in the table `dead_letters` of this process's file.
        """
        ...

    def stamp(self) -> int:
        """The time in microseconds since 1970 for the next event of this process, at least.

        Always later than the one before and than every event that this process's file has held: it goes on
        rising when the clock is put back, also over a restart.
        """
        ...

    def close(self) -> None:
        """Finish what was handed over, then stop."""
        ...
