"""Memory that processes share for a while: rate limits, idempotent replies, leases, presence.

It is never the truth: all of it can be lost at any time and rebuilt from the log.
"""

import contextlib
import re
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from feedback.sqlite.file import connect

T = TypeVar("T")

_PREFIX = "hearken:"
_GLOB = re.compile(r"[*?\[\]\\]")  # what Redis reads as a pattern
_TIMEOUT_SECONDS = 1.0
_BUSY_SECONDS = 5.0
_SWEEP_EVERY = 1000  # writes


class SharedUnavailable(Exception):
    """The shared memory does not answer. The caller decides what that means for it."""


class SharedStore(Protocol):
    """Small values under keys, each forgotten after its time to live (seconds, more than 0).

    Every operation is atomic among all processes and raises `SharedUnavailable` when the store is away.
    """

    def get(self, key: str) -> bytes | None:
        """The value, or None."""
        ...

    def put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        """Set the value, whatever was there."""
        ...

    def put_if_absent(self, key: str, value: bytes, ttl_seconds: float) -> bytes | None:
        """Set the value unless there is one; the one that was there, or None when this one was set."""
        ...

    def swap(self, key: str, there: bytes | None, value: bytes, ttl_seconds: float) -> bool:
        """Set the value if the present one is `there` (None: if there is none), and say whether it was set.

        A False may also come of a value that was set and whose confirmation was lost: look again.
        """
        ...

    def hit(self, key: str, window_seconds: float) -> int:
        """Count an event: how many there were in the window, this one included.

        A window begins with the first event after the end of the last one. Counters and values have
        separate keys.
        """
        ...

    def delete(self, key: str) -> None:
        """Forget the value, if there is one."""
        ...

    def values(self, prefix: str) -> dict[str, bytes]:
        """Every key that begins with `prefix`, with its value.

        What is there during all of the call is in the answer; what comes or goes meanwhile may be.
        """
        ...

    def close(self) -> None:
        """Let go of connections and files."""
        ...


# Scripts, because SET with NX and GET together and PEXPIRE with NX are newer than many a Redis.
_PUT_IF_ABSENT = """
local there = redis.call('GET', KEYS[1])
if there then return there end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
"""
_SWAP = """
local there = redis.call('GET', KEYS[1])
if there ~= (ARGV[3] or false) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_HIT = """
local count = redis.call('INCR', KEYS[1])
if count == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return count
"""


def redis_client(url: str, timeout_seconds: float) -> redis.Redis:
    """A client of Redis, which may be away when this is made."""
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 1),  # one more try, for a connection that went stale while idle
    )


class RedisStore:
    """A `SharedStore` in Redis. `url`: "redis://host:port/db". Redis may be away when this is made."""

    def __init__(self, url: str) -> None:
        self._redis = redis_client(url, _TIMEOUT_SECONDS)
        self._put_if_absent = self._redis.register_script(_PUT_IF_ABSENT)
        self._swap = self._redis.register_script(_SWAP)
        self._hit = self._redis.register_script(_HIT)

    def get(self, key: str) -> bytes | None:
        """See `SharedStore.get`."""
        value: bytes | None = self._do(lambda: self._redis.get(_PREFIX + key))
        return value

    def put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        """See `SharedStore.put`."""
        ttl_ms = _milliseconds(ttl_seconds)
        self._do(lambda: self._redis.set(_PREFIX + key, value, px=ttl_ms))

    def put_if_absent(self, key: str, value: bytes, ttl_seconds: float) -> bytes | None:
        """See `SharedStore.put_if_absent`."""
        arguments: list[bytes | int] = [value, _milliseconds(ttl_seconds)]
        there: bytes | None = self._do(lambda: self._put_if_absent(keys=[_PREFIX + key], args=arguments))
        return there

    def swap(self, key: str, there: bytes | None, value: bytes, ttl_seconds: float) -> bool:
        """See `SharedStore.swap`."""
        arguments: list[bytes | int] = [value, _milliseconds(ttl_seconds)]
        arguments += [] if there is None else [there]
        return bool(self._do(lambda: self._swap(keys=[_PREFIX + key], args=arguments)))

    def hit(self, key: str, window_seconds: float) -> int:
        """See `SharedStore.hit`."""
        window = [_milliseconds(window_seconds)]
        return int(self._do(lambda: self._hit(keys=[f"{_PREFIX}hit:{key}"], args=window)))

    def delete(self, key: str) -> None:
        """See `SharedStore.delete`."""
        self._do(lambda: self._redis.delete(_PREFIX + key))

    def values(self, prefix: str) -> dict[str, bytes]:
        """See `SharedStore.values`. It walks over all keys of the database: not for every request."""
        pattern = _GLOB.sub(r"\\\g<0>", _PREFIX + prefix) + "*"

        def walk() -> dict[str, bytes]:
            names = dict.fromkeys(self._redis.scan_iter(pattern, count=1000))  # SCAN may give a key twice
            keys = [key for key in names if not key.startswith(b"hearken:hit:")]
            values: list[Any] = self._redis.mget(keys) if keys else []
            cut = len(_PREFIX)
            return {key.decode()[cut:]: v for key, v in zip(keys, values, strict=True) if v is not None}

        found: dict[str, bytes] = self._do(walk)
        return found

    def close(self) -> None:
        """See `SharedStore.close`."""
        self._redis.close()

    def _do(self, operation: Callable[[], Any]) -> Any:
        try:
            return operation()
        except redis.RedisError as error:
            raise SharedUnavailable(f"Redis does not answer: {error}") from error


_SCHEMA = """
CREATE TABLE IF NOT EXISTS held (key TEXT PRIMARY KEY, value BLOB NOT NULL, expires REAL NOT NULL);
CREATE TABLE IF NOT EXISTS hits (key TEXT PRIMARY KEY, count INTEGER NOT NULL, expires REAL NOT NULL);
"""
_SQL_GET = "SELECT value FROM held WHERE key = ? AND expires > ?"
_SQL_VALUES = "SELECT key, value FROM held WHERE key >= ? AND key < ? AND expires > ?"
_SQL_PUT = "INSERT OR REPLACE INTO held (key, value, expires) VALUES (?, ?, ?)"
_SQL_HIT = """
INSERT INTO hits (key, count, expires) VALUES (:key, 1, :expires)
ON CONFLICT (key) DO UPDATE SET
    count = CASE WHEN expires > :now THEN count + 1 ELSE 1 END,
    expires = CASE WHEN expires > :now THEN expires ELSE :expires END
