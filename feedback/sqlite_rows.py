"""What lies in the file of the embedded log: its tables, and the statements on them.

`refused` has entries that a broker would not take, `dead_letters` records that a reader could not use.
`heads` has a line per topic: the offset that its next record gets, the lowest offset that is still kept, and
the latest time that any record of the topic has; the line of the topic '' says where new topics begin, when
that is not at 0. `gaps` lists the offsets that a damaged file lost, so that
a hole that is not in it is found to be new damage. `holds` says from where each reader may want to read
again. Every record carries a CRC-32C of all that is in it.
"""

import sqlite3
import struct
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from crc32c import crc32c

from feedback.log import Cursor, Entry, Record

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
_INSERT = "INSERT INTO records (id, topic, offset, key, value, at, crc) VALUES (?, ?, ?, ?, ?, ?, ?)"
_LAST_ID = "SELECT seq FROM sqlite_sequence WHERE name = 'records'"
_TOPIC_IDS = "SELECT * FROM (SELECT id FROM records WHERE topic = ? AND offset >= ? ORDER BY offset LIMIT ?)"
_FIRST_LEFT = """
UPDATE heads SET
    first = coalesce((SELECT min(offset) FROM records WHERE records.topic = heads.topic), next)
"""
_AT = struct.Struct("<d")
_FAR_FUTURE = 7.3e9  # the year 2201: a clock that says so is a flipped bit


class DamagedFile(Exception):
    """The file does not hold what was written to it."""


class Stored(NamedTuple):
    """An entry in the file. `at` is Unix time in seconds when it was appended."""

    id: int
    entry: Entry
    at: float


def prepare(connection: sqlite3.Connection) -> None:
    """Make the tables, or bring those of an older version up to date. Raises `ValueError` for newer ones."""
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")  # several processes may come here at once
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    for step in _STEPS[found:]:
        for statement in step.split(";\n"):
            connection.execute(statement)
    if found < VERSION:
        connection.execute(f"PRAGMA user_version={VERSION}")
    connection.execute("COMMIT")
    if found > VERSION:
        raise ValueError(f"it has version {found}, and this hearken knows versions up to {VERSION}")


def checksum(number: int, topic: str, offset: int, key: str, value: bytes, at: float) -> int:
    """CRC-32C of a record, its places (`number` is its id) and its time."""
    head = f"{number}\0{topic}\0{offset}\0{key}\0".encode()
    return int(crc32c(value, crc32c(_AT.pack(at), crc32c(head))))


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
    return int(row[0]) if row else 0


def discard(connection: sqlite3.Connection, through: int) -> None:
    """Drop all rows up to and with the id `through`."""
    connection.execute("DELETE FROM records WHERE id <= ?", (through,))
    connection.execute(_FIRST_LEFT)


def prune(connection: sqlite3.Connection, topic: str, before: float, limit: int) -> int:
    """Drop at most `limit` of a topic's oldest rows: older than `before`, and below what any reader holds."""
    place = (f"{topic}/0",)
    (held,) = connection.execute("SELECT min(offset) FROM holds WHERE place = ?", place).fetchone()
    query = "SELECT id, offset, at FROM records WHERE topic = ? ORDER BY offset LIMIT ?"
    rows = connection.execute(query, (topic, limit)).fetchall()
    old = [(number,) for number, offset, at in rows if at < before and (held is None or offset < held)]
    connection.executemany("DELETE FROM records WHERE id = ?", old)
    if old:
        connection.execute(_FIRST_LEFT)
    return len(old)


def set_aside(connection: sqlite3.Connection, stored: Stored, reason: str) -> None:
    """Copy an entry to the table of dead letters."""
    values = (stored.id, *stored.entry, stored.at, reason)
    connection.execute("INSERT OR REPLACE INTO refused VALUES (?, ?, ?, ?, ?, ?)", values)


def bury(connection: sqlite3.Connection, reader: str, record: Record, reason: str) -> None:
    """Keep a record that a reader cannot use, once however often it is read."""
    values = (reader, *record, time.time(), reason)
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
) -> tuple[list[Record], list[Record]]:
    """Records at or after the cursor in the order of arrival, those with a wrong checksum in the second list.

    Raises `DamagedFile` when an offset is missing that was not known to be lost.
    """
    if not topics:
        return [], []
    # Each topic's next ids come from its index alone; values are read only for those that stay.
    ids = " UNION ALL ".join([_TOPIC_IDS] * len(topics))
    bounds = [v for topic in topics for v in (topic, cursor.get(f"{topic}/0", 0), limit)]
    query = (
        f"SELECT id, topic, offset, key, value, at, crc FROM records"
        f" WHERE id IN (SELECT id FROM ({ids}) ORDER BY id LIMIT ?) ORDER BY id"
    )
    good: list[Record] = []
    bad: list[Record] = []
    expected: dict[str, int] = {}
    for number, topic, offset, key, value, at, crc in connection.execute(query, (*bounds, limit)):
        record = Record(topic, 0, offset, key, value)
        place = expected[topic] if topic in expected else cursor.get(f"{topic}/0", 0)
        if offset != place:
            _explain(connection, topic, place, offset)
        expected[topic] = offset + 1
        right = crc is None or crc == checksum(number, topic, offset, key, value, at)
        (good if right else bad).append(record)
    return good, bad


def _explain(connection: sqlite3.Connection, topic: str, expected: int, found: int) -> None:
    """Raises `DamagedFile` when the offsets from `expected` to before `found` should be there."""
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
    """See `SqliteLog.oldest`; and whether the last of them has a wrong checksum, which ends the list."""
    found: list[Stored] = []
    total = 0
    query = "SELECT id, topic, offset, key, value, at, crc FROM records WHERE id > ? ORDER BY id LIMIT ?"
    for number, topic, offset, key, value, at, crc in connection.execute(query, (after, limit)):
        total += len(value)
        if found and total > max_bytes:
            break
        found.append(Stored(number, Entry(topic, key, value), at))
        if crc is not None and crc != checksum(number, topic, offset, key, value, at):
            return found, True
    return found, False


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
    connection.execute("BEGIN IMMEDIATE")  # so that no other process is in the middle of anything
    try:
        highest = last_id(connection)
        if mark > highest:
            raise DamagedFile(f"the last {mark - highest} records are missing")
        for topic, after, latest_at in connection.execute("SELECT topic, next, latest FROM heads").fetchall():
            if (topic and after > highest) or latest_at > _FAR_FUTURE:
                raise DamagedFile(f"the head of {topic} makes no sense")
            _check_last(connection, topic, after)
    finally:
        connection.execute("ROLLBACK")


def _check_last(connection: sqlite3.Connection, topic: str, after: int) -> None:
    query = "SELECT id, offset, key, value, at, crc FROM records WHERE topic = ? ORDER BY offset DESC LIMIT 1"
    row = connection.execute(query, (topic,)).fetchone()
    if row is None:
        return
    number, offset, key, value, at, crc = row
    if offset >= after:
        raise DamagedFile(f"{topic} has records after its end")
    if offset + 1 < after:
        _explain(connection, topic, offset + 1, after)
    if crc is not None and crc != checksum(number, topic, offset, key, value, at):
        raise DamagedFile(f"the last record of {topic} has a wrong checksum")


def as_cursor(ends: Mapping[str, int]) -> dict[str, int]:
    """Offsets by topic as a cursor: "topic/0" -> offset."""
    return {f"{topic}/0": after for topic, after in ends.items()}
