"""What a sync has done so far, in one SQLite file: which votes were sent, and what they said.

A row is a slot (a rater's thumb, or rating, on an answer): the item elsewhere that filled it last, what it
said, its id here, how often it changed (which makes each change's idempotency key its own), and how many
looks in a row missed it.
"""

import json
import secrets
import sqlite3
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

from feedback.sqlite.file import connect
from hearken.base.errors import UsageError

_TABLES = """
CREATE TABLE IF NOT EXISTS origin (url TEXT NOT NULL, nonce TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS slots (
    slot TEXT PRIMARY KEY, item TEXT NOT NULL, at REAL NOT NULL, digest TEXT NOT NULL, vote TEXT NOT NULL,
    revision INTEGER NOT NULL, missed INTEGER NOT NULL
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Sent:
    """A vote as it was last sent. at: when it was given, in Unix seconds. vote: its id here, "" for one that
    was taken back."""

    slot: str
    item: str
    at: float
    digest: str
    vote: str
    revision: int
    missed: int = 0

    @property
    def user(self) -> str:
        """Who voted."""
        _, user, _ = json.loads(self.slot)
        return str(user)


class SyncState:
    """The file; every change is durable when its method returns.

    nonce: its own; a new file's idempotency keys are new, for what was said before is not known to it.
    """

    def __init__(self, path: Path, origin: str) -> None:
        """Open it, or make it. origin: where the votes come from.

        Raises UsageError for a file of another origin, and for what cannot be used.
        """
        try:
            self._db = connect(path, synchronous="FULL", busy_seconds=5.0)
            self._db.executescript(_TABLES)
            found = self._db.execute("SELECT url, nonce FROM origin").fetchone()
            if found is None:
                found = (origin, secrets.token_hex(8))
                self._db.execute("INSERT INTO origin VALUES (?, ?)", found)
        except (sqlite3.Error, OSError) as error:
            raise UsageError(f"{path} cannot be a sync's memory: {error}; name another --state") from error
        if found[0] != origin:
            self._db.close()
            raise UsageError(
                f"{path} remembers what was taken from {found[0]}, and not from {origin}; give each a "
                "--state of its own"
            )
        self.nonce: str = found[1]

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def since(self, start: float) -> dict[str, Sent]:
        """The votes that were given from `start` on (Unix seconds), by their slots."""
        columns = "slot, item, at, digest, vote, revision, missed"
        rows = self._db.execute(f"SELECT {columns} FROM slots WHERE at >= ?", (start,))
        return {row[0]: Sent(*row) for row in rows}

    def keep(self, votes: Iterable[Sent]) -> None:
        """Remember votes as they are now."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(
            "INSERT OR REPLACE INTO slots (slot, item, at, digest, vote, revision, missed) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            [astuple(one) for one in votes],
        )
        self._db.execute("COMMIT")

    def forget_before(self, start: float) -> None:
        """Forget votes that no look will ask for again."""
        self._db.execute("DELETE FROM slots WHERE at < ?", (start,))