RETURNING count
"""


class SqliteStore:
    """A `SharedStore` for one machine, in an SQLite file; `SharedUnavailable` when that cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._writes = 0
        try:
            self._connection = connect(path, synchronous="NORMAL", busy_seconds=_BUSY_SECONDS)
            self._connection.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise SharedUnavailable(f"cannot open {path}: {error}") from error

    def get(self, key: str) -> bytes | None:
        """See `SharedStore.get`."""
        value: bytes | None = self._do(lambda db: _first(db.execute(_SQL_GET, (key, time.time()))))
        return value

    def put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        """See `SharedStore.put`."""
        row = (key, value, time.time() + _milliseconds(ttl_seconds) / 1000)
        self._do(lambda db: db.execute(_SQL_PUT, row))
        self._sweep()

    def put_if_absent(self, key: str, value: bytes, ttl_seconds: float) -> bytes | None:
        """See `SharedStore.put_if_absent`."""
        return self._look_and_put(key, None, value, ttl_seconds)

    def swap(self, key: str, there: bytes | None, value: bytes, ttl_seconds: float) -> bool:
        """See `SharedStore.swap`."""
        return self._look_and_put(key, there, value, ttl_seconds) == there

    def hit(self, key: str, window_seconds: float) -> int:
        """See `SharedStore.hit`."""
        now = time.time()
        values = {"key": key, "now": now, "expires": now + _milliseconds(window_seconds) / 1000}
        count: int = self._do(lambda db: _first(db.execute(_SQL_HIT, values)))
        self._sweep()
        return count

    def delete(self, key: str) -> None:
        """See `SharedStore.delete`."""
        self._do(lambda db: db.execute("DELETE FROM held WHERE key = ?", (key,)))

    def values(self, prefix: str) -> dict[str, bytes]:
        """See `SharedStore.values`."""
        bounds = (prefix, prefix + "\U0010ffff", time.time())
        return dict(self._do(lambda db: db.execute(_SQL_VALUES, bounds).fetchall()))

    def close(self) -> None:
        """See `SharedStore.close`."""
        with self._lock:
            self._connection.close()

    def _look_and_put(
        self, key: str, expected: bytes | None, value: bytes, ttl_seconds: float
    ) -> bytes | None:
        """The value that was there; another one takes its place if it was the expected one."""
        ttl_ms = _milliseconds(ttl_seconds)

        def look_and_put(db: sqlite3.Connection) -> bytes | None:
            db.execute("BEGIN IMMEDIATE")
            now = time.time()
            there: bytes | None = _first(db.execute(_SQL_GET, (key, now)))
            if there == expected:
                db.execute(_SQL_PUT, (key, value, now + ttl_ms / 1000))
            db.execute("COMMIT")
            return there

        there = self._do(look_and_put)
        self._sweep()
        return there

    def _do(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            try:
                return operation(self._connection)
            except sqlite3.Error as error:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.rollback()  # nothing to do outside a transaction
                raise SharedUnavailable(f"the shared store does not work: {error}") from error

    def _sweep(self) -> None:
        self._writes += 1
        if self._writes % _SWEEP_EVERY == 0:
            now = (time.time(),)
            self._do(lambda db: db.execute("DELETE FROM held WHERE expires <= ?", now))
            self._do(lambda db: db.execute("DELETE FROM hits WHERE expires <= ?", now))


def _first(rows: sqlite3.Cursor) -> Any:
    found = rows.fetchall()
    return found[0][0] if found else None


def _milliseconds(seconds: float) -> int:
    if not seconds > 0:
        raise ValueError(f"a time to live of {seconds} seconds; it must be more than 0")
    return max(1, round(seconds * 1000))
