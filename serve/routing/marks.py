"""What conversations are recognised by: marks, each with a small record, forgotten after a while.

A mark is an HMAC, so nothing that anyone said is in the store. Each tenant has its own marks, and so many at
most: the oldest are forgotten first, and no tenant's flood pushes out another's.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import redis

from feedback.shared import redis_client
from feedback.sqlite.file import connect, is_damage

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 0.5


class MarksUnavailable(Exception):
    """The store does not answer."""


class Marks(Protocol):
    """Every operation is of one tenant, and raises MarksUnavailable when the store is away."""

    def first(self, tenant: str, marks: Sequence[str]) -> bytes | None:
        """The record of the first of these marks that is known."""
        ...

    def put(self, tenant: str, marks: Sequence[str], record: bytes) -> int:
        """Remember marks, in place of what they had; how many others had to be forgotten for that."""
        ...

    def close(self) -> None:
        """Let go of connections and files."""
        ...


_SCHEMA = """
CREATE TABLE IF NOT EXISTS marks (
    tenant TEXT NOT NULL, mark TEXT NOT NULL, record BLOB NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (tenant, mark)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS marks_by_age ON marks (tenant, at);
"""
_PUT = "INSERT OR REPLACE INTO marks (tenant, mark, record, at) VALUES (?, ?, ?, ?)"
_GET = "SELECT record FROM marks WHERE tenant = ? AND mark = ? AND at > ?"
_OLD = "DELETE FROM marks WHERE at <= ?"
_SURPLUS = """DELETE FROM marks WHERE tenant = ?1 AND at <=
(SELECT at FROM marks WHERE tenant = ?1 ORDER BY at DESC LIMIT 1 OFFSET ?2)"""
_SWEEP_EVERY = 500  # puts


class SqliteMarks:
    """`Marks` of one machine, in an SQLite file. There may be a twentieth more than `most` of a tenant."""

    def __init__(self, path: Path, keep_seconds: float, most: int) -> None:
        self._keep_seconds = keep_seconds
        self._most = most
        self._every = max(1, min(_SWEEP_EVERY, most // 20))
        self._unswept: dict[str, int] = {}
        self._lock = threading.Lock()
        try:
            self._connection = _opened(path)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            log.warning("%s is begun anew, active conversations are drawn again: %s", path, error)
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            self._connection = _opened(path)

    def first(self, tenant: str, marks: Sequence[str]) -> bytes | None:
        """See `Marks.first`."""
        since = time.time() - self._keep_seconds

        with self._working() as db:
            for mark in marks:
                found = db.execute(_GET, (tenant, mark, since)).fetchall()
                if found:
                    return bytes(found[0][0])
            return None

    def put(self, tenant: str, marks: Sequence[str], record: bytes) -> int:
        """See `Marks.put`."""
        rows = [(tenant, mark, record, time.time()) for mark in marks]
        with self._working() as db:
            db.executemany(_PUT, rows)
            self._unswept[tenant] = self._unswept.get(tenant, 0) + len(rows)
            return self._sweep(db, tenant) if self._unswept[tenant] >= self._every else 0

    def _sweep(self, db: sqlite3.Connection, tenant: str) -> int:
        self._unswept[tenant] = 0
        db.execute(_OLD, (time.time() - self._keep_seconds,))
        return int(db.execute(_SURPLUS, (tenant, self._most)).rowcount)

    def close(self) -> None:
        """See `Marks.close`."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _working(self) -> Iterator[sqlite3.Connection]:
        """The file, for one operation at a time. Raises MarksUnavailable."""
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise MarksUnavailable(f"the file of conversations does not work: {error}") from error


def _opened(path: Path) -> sqlite3.Connection:
    connection = connect(path, synchronous="OFF", busy_seconds=_TIMEOUT_SECONDS)
    connection.executescript(_SCHEMA)
    return connection


# One step for all gateways. A tenant has two keys, its marks by age and their records, and not a key for each
# mark: leases are found by a walk over all keys (see `feedback.shared`).
_PUT_SCRIPT = """
local ages, records = KEYS[1], KEYS[2]
local now, keep_seconds, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local function forget(marks)
    for _, mark in ipairs(marks) do
        redis.call('HDEL', records, mark)
        redis.call('ZREM', ages, mark)
    end
end
for i = 5, #ARGV do
    redis.call('HSET', records, ARGV[i], ARGV[1] .. ' ' .. ARGV[4])
    redis.call('ZADD', ages, now, ARGV[i])
end
forget(redis.call('ZRANGEBYSCORE', ages, '-inf', now - keep_seconds, 'LIMIT', 0, 1000))
local surplus = math.max(0, redis.call('ZCARD', ages) - most)
if surplus > 0 then forget(redis.call('ZRANGE', ages, 0, surplus - 1)) end
redis.call('PEXPIRE', ages, math.ceil(keep_seconds * 1000))
redis.call('PEXPIRE', records, math.ceil(keep_seconds * 1000))
return surplus
"""


class RedisMarks:
    """`Marks` of several gateways, in Redis. Redis may be away when this is made."""

    def __init__(self, url: str, keep_seconds: float, most: int) -> None:
        self._keep_seconds = keep_seconds
        self._most = most
        self._redis = redis_client(url, _TIMEOUT_SECONDS)
        self._put = self._redis.register_script(_PUT_SCRIPT)

    def first(self, tenant: str, marks: Sequence[str]) -> bytes | None:
        """See `Marks.first`."""
        try:
            found: list[Any] = self._redis.hmget(_keys(tenant)[1], list(marks))
        except redis.RedisError as error:
            raise MarksUnavailable(f"Redis does not answer: {error}") from error
        since = time.time() - self._keep_seconds
        for value in found:
            at, _, record = (value or b"").partition(b" ")
            if at and float(at) > since:
                return record
        return None

    def put(self, tenant: str, marks: Sequence[str], record: bytes) -> int:
        """See `Marks.put`."""
        said: list[str | bytes | float] = [time.time(), self._keep_seconds, self._most, record, *marks]
        try:
            return int(self._put(keys=_keys(tenant), args=said))
        except redis.RedisError as error:
            raise MarksUnavailable(f"Redis does not answer: {error}") from error

    def close(self) -> None:
        """See `Marks.close`."""
        self._redis.close()


def _keys(tenant: str) -> list[str]:
    """The keys of a tenant's marks by age, and of their records."""
    prefix = f"hearken:conversations:{quote(tenant, safe='')}"
    return [f"{prefix}:ages", f"{prefix}:records"]


def open_marks(path: Path, redis_url: str | None, keep_seconds: float, most: int) -> Marks:
    """Redis when there is one, else a file. keep_seconds: after a mark was put last; most: of a tenant."""
    if redis_url is None:
        return SqliteMarks(path, keep_seconds, most)
    return RedisMarks(redis_url, keep_seconds, most)
