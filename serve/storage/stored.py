"""Answers that clients asked to `store`: kept for a while, to be listed and read again by the same tenant.

This is the clients' copy, apart from the log: it can be changed and deleted, and nothing is learnt from it.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import orjson

from feedback.sqlite.file import connect

Json = dict[str, Any]
T = TypeVar("T")

KEEP_SECONDS = 30 * 24 * 3600.0
_TIMEOUT_SECONDS = 2.0
_SWEEP_EVERY = 100  # writes


class StoreUnavailable(Exception):
    """The store does not answer."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One answer as its client saw it, with the messages that it answers."""

    tenant: str
    completion_id: str
    user: str  # pseudonym
    model: str
    answer: Json
    messages: list[Json]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Query:
    """Which to list: those with all of `metadata`, oldest first ("asc") or newest, from behind `after`.

    prefix: of the ids of one API's answers (see `feedback.core.ids`), where only they are meant.
    """

    limit: int = 20
    order: Literal["asc", "desc"] = "asc"
    after: str | None = None
    model: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list, and whether there is more behind it."""

    items: list[Stored]
    has_more: bool


class StoredCompletions(Protocol):
    """Every operation is of one tenant, and raises StoreUnavailable when the store is away."""

    def put(self, item: Stored) -> None:
        """Keep an answer, in place of one with the same id."""
        ...

    def get(self, tenant: str, completion_id: str) -> Stored | None:
        """The answer, or None when there is none (any more)."""
        ...

    def set_metadata(self, tenant: str, completion_id: str, metadata: Mapping[str, str]) -> Stored | None:
        """Replace the metadata; the answer as it is then, or None when there is none."""
        ...

    def delete(self, tenant: str, completion_id: str) -> bool:
        """Forget the answer; whether there was one."""
        ...

    def page(self, tenant: str, query: Query) -> Page | None:
        """A page of answers in the order in which they were put; None when `after` is not one of them."""
        ...

    def count(self, tenant: str, user: str) -> int:
        """How many answers to a user (a pseudonym) are kept."""
        ...

    def erase(self, tenant: str, user: str) -> int:
        """Forget all answers to a user (a pseudonym); how many there were."""
        ...

    def close(self) -> None:
        """Let go of connections and files."""
        ...


_SCHEMA = """
CREATE TABLE IF NOT EXISTS stored (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL, id TEXT NOT NULL, user TEXT NOT NULL, model TEXT NOT NULL,
    answer BLOB NOT NULL, messages BLOB NOT NULL, metadata TEXT NOT NULL, expires REAL NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS stored_by_id ON stored (tenant, id);
CREATE INDEX IF NOT EXISTS stored_by_user ON stored (tenant, user);
CREATE INDEX IF NOT EXISTS stored_by_expiry ON stored (expires);
"""
_ROW = "SELECT tenant, id, user, model, answer, messages, metadata FROM stored "
_PUT = """INSERT OR REPLACE INTO stored (tenant, id, user, model, answer, messages, metadata, expires)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
_ONE = "WHERE tenant = ? AND id = ? AND expires > ?"


class SqliteStored:
    """`StoredCompletions` of one machine, in an SQLite file."""

    def __init__(self, path: Path, keep_seconds: float = KEEP_SECONDS) -> None:
        self._keep_seconds = keep_seconds
        self._lock = threading.Lock()
        self._writes = 0
        try:
            self._connection = connect(path, synchronous="NORMAL", busy_seconds=_TIMEOUT_SECONDS)
            self._connection.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten
            self._connection.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(f"cannot open {path}: {error}") from error

    def put(self, item: Stored) -> None:
        """See `StoredCompletions.put`."""
        row = (
            *(item.tenant, item.completion_id, item.user, item.model),
            *(orjson.dumps(item.answer), orjson.dumps(item.messages)),
            *(orjson.dumps(dict(item.metadata)).decode(), time.time() + self._keep_seconds),
        )
        self._do(lambda db: db.execute(_PUT, row))
        self._writes += 1
        if self._writes % _SWEEP_EVERY == 1:
            self._do(lambda db: db.execute("DELETE FROM stored WHERE expires <= ?", (time.time(),)))

    def get(self, tenant: str, completion_id: str) -> Stored | None:
        """See `StoredCompletions.get`."""
        key = (tenant, completion_id, time.time())
        rows = self._do(lambda db: db.execute(_ROW + _ONE, key).fetchall())
        return _of_row(rows[0]) if rows else None

    def set_metadata(self, tenant: str, completion_id: str, metadata: Mapping[str, str]) -> Stored | None:
        """See `StoredCompletions.set_metadata`."""
        values = (orjson.dumps(dict(metadata)).decode(), tenant, completion_id, time.time())
        self._do(lambda db: db.execute(f"UPDATE stored SET metadata = ? {_ONE}", values))
        return self.get(tenant, completion_id)

    def delete(self, tenant: str, completion_id: str) -> bool:
        """See `StoredCompletions.delete`."""
        key = (tenant, completion_id, time.time())
        count = self._do(lambda db: db.execute(f"DELETE FROM stored {_ONE}", key).rowcount)
        self._scrub()
        return bool(count)

    def page(self, tenant: str, query: Query) -> Page | None:
        """See `StoredCompletions.page`."""
        conditions = ["tenant = ?", "expires > ?", "substr(id, 1, ?) = ?"]
        values: list[Any] = [tenant, time.time(), len(query.prefix), query.prefix]
        if query.after is not None:
            key = (tenant, query.after, time.time())
            found = self._do(lambda db: db.execute(f"SELECT place FROM stored {_ONE}", key).fetchall())
            if not found:
                return None
            conditions.append(f"place {'>' if query.order == 'asc' else '<'} ?")
            values.append(found[0][0])
        if query.model is not None:
            conditions.append("model = ?")
            values.append(query.model)
        for pair in query.metadata.items():
            conditions.append("EXISTS (SELECT 1 FROM json_each(metadata) WHERE key = ? AND value = ?)")
            values += pair
        sql = f"{_ROW} WHERE {' AND '.join(conditions)} ORDER BY place {query.order} LIMIT ?"
        rows = self._do(lambda db: db.execute(sql, (*values, query.limit + 1)).fetchall())
        return Page([_of_row(row) for row in rows[: query.limit]], len(rows) > query.limit)

    def count(self, tenant: str, user: str) -> int:
        """See `StoredCompletions.count`."""
        query = "SELECT count(*) FROM stored WHERE tenant = ? AND user = ? AND expires > ?"
        return int(self._do(lambda db: db.execute(query, (tenant, user, time.time())).fetchone()[0]))

    def erase(self, tenant: str, user: str) -> int:
        """See `StoredCompletions.erase`."""
        of_user = "DELETE FROM stored WHERE tenant = ? AND user = ?"
        count = self._do(lambda db: db.execute(of_user, (tenant, user)).rowcount)
        self._scrub()
        return count

    def close(self) -> None:
        """See `StoredCompletions.close`."""
        with self._lock:
            self._connection.close()

    def _scrub(self) -> None:
        """Leave nothing of what was deleted in the file's journal."""
        self._do(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())

    def _do(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            try:
                return operation(self._connection)
            except sqlite3.Error as error:
                raise StoreUnavailable(f"the store does not work: {error}") from error


def _of_row(row: tuple[Any, ...]) -> Stored:
    tenant, completion_id, user, model, answer, messages, metadata = row
    texts = (orjson.loads(text) for text in (answer, messages, metadata))
    return Stored(tenant, completion_id, user, model, *texts)
