"""The embedded log: one SQLite file that all processes of a machine append to and read from.

With Kafka the same file is a process's outbox, whose oldest entries `discard` drops once they are relayed.
"""

import contextlib
import logging
import math
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import NoReturn

from feedback.core.log import Cursor, Entry, LogError, LogUnavailable, Place, Record
from feedback.sqlite import rows
from feedback.sqlite.checkpoint import Checkpointer
from feedback.sqlite.file import FILE_ERRORS, connect, die, is_damage, is_io_error, is_unwritable
from feedback.sqlite.guard import Guard
from feedback.sqlite.rows import Stored
from feedback.sqlite.salvage import salvage

logger = logging.getLogger(__name__)

MAX_VALUE_BYTES = 8 * 1024 * 1024
_POLL_SECONDS = 0.1  # how late a reader notices what another process wrote
_GROUP = 1000  # jobs in one transaction
_IDLE_READERS = 4
_BACKLOG = "SELECT min(id), max(id), (SELECT at FROM records ORDER BY id LIMIT 1) FROM records"

Job = Callable[[sqlite3.Connection], object]
_Append = Sequence[Entry]
_Waiting = tuple["Future[None]", Job | _Append]


class SqliteLog:
    """An `EventLog` in one SQLite file (WAL, synchronous=FULL), safe for several processes and threads.

    One thread per process writes: what waits when it comes round goes into one transaction and one fsync.
    Offsets of a topic start at 0 without gaps; the partition is always 0. An I/O error ends the process.
    Raises `LogUnavailable` when the file cannot be opened for writing. `busy_seconds`: how long to wait
    for another process that holds the write lock.
    """

    def __init__(self, path: Path, *, busy_seconds: float = 30.0) -> None:
        self.path = path
        self.damaged = 0  # records that were skipped because their checksum is wrong
        self._busy_seconds = busy_seconds
        self._jobs: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._committed = threading.Condition()
        self._written = 0  # transactions of this process
        self._lock = threading.Lock()  # guards the five below
        self._told: dict[threading.Event, frozenset[str]] = {}  # readers that wait, and for which topics
        self._closed = False
        self._readers: list[sqlite3.Connection] = []
        self._complaints: set[str] = set()
        self._stamp = 0  # microseconds
        try:
            self._guard = Guard(path, salvage)
            try:
                connection = self._opened()
            except BaseException:
                self._guard.leave()
                raise
        except (*FILE_ERRORS, OSError, ValueError) as error:
            raise LogUnavailable(f"cannot open the log {path} for writing: {error}") from error
        self._writer = threading.Thread(
            target=self._write_groups, args=(connection,), name=f"log-{path.stem}", daemon=True
        )
        self._writer.start()

    def _opened(self) -> sqlite3.Connection:
        """A connection for the writer, to a file that is in order: one that is damaged is mended first."""
        self._guard.enter()
        try:
            return self._checked()
        except FILE_ERRORS:
            if not self._guard.is_condemned():
                raise
        self._guard.enter()
        return self._checked()

    def _checked(self) -> sqlite3.Connection:
        connection = None
        try:
            rows.check_header(self.path)
            connection = self._connect()
            rows.prepare(connection)
            rows.check_tail(connection, self._guard.mark())
            self._stamp = math.ceil(rows.latest(connection) * 1e6)
        except FILE_ERRORS as error:
            is_log = self._guard.mark() > 0  # and not some file that never was one
            if is_log and is_damage(error):
                self._guard.condemn(str(error))  # before the connection closes, and with it the -wal
            if connection is not None:
                connection.close()
            raise
        return connection

    def _connect(self) -> sqlite3.Connection:
        connection = connect(self.path, synchronous="FULL", busy_seconds=self._busy_seconds)
        connection.text_factory = rows.text
        return connection

    def stamp(self) -> int:
        """See `EventLog.stamp`."""
        with self._lock:
            self._stamp = max(time.time_ns() // 1000, self._stamp + 1)
            return self._stamp

    # Writing

    def append(self, entries: Sequence[Entry]) -> "Future[None]":
        """See `EventLog.append`. Raises `ValueError` for an entry that no log could hold."""
        for entry in entries:
            # Whatever SQLite would choke on must fail here, in the caller, and not for a whole group.
            if not entry.topic:
                raise ValueError("an entry needs a topic, got an empty one")
            (entry.topic + entry.key).encode()  # UnicodeEncodeError, a ValueError, for a lone surrogate
            if len(entry.value) > MAX_VALUE_BYTES:
                raise ValueError(
                    f"an entry of {len(entry.value)} bytes for {entry.topic}; at most {MAX_VALUE_BYTES} are "
                    "allowed"
                )
        return self._submit(tuple(entries))

    def discard(self, through: int) -> "Future[None]":
        """Drop every entry up to and with the id `through`. Offsets are never used again."""
        return self._submit(partial(rows.discard, through=through))

    def set_aside(self, stored: Stored, reason: str) -> "Future[None]":
        """Move an entry that can never be relayed to the table `refused`, where an operator finds it."""
        return self._submit(partial(rows.set_aside, stored=stored, reason=reason))

    def bury(self, reader: str, record: Record, reason: str) -> "Future[None]":
        """See `EventLog.bury`."""
        return self._submit(partial(rows.bury, reader=reader, record=record, reason=reason[:1000]))

    def hold(self, reader: str, cursor: Cursor) -> "Future[None]":
        """See `EventLog.hold`."""
        return self._submit(partial(rows.hold, reader=reader, cursor=dict(cursor)))

    def release_hold(self, reader: str) -> "Future[None]":
        """See `EventLog.release_hold`."""
        return self._submit(partial(rows.release_hold, reader=reader))

    def prune(self, topic: str, before: float, limit: int) -> int:
        """Delete at most `limit` of a topic's records: older than `before`, and held by no reader.

        How many it were. Raises `LogError`.
        """
        counts: list[int] = []
        self._submit(lambda connection: counts.append(rows.prune(connection, topic, before, limit))).result()
        return counts[0]

    def _submit(self, job: Job | _Append) -> "Future[None]":
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
        connection.execute("PRAGMA wal_autocheckpoint=0")
        checkpointer = Checkpointer(self._connect, f"checkpoint-{self.path.stem}")
        with contextlib.closing(connection), contextlib.closing(checkpointer):
            for group in self._groups():
                error = self._commit(connection, [job for _, job in group])
                for future, _ in group:
                    if error is None:
                        future.set_result(None)
                    else:
                        future.set_exception(error)
                self._tell({entry.topic for _, job in group if not callable(job) for entry in job})
                with self._committed:
                    self._written += 1
                    self._committed.notify_all()
                if error is not None:
                    checkpointer.refused()
                else:
                    self._checkpoint(checkpointer, connection, [job for _, job in group])

    def _groups(self) -> Iterator[list[_Waiting]]:
        """All jobs that wait, at most `_GROUP`, again and again until the log is closed."""
        while (job := self._jobs.get()) is not None:
            group = [job]
            with contextlib.suppress(queue.Empty):
                while len(group) < _GROUP and (job := self._jobs.get_nowait()) is not None:
                    group.append(job)
            yield group
            if job is None:
                return

    def _commit(self, connection: sqlite3.Connection, jobs: list[Job | _Append]) -> LogError | None:
        self._must_be_whole()
        entries = [entry for job in jobs if not callable(job) for entry in job]
        mark = 0
        try:
            connection.execute("BEGIN IMMEDIATE")
            if entries:
                mark = rows.insert(connection, entries, max(time.time(), self._stamp / 1e6))
            for job in jobs:
                if callable(job):
                    job(connection)
            connection.execute("COMMIT")
        except FILE_ERRORS as error:
            if is_damage(error) or isinstance(error, sqlite3.IntegrityError):  # two records at one place
                self._condemn(error)
            if is_io_error(error) or not _rolled_back(connection):
                die(self.path, error)
            if is_unwritable(error):
                return LogUnavailable(f"cannot write the log {self.path}: {error}")
            logger.exception("the log %s refused a write", self.path)
            return LogError(f"the log {self.path} refused a write: {error}")
        if mark:
            self._guard.set_mark(mark)
        return None

    def _checkpoint(
        self, checkpointer: Checkpointer, connection: sqlite3.Connection, jobs: list[Job | _Append]
    ) -> None:
        size = sum(len(entry.value) for job in jobs if not callable(job) for entry in job)
        try:
            checkpointer.committed(connection, size)
        except sqlite3.Error as error:
            if is_damage(error):
                self._condemn(error)
            if is_io_error(error):
                die(self.path, error)
            # A full or a busy disk: what is in the -wal is durable, and the next one may succeed.

    def _must_be_whole(self) -> None:
        """End this process when another one found damage: what it acknowledged from now on would be lost."""
        if self._guard.is_condemned():
            die(self.path, "another process found it damaged; it is mended when it is opened next")

    def _condemn(self, error: Exception) -> NoReturn:
        self._guard.condemn(str(error))
        die(self.path, f"it is damaged ({error}); it is mended when it is opened next")

    # Reading

    def read(
        self, topics: Sequence[str], cursor: Cursor, limit: int = 1000, wait_seconds: float = 0.0
    ) -> tuple[list[Record], dict[str, int]]:
        """See `EventLog.read`. Records come in the order of their arrival over all the topics."""
        deadline = time.monotonic() + wait_seconds
        with self._told_of(topics) as news, self._reader() as connection:
            version = _data_version(connection)
            records, after = self._select(connection, topics, cursor, limit)
            while not records and (left := deadline - time.monotonic()) > 0:
                news.wait(min(left, _POLL_SECONDS))
                news.clear()
                if (seen := _data_version(connection)) != version:
                    version = seen
                    records, after = self._select(connection, topics, after, limit)
                self._must_be_whole()
        return records, after

    def _select(
        self, connection: sqlite3.Connection, topics: Sequence[str], cursor: Cursor, limit: int
    ) -> tuple[list[Record], dict[str, int]]:
        """Good records, and the cursor after them; damaged ones are skipped."""
        after = dict(cursor)
        records, damaged, ends = rows.select(connection, topics, cursor, limit)
        for record in (*records, *damaged):
            place = f"{record.topic}/0"
            after[place] = max(after.get(place, 0), record.offset + 1)
        for topic, end in ends.items():  # beyond the last record where retention deleted all of them
            if after.get(f"{topic}/0", 0) < end:
                after[f"{topic}/0"] = end
        for record in damaged:
            self.damaged += 1
            self._complain(f"{record.topic!r} {record.offset} has a wrong checksum; it is skipped")
        if not records and not damaged:
            ends = rows.as_cursor(rows.ends(connection))
            for place in (f"{topic}/0" for topic in topics):
                if after.get(place, 0) > ends.get(place, 0):
                    self._complain(
                        f"{place} ends at {ends.get(place, 0)} and a reader was at {after[place]}: what lay "
                        "between is lost; was an older file put back?"
                    )
                    after[place] = ends.get(place, 0)
        return records, after

    def fetch(self, places: Sequence[Place], wait_seconds: float = 0.0) -> list[Record | None]:
        """See `EventLog.fetch`; here there is nothing to wait for. A damaged record is as good as none."""
        with self._reader() as connection:
            return [rows.at(connection, place) for place in places]

    def _complain(self, text: str) -> None:
        with self._lock:
            is_new = text not in self._complaints
            self._complaints.add(text)
        if is_new:
            logger.error("the log %s: %s", self.path, text)

    def end(self, topics: Sequence[str], wait_seconds: float = 0.0) -> dict[str, int]:
        """See `EventLog.end`; here there is nothing to wait for."""
        with self._reader() as connection:
            found = rows.ends(connection)
        return {f"{topic}/0": found.get(topic, 0) for topic in topics}

    def behind(self, topics: Sequence[str], cursor: Cursor) -> tuple[int, float]:
        """See `EventLog.behind`."""
        with self._reader() as connection:
            count, at = rows.behind(connection, topics, cursor)
        return count, max(0.0, time.time() - at) if at else 0.0

    def oldest(self, limit: int, max_bytes: int, after: int = 0) -> list[Stored]:
        """The oldest entries with ids above `after`: at most `limit`, and `max_bytes` (but one at least).

        Entries with a wrong checksum are set aside and left out.
        """
        with self._reader() as connection:
            found, is_last_damaged = rows.oldest(connection, limit, max_bytes, after)
        if not is_last_damaged:
            return found
        bad = found.pop()
        if found:
            return found
        self.damaged += 1
        self._complain(f"{bad.entry.topic!r}, id {bad.id}, has a wrong checksum; it is set aside")
        self.set_aside(bad, "wrong checksum").result()
        return self.oldest(limit, max_bytes, bad.id)

    def span(self) -> tuple[int, int] | None:
        """The lowest and the highest id in the file, or None when it is empty."""
        with self._reader() as connection:
            first, last = connection.execute("SELECT min(id), max(id) FROM records").fetchone()
        return None if first is None else (first, last)

    def backlog(self) -> tuple[int, float]:
        """How many entries the file holds, and the age of the oldest in seconds (0.0 when there is none)."""
        with self._reader() as connection:
            # One statement is one moment: a relay deletes meanwhile.
            first, last, at = connection.execute(_BACKLOG).fetchone()
        return (0, 0.0) if first is None else (last - first + 1, max(0.0, time.time() - at))

    def wait_for_write(self, seen: int, seconds: float) -> int:
        """Wait for this process to write, at most `seconds`.

        `seen` is what the last call gave: with more written since, this returns at once.
        """
        with self._committed:
            self._committed.wait_for(lambda: self._written != seen, seconds)
            return self._written

    @contextlib.contextmanager
    def _told_of(self, topics: Sequence[str]) -> Iterator[threading.Event]:
        """An event that is set when this process commits to one of the topics.

        Readers of other topics sleep on: waking a thread costs a gateway as much as passing some tokens on.
        """
        news = threading.Event()
        with self._lock:
            self._told[news] = frozenset(topics)
        try:
            yield news
        finally:
            with self._lock:
                del self._told[news]

    def _tell(self, topics: set[str]) -> None:
        with self._lock:
            for news, wanted in self._told.items():
                if not wanted.isdisjoint(topics):
                    news.set()

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
        except FILE_ERRORS as error:
            if is_damage(error):
                self._condemn(error)
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
        self._guard.leave()


def _rolled_back(connection: sqlite3.Connection) -> bool:
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        return False
    return True


def _data_version(connection: sqlite3.Connection) -> int:
    """A number that changes when any other connection, of any process, commits."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])
