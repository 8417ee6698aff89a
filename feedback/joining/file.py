"""A joiner's memory in an SQLite file: where in the log each completion lies, and which votes wait for one.

A completion takes some 60 bytes here whatever was said in it: its texts stay in the log, under their user's
key, and are opened when a vote is about it. So a vote finds its answer as long as the log has it, a restart
reads nothing, and an erasure has nothing to reach here. Votes lie here only while they wait, as they lie in
the log. Names and ids are kept as 64-bit hashes.

Nothing here begins or ends a transaction: whoever has the file does.
"""

import hashlib
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any

from feedback.core.events import COMPLETIONS, Feedback
from feedback.core.log import LogUnavailable, Place, Record
from feedback.joining.canonical import Said, canonical, said_of
from feedback.joining.labels import Answer
from feedback.joining.memory import CompletionsUnavailable, Gone, bare_value, waited_for
from feedback.joining.newest import Newest
from feedback.joining.opened import Head, Name, Opener, Unreadable

_SCHEMA = """
CREATE TABLE completions (
    number INTEGER PRIMARY KEY, key INTEGER NOT NULL UNIQUE, partition INTEGER NOT NULL,
    offset INTEGER NOT NULL);
CREATE TABLE names (name INTEGER NOT NULL, at REAL NOT NULL, id TEXT NOT NULL, number INTEGER NOT NULL,
    PRIMARY KEY (name, at, id)) WITHOUT ROWID;
CREATE INDEX names_by_number ON names (number);
CREATE TABLE votes (
    number INTEGER PRIMARY KEY, key INTEGER NOT NULL UNIQUE, revision INTEGER NOT NULL, value REAL NOT NULL,
    label TEXT NOT NULL, digest BLOB NOT NULL);
CREATE TABLE waits (
    number INTEGER PRIMARY KEY, name INTEGER NOT NULL, vote INTEGER NOT NULL, UNIQUE (name, vote));
CREATE INDEX waits_by_vote ON waits (vote);
CREATE TABLE bodies (
    vote INTEGER PRIMARY KEY, at REAL NOT NULL, joined INTEGER NOT NULL, value BLOB NOT NULL);
CREATE INDEX bodies_by_time ON bodies (at)
"""
RECENT = 50_000
"""Completions that are read as the newest (see `Joins.recent`)."""

WAIT_SECONDS = 24 * 3600.0
"""By the log's time: what a vote is about has to come within so long of it, or the vote is lost."""

MOST_WAITING = 200_000
"""Votes that wait at the same time: of more the oldest are lost."""

KEEP = 2_000_000
"""Completions, and votes, that are known."""

_NEWEST_BYTES = 256 << 20
_FETCH = 500  # completions of one question to the log

Fetch = Callable[[Sequence[Place]], list[Record | None]]


