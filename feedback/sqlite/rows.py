"""Tables of the embedded log's file, and the statements on them.

`refused` has entries that a broker would not take, `dead_letters` records that a reader could not use.
`heads` has a line per topic: the offset that its next record gets, the lowest offset that is still kept, and
the latest time that any record of the topic has; the line of the topic '' says where new topics begin, when
that is not at 0. `gaps` lists the offsets that a damaged file lost, so that
a hole that is not in it is found to be new damage. `holds` says from where each reader may want to read
again. Every record carries a CRC-32C of all that is in it.
"""

import contextlib
import functools
import sqlite3
import struct
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from crc32c import crc32c

from feedback.core.log import Cursor, Entry, Place, Record
from feedback.sqlite.file import DamagedFile

# What each version of the tables, SQLite's `user_version`, has added to the one before.
# `id` is the order of arrival over all topics. AUTOINCREMENT: ids go on after the last row is discarded.
_STEPS = (
    """
CREATE TABLE IF NOT EXISTS heads (topic TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, offset INTEGER NOT NULL,
    key TEXT NOT NULL, value BLOB NOT NULL, at REAL NOT NULL, UNIQUE (topic, offset));
CREATE TABLE IF NOT EXISTS refused (
    id INTEGER PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
    at REAL NOT NULL, reason TEXT NOT NULL)
""",
    """
ALTER TABLE heads ADD COLUMN first INTEGER NOT NULL DEFAULT 0;
ALTER TABLE heads ADD COLUMN latest REAL NOT NULL DEFAULT 0;
ALTER TABLE records ADD COLUMN crc INTEGER;
UPDATE heads SET
    first = coalesce((SELECT min(offset) FROM records WHERE records.topic = heads.topic), next),
    latest = coalesce((SELECT max(at) FROM records WHERE records.topic = heads.topic), 0);
CREATE TABLE gaps (topic TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (topic, first)) WITHOUT ROWID;
CREATE TABLE holds (reader TEXT NOT NULL, place TEXT NOT NULL, offset INTEGER NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (reader, place)) WITHOUT ROWID
""",
    """
CREATE TABLE dead_letters (reader TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    offset INTEGER NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, at REAL NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (reader, topic, partition, offset))
""",
)
VERSION = len(_STEPS)
_TAKE_OFFSETS = """
INSERT INTO heads (topic, next, first, latest)
SELECT :topic, start + :count, start, :at
FROM (SELECT coalesce(max(next), 0) AS start FROM heads WHERE topic = '') WHERE true
ON CONFLICT (topic) DO UPDATE SET next = next + :count, latest = max(latest, :at) RETURNING next, latest
"""
_COLUMNS = "id, topic, offset, key, value, at, crc"
_INSERT = f"INSERT INTO records ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
_LAST_ID = "SELECT seq FROM sqlite_sequence WHERE name = 'records'"
_TOPIC_IDS = "SELECT * FROM (SELECT id FROM records WHERE topic = ? AND offset >= ? ORDER BY offset LIMIT ?)"
# From what is deleted and not from what is left: that a damaged file does not show all of it must be found.
_FIRST_LEFT = "UPDATE heads SET first = max(first, ?) WHERE topic = ?"
HEADS = "SELECT topic, next, first, latest FROM heads"
_AT = struct.Struct("<d")
_FAR_FUTURE = 7.3e9  # the year 2201: a clock that says so is a flipped bit


class Stored(NamedTuple):
    """An entry in the file. `at` is Unix time in seconds when it was appended."""

    id: int
    entry: Entry
    at: float


def check_header(path: Path) -> None:
    """Raises `DamagedFile` for formats in a file's header that no SQLite writes.

    SQLite itself takes such a file for one of a later SQLite, which it may not read or not write
    (https://www.sqlite.org/fileformat2.html, sections 1.3.3 and 1.3.9).
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) == 100 and not ({*header[18:20]} <= {1, 2} and int.from_bytes(header[44:48]) <= 4):
        raise DamagedFile("its header has formats that do not exist")


def prepare(connection: sqlite3.Connection) -> None:
    """Make the tables, or bring those of an older version up to date.

    Raises `DamagedFile` when the tables are not those of the version that the file says it has, and
    `ValueError` for a newer one.
    """
    with _transaction(connection, "DEFERRED"):
        if _version(connection) == VERSION:
            return
    with _transaction(connection, "IMMEDIATE"):  # several processes may come here at once
        found = _version(connection)
        if found > VERSION:
            raise ValueError(f"it has version {found}, and this hearken knows versions up to {VERSION}")
        _take_steps(connection, found)


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection, kind: str) -> Iterator[None]:
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # the first error tells more
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    """What the file says, 0 for a new one. Raises `DamagedFile` when its tables say something else."""
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    there, right = _tables(connection), _right_tables()
    if (there == right) != (found == VERSION):
        raise DamagedFile(f"it says that it has version {found}, and its tables are others")
    return found


def _tables(connection: sqlite3.Connection) -> list[tuple[object, ...]]:
    query = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
    return connection.execute(query).fetchall()


@functools.cache
def _right_tables() -> list[tuple[object, ...]]:
    """The tables as SQLite describes them in a new file of this version."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        _take_steps(connection, 0)
        return _tables(connection)


