"""The embedded log: one SQLite file that all processes of a machine append to and read from.

With Kafka the same file is a process's outbox, whose oldest entries `discard` drops once they are relayed.
"""

import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import NamedTuple

from feedback.log import Cursor, Entry, LogError, LogUnavailable, Record
from feedback.sqlite_file import connect, die, is_io_error, is_unwritable

logger = logging.getLogger(__name__)

MAX_VALUE_BYTES = 8 * 1024 * 1024
_POLL_SECONDS = 0.02  # how late a reader notices what another process wrote
_GROUP = 1000  # jobs in one transaction
_IDLE_READERS = 4

# `id` is the order of arrival over all topics. AUTOINCREMENT: ids go on after the last row is discarded.
_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS heads (topic TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, offset INTEGER NOT NULL,
    key TEXT NOT NULL, value BLOB NOT NULL, at REAL NOT NULL, UNIQUE (topic, offset));
CREATE TABLE IF NOT EXISTS refused (
    id INTEGER PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
    at REAL NOT NULL, reason TEXT NOT NULL);
COMMIT;
"""
_NEXT_OFFSET = """
INSERT INTO heads (topic, next) VALUES (?, 1)
ON CONFLICT (topic) DO UPDATE SET next = next + 1 RETURNING next - 1
"""
_INSERT = "INSERT INTO records (topic, offset, key, value, at) VALUES (?, ?, ?, ?, ?)"
_TOPIC_IDS = "SELECT * FROM (SELECT id FROM records WHERE topic = ? AND offset >= ? ORDER BY offset LIMIT ?)"

Job = Callable[[sqlite3.Connection], None]


class Stored(NamedTuple):
    """An entry in the file. `at` is Unix time in seconds when it was appended."""

    id: int
    entry: Entry
    at: float


class SqliteLog:
    """An `EventLog` in one SQLite file (WAL, synchronous=FULL), safe for several processes and threads.

    One thread per process writes: what waits when it comes round goes into one transaction and one fsync.
    Offsets of a topic start at 0 without gaps; the partition is always 0. An I/O error ends the process.
    Raises `LogUnavailable` when the file cannot be opened for writing. `busy_seconds`: how long to wait
    for another process that holds the write lock.
    """

    def __init__(self, path: Path, *, busy_seconds: float = 30.0) -> None:
        self.path = path
        self._busy_seconds = busy_seconds
        self._jobs: queue.SimpleQueue[tuple[Future[None], Job] | None] = queue.SimpleQueue()
        self._committed = threading.Condition()
        self._written = 0  # transactions of this process
        self._lock = threading.Lock()  # guards the two below
        self._closed = False
        self._readers: list[sqlite3.Connection] = []
        try:
            connection = self._connect()
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'refused'").fetchone():
                connection.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise LogUnavailable(f"cannot open the log {path} for writing: {error}") from error
        self._writer = threading.Thread(
            target=self._write_groups, args=(connection,), name=f"log-{path.stem}", daemon=True
        )
        self._writer.start()

    def _connect(self) -> sqlite3.Connection:
        return connect(self.path, synchronous="FULL", busy_seconds=self._busy_seconds)

    # Writing

    def append(self, entries: Sequence[Entry]) -> "Future[None]":
        """See `EventLog.append`. Raises `ValueError` for an entry that no log could hold."""
        for entry in entries:
            _check(entry)
        return self._submit(partial(_insert, entries=tuple(entries)))

    def discard(self, through: int) -> "Future[None]":
        """Drop every entry up to and with the id `through`. Offsets are never used again."""
        return self._submit(partial(_discard, through=through))

    def set_aside(self, stored: Stored, reason: str) -> "Future[None]":
        """Move an entry that can never be relayed to the table `refused`, where an operator finds it."""
        return self._submit(partial(_set_aside, stored=stored, reason=reason))

    def _submit(self, job: Job) -> "Future[None]":
        future: Future[None] = Future()
        # What was handed over cannot be taken back: a caller that stops waiting does not undo the append.
        future.set_running_or_notify_cancel()
        with self._lock:
            if not self._closed:
                self._jobs.put((future, job))
                return future
        future.set_exception(LogUnavailable(f"the log {self.path} is closed"))
        return future

    def _write_groups(self, connection: sqlite3.Connection) -> None:
        with contextlib.closing(connection):
            for group in self._groups():
                error = self._commit(connection, [job for _, job in group])
                for future, _ in group:
                    if error is None:
                        future.set_result(None)
                    else:
                        future.set_exception(error)
                with self._committed:
                    self._written += 1
                    self._committed.notify_all()

    def _groups(self) -> Iterator[list[tuple["Future[None]", Job]]]:
        """All jobs that wait, at most `_GROUP`, again and again until the log is closed."""
        while (job := self._jobs.get()) is not None:
            group = [job]
            with contextlib.suppress(queue.Empty):
                while len(group) < _GROUP and (job := self._jobs.get_nowait()) is not None:
                    group.append(job)
            yield group
            if job is None:
                return

    def _commit(self, connection: sqlite3.Connection, jobs: list[Job]) -> LogError | None:
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                job(connection)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if is_io_error(error) or not _rolled_back(connection):
                die(self.path, error)
            if is_unwritable(error):
                return LogUnavailable(f"cannot write the log {self.path}: {error}")
            logger.exception("the log %s refused a write", self.path)
            return LogError(f"the log {self.path} refused a write: {error}")
        return None

    # Reading

    def read(
        self, topics: Sequence[str], cursor: Cursor, limit: int = 1000, wait_seconds: float = 0.0
    ) -> tuple[list[Record], dict[str, int]]:
        """See `EventLog.read`. Records come in the order of their arrival over all the topics."""
        deadline = time.monotonic() + wait_seconds
        after = dict(cursor)
        with self._reader() as connection:
            version = _data_version(connection)
            records = _select(connection, topics, cursor, limit)
            while not records and (left := deadline - time.monotonic()) > 0:
                with self._committed:
                    self._committed.wait(min(left, _POLL_SECONDS))
                if (seen := _data_version(connection)) != version:
                    version = seen
                    records = _select(connection, topics, cursor, limit)
        for record in records:
            after[f"{record.topic}/0"] = record.offset + 1
        return records, after

    def end(self, topics: Sequence[str], wait_seconds: float = 0.0) -> dict[str, int]:
        """See `EventLog.end`; here there is nothing to wait for."""
        with self._reader() as connection:
            rows = dict(connection.execute("SELECT topic, next FROM heads").fetchall())
        return {f"{topic}/0": rows.get(topic, 0) for topic in topics}

    def oldest(self, limit: int, max_bytes: int, after: int = 0) -> list[Stored]:
        """The oldest entries with ids above `after`: at most `limit`, and `max_bytes` (but one at least)."""
        found: list[Stored] = []
        total = 0
        with self._reader() as connection:
            rows = connection.execute(
                "SELECT id, topic, key, value, at FROM records WHERE id > ? ORDER BY id LIMIT ?",
                (after, limit),
            )
            with contextlib.closing(rows):
                for number, topic, key, value, at in rows:
                    total += len(value)
                    if found and total > max_bytes:
                        break
                    found.append(Stored(number, Entry(topic, key, value), at))
        return found

    def span(self) -> tuple[int, int] | None:
        """The lowest and the highest id in the file, or None when it is empty."""
        with self._reader() as connection:
            first, last = connection.execute("SELECT min(id), max(id) FROM records").fetchone()
        return None if first is None else (first, last)

    def backlog(self) -> tuple[int, float]:
        """How many entries the file holds, and the age of the oldest in seconds (0.0 when there is none)."""
        span = self.span()
        oldest = self.oldest(limit=1, max_bytes=0)
        if span is None or not oldest:
            return 0, 0.0
        return span[1] - span[0] + 1, max(0.0, time.time() - oldest[0].at)

    def wait_for_write(self, seen: int, seconds: float) -> int:
        """Wait for this process to write, at most `seconds`.

        `seen` is what the last call gave: with more written since, this returns at once.
        """
        with self._committed:
            self._committed.wait_for(lambda: self._written != seen, seconds)
            return self._written

    @contextlib.contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """A connection of one's own for the time of a read: idle ones are kept."""
        with self._lock:
            if self._closed:
                raise LogError(f"the log {self.path} is closed")
            connection = self._readers.pop() if self._readers else None
        try:
            connection = connection or self._connect()
            yield connection
        except sqlite3.Error as error:
            if is_io_error(error):
                die(self.path, error)
            raise LogError(f"cannot read the log {self.path}: {error}") from error
        finally:
            if connection is not None:
                with self._lock:
                    keep = not self._closed and len(self._readers) < _IDLE_READERS
                    if keep:
                        self._readers.append(connection)
                if not keep:
                    connection.close()

    def close(self) -> None:
        """See `EventLog.close`. Closing twice is allowed."""
        with self._lock:
            self._closed = True
            idle, self._readers = self._readers, []
            self._jobs.put(None)
        for connection in idle:
            connection.close()
        self._writer.join()


