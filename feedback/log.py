"""The one interface to the durable log, and the two types that cross it."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol

Cursor = Mapping[str, int]
"""Where a reader stands: "topic/partition" -> the next offset to read; a missing entry is the beginning."""


class LogError(Exception):
    """The log could not do what was asked."""


class LogUnavailable(LogError):
    """The local log cannot be written (disk full, read-only). Nothing was acknowledged; callers answer 503."""


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

    def close(self) -> None:
        """Finish what was handed over, then stop."""
        ...