def _take_steps(connection: sqlite3.Connection, found: int) -> None:
    for step in _STEPS[found:]:
        for statement in step.split(";\n"):
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version={VERSION}")


def checksum(number: int, topic: str, offset: int, key: str, value: bytes, at: float) -> int:
    """CRC-32C of a record, its places (`number` is its id) and its time."""
    head = f"{number}\0{topic}\0{offset}\0{key}\0".encode(errors="surrogateescape")
    return int(crc32c(value, crc32c(_AT.pack(at), crc32c(head))))


def is_whole(row: tuple[int, str, int, str, bytes, float, int | None]) -> bool:
    """Whether a row of `records` has the right checksum, or is older than checksums."""
    return row[6] is None or row[6] == checksum(*row[:6])


def insert(connection: sqlite3.Connection, entries: Sequence[Entry], now: float) -> int:
    """Append entries, none of them earlier than what their topic has; the highest id that is in use now."""
    number = last_id(connection)
    places: dict[str, tuple[Iterator[int], float]] = {}
    for topic, count in Counter(entry.topic for entry in entries).items():
        values = {"topic": topic, "count": count, "at": now}
        ((after, at),) = connection.execute(_TAKE_OFFSETS, values).fetchall()
        places[topic] = iter(range(after - count, after)), at
    rows = []
    for topic, key, value in entries:
        offsets, at = places[topic]
        offset = next(offsets)
        number += 1
        crc = checksum(number, topic, offset, key, value, at)
        rows.append((number, topic, offset, key, value, at, crc))
    connection.executemany(_INSERT, rows)
    return number


def last_id(connection: sqlite3.Connection) -> int:
    """The highest id that was ever given out; 0 in a new file."""
    row = connection.execute(_LAST_ID).fetchone()
    if row is None:
        return 0
    number = row[0]
    if not isinstance(number, int):
        raise DamagedFile("the highest id is no number")
    return number


def discard(connection: sqlite3.Connection, through: int) -> None:
    """Drop all rows up to and with the id `through`."""
    gone = connection.execute("SELECT topic, offset FROM records WHERE id <= ? ORDER BY id", (through,))
    firsts = {topic: offset + 1 for topic, offset in gone}
    connection.execute("DELETE FROM records WHERE id <= ?", (through,))
    connection.executemany(_FIRST_LEFT, [(first, topic) for topic, first in firsts.items()])


def prune(connection: sqlite3.Connection, topic: str, before: float, limit: int) -> int:
    """Drop at most `limit` of a topic's oldest rows: older than `before`, and below what any reader holds."""
    place = (f"{topic}/0",)
    (held,) = connection.execute("SELECT min(offset) FROM holds WHERE place = ?", place).fetchone()
    query = "SELECT id, offset, at FROM records WHERE topic = ? ORDER BY offset LIMIT ?"
    rows = connection.execute(query, (topic, limit)).fetchall()
    old = [(number, offset) for number, offset, at in rows if at < before and (held is None or offset < held)]
    connection.executemany("DELETE FROM records WHERE id = ?", [(number,) for number, _ in old])
    if old:
        connection.execute(_FIRST_LEFT, (old[-1][1] + 1, topic))
    return len(old)


def set_aside(connection: sqlite3.Connection, stored: Stored, reason: str) -> None:
    """Copy an entry to the table of dead letters."""
    topic, key, value = stored.entry
    values = (stored.id, _as_utf8(topic), _as_utf8(key), value, stored.at, reason)
    connection.execute("INSERT OR REPLACE INTO refused VALUES (?, ?, ?, ?, ?, ?)", values)


def text(raw: bytes) -> str:
    """Text as it is stored: what a flipped bit made no UTF-8 must reach the code that knows checksums."""
    return raw.decode(errors="surrogateescape")


def _as_utf8(text: str) -> str:
    """With a mark in place of what is none; SQLite would refuse it."""
    return text.encode(errors="surrogatepass").decode(errors="replace")