def _rolled_back(connection: sqlite3.Connection) -> bool:
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        return False
    return True


def _check(entry: Entry) -> None:
    # Whatever SQLite would choke on must fail here, in the caller, and not for a whole group.
    if not entry.topic:
        raise ValueError("an entry needs a topic, got an empty one")
    (entry.topic + entry.key).encode()  # UnicodeEncodeError, a ValueError, for a lone surrogate
    if len(entry.value) > MAX_VALUE_BYTES:
        raise ValueError(
            f"an entry of {len(entry.value)} bytes for {entry.topic}; at most {MAX_VALUE_BYTES} are allowed"
        )


def _insert(connection: sqlite3.Connection, entries: Sequence[Entry]) -> None:
    now = time.time()
    for topic, key, value in entries:
        (offset,) = connection.execute(_NEXT_OFFSET, (topic,)).fetchone()
        connection.execute(_INSERT, (topic, offset, key, value, now))


def _discard(connection: sqlite3.Connection, through: int) -> None:
    connection.execute("DELETE FROM records WHERE id <= ?", (through,))


def _set_aside(connection: sqlite3.Connection, stored: Stored, reason: str) -> None:
    values = (stored.id, *stored.entry, stored.at, reason)
    connection.execute("INSERT OR REPLACE INTO refused VALUES (?, ?, ?, ?, ?, ?)", values)


def _data_version(connection: sqlite3.Connection) -> int:
    """A number that changes when any other connection, of any process, commits."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def _select(
    connection: sqlite3.Connection, topics: Sequence[str], cursor: Cursor, limit: int
) -> list[Record]:
    if not topics:
        return []
    # Each topic's next ids come from its index alone; values are read only for those that stay.
    ids = " UNION ALL ".join([_TOPIC_IDS] * len(topics))
    bounds = [v for topic in topics for v in (topic, cursor.get(f"{topic}/0", 0), limit)]
    query = (
        f"SELECT topic, 0, offset, key, value FROM records"
        f" WHERE id IN (SELECT id FROM ({ids}) ORDER BY id LIMIT ?) ORDER BY id"
    )
    return [Record(*row) for row in connection.execute(query, (*bounds, limit))]