class FileJoins:
    """Joins in the tables of `make_tables`.

    fetch: reads records from the log, and may raise `LogUnavailable`. keep: completions, and votes, of which
    is known that they were. most_waiting: votes that wait at the same time. Of more the oldest are forgotten
    by `sweep`.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        fetch: Fetch,
        opener: Opener,
        keep: int = KEEP,
        recent: int = RECENT,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self._db, self._fetch, self._opener = db, fetch, opener
        self.opens = True  # whether `answers` come with their texts, which takes most of the time
        self._bare = opener.bare()
        self._keep, self._recent, self._most_waiting = keep, recent, most_waiting
        self._newest = Newest(_NEWEST_BYTES)
        self._awaited: set[int] | None = None  # the names that votes wait for; None: to be read in the file
        self._opened: OrderedDict[int, tuple[Answer, ...]] = OrderedDict()  # what `recent` gave, by number
        self._clock = 0.0  # the latest time of a vote

    # ---- completions

    def look_again(self) -> None:
        """See `Joins.look_again`."""
        self._opener.look_again()
        self._bare.look_again()

    def add(self, head: Head, record: Record) -> bool:
        """See `Joins.add`; its texts are not opened. Raises `VaultLost` when they can never be."""
        self._opener.check(head)
        key = hash64(head.completion_id)
        insert = "INSERT INTO completions (key, partition, offset) VALUES (?, ?, ?) "
        row = (key, record.partition, record.offset)
        done = self._db.execute(insert + "ON CONFLICT (key) DO NOTHING", row)
        number = done.lastrowid
        if not done.rowcount or number is None:
            return False
        if head.role == "answer":
            for name in head.names:
                named = (_key(name), head.at, head.completion_id, number)
                self._db.execute("INSERT OR IGNORE INTO names VALUES (?, ?, ?, ?)", named)
        self._newest.add(number, key, record)
        return True

    def _place(self, completion_id: str) -> tuple[int, tuple[int, int]] | None:
        """A completion's number, and its (partition, offset); None when it is not known."""
        key = hash64(completion_id)
        number = self._newest.number(key)
        if number is not None and (record := self._newest.record(number)) is not None:
            return number, (record.partition, record.offset)
        row = self._row("SELECT number, partition, offset FROM completions WHERE key = ?", key)
        return None if row is None else (row[0], row[1:])

    def _knows(self, completion_id: str) -> bool:
        return self._place(completion_id) is not None

    def answers(self, completion_id: str) -> tuple[Answer, ...] | None:
        """See `Joins.answers`."""
        place = self._place(completion_id)
        if place is None:
            return None
        number, spot = place
        if number in self._opened:
            return self._opened[number]
        record = self._newest.record(number) or self._fetched([spot])[0]
        if record is None:
            raise Gone(completion_id)
        found = self._open(record, self._opener if self.opens else self._bare)
        if found and found[0].completion_id != completion_id:  # an older file of the log was put back
            raise Gone(completion_id)
        return found

    def _fetched(self, spots: Sequence[tuple[int, int]]) -> list[Record | None]:
        """The completions at some (partition, offset)."""
        try:
            return self._fetch([Place(COMPLETIONS, *spot) for spot in spots])
        except LogUnavailable as error:
            raise CompletionsUnavailable(str(error)) from error

    def _open(self, record: Record, opener: Opener) -> tuple[Answer, ...]:
        try:
            return opener.answers(record.value)
        except ValueError as error:
            raise Unreadable(record, str(error)) from error

    def named(self, name: Name) -> list[tuple[float, str]]:
        """See `Joins.named`."""
        query = "SELECT at, id FROM names WHERE name = ? ORDER BY at, id"
        return self._db.execute(query, (_key(name),)).fetchall()

    def recent(self) -> Mapping[str, tuple[Answer, ...]]:
        """See `Joins.recent`. Opens those that were not opened before; what the log lost is left out."""
        (last,) = self._row("SELECT coalesce(max(number), 0) FROM completions") or (0,)
        first = max(last - self._recent, next(reversed(self._opened), 0)) + 1
        query = "SELECT number, partition, offset FROM completions WHERE number >= ? ORDER BY number"
        rows = iter(self._db.execute(query, (first,)).fetchall())
        while some := list(islice(rows, _FETCH)):
            missing = [row for row in some if self._newest.record(row[0]) is None]
            records = self._fetched([(partition, offset) for _, partition, offset in missing])
            fetched = dict(zip((row[0] for row in missing), records, strict=True))
            for number, _, _ in some:
                record = self._newest.record(number) or fetched.get(number)
                self._opened[number] = () if record is None else self._open_if_whole(record)
        while self._opened and next(iter(self._opened)) <= last - self._recent:
            self._opened.popitem(last=False)
        found = ((answers[0].completion_id, answers) for answers in self._opened.values() if answers)
        return MappingProxyType(dict(found))

    def _open_if_whole(self, record: Record) -> tuple[Answer, ...]:
        try:
            return self._open(record, self._opener)
        except Unreadable:
            return ()

    # ---- votes

    def put(self, vote: Feedback, value: bytes) -> bool:
        """See `Joins.put`."""
        key, said = hash64(vote.event_id), said_of(vote)
        insert = "INSERT INTO votes (key, revision, value, label, digest) VALUES (?, ?, ?, ?, ?)"
        if not self._db.execute(f"{insert} ON CONFLICT (key) DO NOTHING", (key, *said)).rowcount:
            query = "SELECT revision, value, label, digest FROM votes WHERE key = ?"
            if said <= Said(*self._row(query, key)):
                return False
            update = "UPDATE votes SET revision = ?, value = ?, label = ?, digest = ? WHERE key = ?"
            self._db.execute(update, (*said, key))
        self._clock = max(self._clock, vote.at)
        if waits_for := [_key(name) for name in waited_for(vote, self._knows)]:
            insert = "INSERT OR IGNORE INTO waits (name, vote) VALUES (?, ?)"
            self._db.executemany(insert, [(name, key) for name in waits_for])
            self._db.execute("INSERT OR REPLACE INTO bodies VALUES (?, ?, 0, ?)", (key, vote.at, value))
            self._awaited_names().update(waits_for)
        return True

    def waiting(self, name: Name) -> list[Feedback]:
        """See `Joins.waiting`."""
        key = _key(name)
        if key not in self._awaited_names():
            return []
        query = "SELECT vote, value FROM waits JOIN bodies USING (vote) WHERE name = ? ORDER BY waits.number"
        rows = self._db.execute(query, (key,)).fetchall()
        if name[0] == "id" and rows:
            self._db.execute("DELETE FROM waits WHERE name = ?", (key,))
            self._awaited_names().discard(key)
            ended = "DELETE FROM bodies WHERE vote = ?1 AND NOT EXISTS (SELECT 1 FROM waits WHERE vote = ?1)"
            self._db.executemany(ended, [(vote,) for vote, _ in rows])
        return [canonical(self._opener.vote(value)) for _, value in rows]

    def _awaited_names(self) -> set[int]:
        """The names that votes wait for. Mostly nothing waits for what comes, and then no file is asked."""
        if self._awaited is None:
            self._awaited = {name for (name,) in self._db.execute("SELECT DISTINCT name FROM waits")}
        return self._awaited

    def joined(self, vote: Feedback) -> None:
        """See `Joins.joined`."""
        if self._awaited_names():
            self._db.execute("UPDATE bodies SET joined = 1 WHERE vote = ?", (hash64(vote.event_id),))

    def sweep(self) -> list[Feedback]:
        """Forget what is too old. Gives the votes that are lost by that: what they are about never came."""
        for table in ("completions", "votes"):
            oldest = f"(SELECT max(number) - ? FROM {table})"
            self._db.execute(f"DELETE FROM {table} WHERE number <= {oldest}", (self._keep,))
        self._db.execute("DELETE FROM names WHERE number < (SELECT min(number) FROM completions)")
        (first,) = self._row("SELECT coalesce(min(number), 0) FROM completions")
        self._newest.drop_before(first)
        (waiting,) = self._row("SELECT count(*) FROM bodies") or (0,)
        query = "SELECT vote, joined, value FROM bodies WHERE at < ? OR vote IN "
        query += "(SELECT vote FROM bodies ORDER BY at LIMIT ?) ORDER BY at"
        surplus = max(0, waiting - self._most_waiting)
        rows = self._db.execute(query, (self._clock - WAIT_SECONDS, surplus)).fetchall()
        for table in ("bodies", "waits"):
            self._db.executemany(f"DELETE FROM {table} WHERE vote = ?", [(vote,) for vote, _, _ in rows])
        self._awaited = None
        return [self._opener.vote(value) for _, joined, value in rows if not joined]

    # ---- the rest

    def forget_texts(self, tenant: str, user: str) -> None:
        """See `Joins.forget_texts`: what waits, and what was opened. The rest lies under the user's key."""
        for number, answers in self._opened.items():
            if answers and (answers[0].tenant, answers[0].user) == (tenant, user):
                self._opened[number] = tuple(answer.without_text() for answer in answers)
        self._newest.clear()
        for key, value in self._db.execute("SELECT vote, value FROM bodies").fetchall():
            if (bare := bare_value(value, tenant, user)) is not None:
                self._db.execute("UPDATE bodies SET value = ? WHERE vote = ?", (bare, key))

    def rolled_back(self) -> None:
        """The file went back to an earlier state: what was remembered beside it may not be in it."""
        self._newest.clear()
        self._awaited = None
        (last,) = self._row("SELECT coalesce(max(number), 0) FROM completions") or (0,)
        while self._opened and next(reversed(self._opened)) > last:
            self._opened.popitem()

    def state(self) -> dict[str, Any]:
        """See `Joins.state`."""
        return {"clock": self._clock}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what `state()` described; the tables are there already."""
        self._clock = state["clock"]

    def _row(self, query: str, *values: object) -> Any:
        return self._db.execute(query, values).fetchone()


def make_tables(db: sqlite3.Connection) -> None:
    """Make the tables in a file that has none of them."""
    for statement in _SCHEMA.split(";"):
        db.execute(statement)


def hash64(text: str) -> int:
    """A text as a number that SQLite can hold; two of a million have the same in one of 4e7 services."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)


def _key(name: Name) -> int:
    return hash64("\0".join(name))