def bury(connection: sqlite3.Connection, reader: str, record: Record, reason: str) -> None:
    """Keep a record that a reader cannot use, once however often it is read."""
    values = (reader, *record, time.time(), _as_utf8(reason))
    connection.execute("INSERT OR REPLACE INTO dead_letters VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)


def hold(connection: sqlite3.Connection, reader: str, cursor: Cursor) -> None:
    """Keep what lies at or after a reader's cursor."""
    rows = [(reader, place, offset, time.time()) for place, offset in cursor.items()]
    connection.executemany("INSERT OR REPLACE INTO holds VALUES (?, ?, ?, ?)", rows)


def release_hold(connection: sqlite3.Connection, reader: str) -> None:
    """Keep nothing for a reader any more."""
    connection.execute("DELETE FROM holds WHERE reader = ?", (reader,))


def select(
    connection: sqlite3.Connection, topics: Sequence[str], cursor: Cursor, limit: int
) -> tuple[list[Record], list[Record], dict[str, int]]:
    """Records at or after the cursor in the order of arrival, those with a wrong checksum in the second list,
    and the ends of the topics if they were reached, which no record shows where the last ones are gone.

    Raises `DamagedFile` when an offset is missing that was not known to be lost.
    """
    if not topics:
        return [], [], {}
    with _transaction(connection, "DEFERRED"):  # in which the ends are those of the records
        return _select(connection, topics, cursor, limit)


def _select(
    connection: sqlite3.Connection, topics: Sequence[str], cursor: Cursor, limit: int
) -> tuple[list[Record], list[Record], dict[str, int]]:
    # Each topic's next ids come from its index alone; values are read only for those that stay.
    ids = " UNION ALL ".join([_TOPIC_IDS] * len(topics))
    bounds = [v for topic in topics for v in (topic, cursor.get(f"{topic}/0", 0), limit)]
    query = (
        f"SELECT {_COLUMNS} FROM records WHERE id IN (SELECT id FROM ({ids}) ORDER BY id LIMIT ?) ORDER BY id"
    )
    good: list[Record] = []
    bad: list[Record] = []
    expected: dict[str, int] = {}
    for row in connection.execute(query, (*bounds, limit)):
        number, topic, offset, key, value, _, _ = _checked(row)
        if topic not in topics:
            raise DamagedFile(f"the record with the id {number} is of another topic than its index says")
        place = expected[topic] if topic in expected else cursor.get(f"{topic}/0", 0)
        if offset != place:
            _explain(connection, topic, place, offset)
        expected[topic] = offset + 1
        (good if is_whole(row) else bad).append(Record(topic, 0, offset, key, value))
    reached: dict[str, int] = {}
    if len(good) + len(bad) < limit:
        after = ends(connection)
        reached = {topic: after.get(topic, 0) for topic in topics}
        for topic, end in reached.items():
            place = expected.get(topic, cursor.get(f"{topic}/0", 0))
            if place < end:
                _explain(connection, topic, place, end)
    return good, bad, reached


def at(connection: sqlite3.Connection, place: Place) -> Record | None:
    """The record at a place, None where there is none or one with a wrong checksum."""
    query = f"SELECT {_COLUMNS} FROM records WHERE topic = ? AND offset = ?"
    row = connection.execute(query, (place.topic, place.offset)).fetchone() if place.partition == 0 else None
    if row is None or not is_whole(_checked(row)):
        return None
    return Record(*place, row[3], row[4])


_TYPES = [(int, str, int, str, bytes, float, crc) for crc in (int, type(None))]


def _checked(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row of `records`. Raises `DamagedFile` when its values have types that nobody wrote."""
    if tuple(map(type, row)) not in _TYPES:
        raise DamagedFile(f"the record with the id {row[0]} has values of other types than were written")
    return row


def _explain(connection: sqlite3.Connection, topic: str, expected: int, found: int) -> None:
    """Raises `DamagedFile` when `found` is before `expected`, or what lies between them should be there."""
    if found < expected:
        raise DamagedFile(f"offset {found} of {topic} comes where {expected} is expected")
    row = connection.execute("SELECT first FROM heads WHERE topic = ?", (topic,)).fetchone()
    at = max(expected, row[0] if row else 0)
    gaps = "SELECT first, last FROM gaps WHERE topic = ? ORDER BY first"
    for first, last in connection.execute(gaps, (topic,)):
        if first <= at:
            at = max(at, last + 1)
    if at < found:
        raise DamagedFile(f"offsets {at} to {found - 1} of {topic} are missing")


def oldest(
    connection: sqlite3.Connection, limit: int, max_bytes: int, after: int
) -> tuple[list[Stored], bool]:
    """See `SqliteLog.oldest`; and whether the last of them has a wrong checksum, which ends the list.

    Raises `DamagedFile` when an offset is missing that was not known to be lost.
    """
    with _transaction(connection, "DEFERRED"):
        return _oldest(connection, limit, max_bytes, after)


def _oldest(
    connection: sqlite3.Connection, limit: int, max_bytes: int, after: int
) -> tuple[list[Stored], bool]:
    found: list[Stored] = []
    total = 0
    expected: dict[str, int] = {}
    (before,) = connection.execute("SELECT EXISTS (SELECT 1 FROM records WHERE id <= ?)", (after,)).fetchone()
    if not before:  # then each topic has to go on with the first that was not discarded
        expected = dict(connection.execute("SELECT topic, first FROM heads").fetchall())
    previous = after
    query = f"SELECT {_COLUMNS} FROM records WHERE id > ? ORDER BY id LIMIT ?"
    for row in connection.execute(query, (after, limit)):
        number, topic, offset, key, value, at, _ = _checked(row)
        total += len(value)
        if found and total > max_bytes:
            break
        if previous and number != previous + 1:
            _explain_ids(connection, previous, number)
        previous = number
        if offset != expected.get(topic, offset):
            _explain(connection, topic, expected[topic], offset)
        expected[topic] = offset + 1
        found.append(Stored(number, Entry(topic, key, value), at))
        if not is_whole(row):
            return found, True
    return found, False


def _explain_ids(connection: sqlite3.Connection, before: int, found: int) -> None:
    """Raises `DamagedFile` when the ids between two that came one after the other should be there.

    The index says so, which is read to its end here: it is rare that ids are missing.
    """
    query = "SELECT id FROM records INDEXED BY sqlite_autoindex_records_1 WHERE id > ? AND id < ? LIMIT 1"
    if found < before or connection.execute(query, (before, found)).fetchone():
        raise DamagedFile(f"the record after the one with the id {before} cannot be the one with {found}")


def latest(connection: sqlite3.Connection) -> float:
    """The latest time of any record that ever was in the file (Unix seconds), 0.0 when there was none."""
    return float(connection.execute("SELECT coalesce(max(latest), 0) FROM heads").fetchone()[0])


def ends(connection: sqlite3.Connection) -> dict[str, int]:
    """Topic -> the offset that its next record gets."""
    return dict(connection.execute("SELECT topic, next FROM heads WHERE topic != ''").fetchall())


def behind(connection: sqlite3.Connection, topics: Sequence[str], cursor: Cursor) -> tuple[int, float]:
    """How many records lie at or after the cursor, and when the oldest of them came (Unix seconds, or 0)."""
    count, oldest_at = 0, 0.0
    for topic in topics:
        at = cursor.get(f"{topic}/0", 0)
        count += max(0, ends(connection).get(topic, 0) - at)
        query = "SELECT at FROM records WHERE topic = ? AND offset >= ? ORDER BY offset LIMIT 1"
        row = connection.execute(query, (topic, at)).fetchone()
        if row is not None:
            oldest_at = min(oldest_at or row[0], row[0])
    return count, oldest_at


def check_tail(connection: sqlite3.Connection, mark: int) -> None:
    """The quick check of a file that is opened, in a few page reads whatever its size.

    `mark`: an id that is known to have been durable. Raises `DamagedFile` when rows up to it, or the last
    record of a topic, are not what was written.
    """
    with _transaction(connection, "IMMEDIATE"):  # so that no other process is in the middle of anything
        highest = last_id(connection)
        if mark > highest:
            raise DamagedFile(f"the last {mark - highest} records are missing")
        for head in connection.execute(HEADS).fetchall():
            topic, after, _, _ = head
            if not is_head(head) or (topic and after > highest):
                raise DamagedFile(f"the head of {topic!r} makes no sense")
            if topic:
                _check_last(connection, topic, after)


def is_head(head: tuple[object, ...]) -> bool:
    """Whether a line of `heads` may be what was written."""
    topic, after, first, latest_at = head
    if not (isinstance(topic, str) and isinstance(after, int) and isinstance(first, int)):
        return False
    is_time = isinstance(latest_at, float) and 0 <= latest_at <= _FAR_FUTURE
    return is_time and _as_utf8(topic) == topic and 0 <= first <= after


def _check_last(connection: sqlite3.Connection, topic: str, after: int) -> None:
    query = f"SELECT {_COLUMNS} FROM records WHERE topic = ? ORDER BY offset DESC LIMIT 1"
    row = connection.execute(query, (topic,)).fetchone()
    if row is None:
        _explain(connection, topic, 0, after)
        return
    offset = _checked(row)[2]
    if offset >= after:
        raise DamagedFile(f"{topic} has records after its end")
    if offset + 1 < after:
        _explain(connection, topic, offset + 1, after)
    if not is_whole(row):
        raise DamagedFile(f"the last record of {topic} has a wrong checksum")


def as_cursor(ends: Mapping[str, int]) -> dict[str, int]:
    """Offsets by topic as a cursor: "topic/0" -> offset."""
    return {f"{topic}/0": after for topic, after in ends.items()}
