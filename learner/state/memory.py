"""The learner's memory in a file rather than in every checkpoint: joins, raters, labels, features.

    <folder>/memory.db

All that is written since a checkpoint is one transaction, and the checkpoint's number is written in it: the
commit is the instant at which a checkpoint counts (see `learner.state.checkpoint`). A process that is killed
before leaves what the checkpoint before it had, and SQLite undoes the rest. So a checkpoint writes what
changed.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import torch
from torch import Tensor

from feedback.core.log import Place, Record
from feedback.joining.file import FileJoins, hash64, make_tables
from feedback.joining.opened import Opener
from feedback.privacy.sealing import Sealer
from feedback.sqlite.file import connect
from learner.state import sealed

FILE = "memory.db"
_LAYOUT = 1
_BUSY_SECONDS = 5.0
_SCHEMA = """
CREATE TABLE checkpoint (one INTEGER PRIMARY KEY CHECK (one = 1), step INTEGER NOT NULL);
CREATE TABLE raters (rater TEXT PRIMARY KEY, agreed REAL NOT NULL, votes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE labels (number INTEGER PRIMARY KEY, id INTEGER NOT NULL UNIQUE, value BLOB NOT NULL);
CREATE TABLE features (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, value BLOB NOT NULL)
"""
_TABLES = ("completions", "names", "votes", "waits", "bodies", "checkpoint", "raters", "labels", "features")


class MemoryDamaged(RuntimeError):
    """The file is not one of this learner's, or not whole."""


class Memory:
    """The file. One process has it (see `checkpoint.exclusive`). Raises `MemoryDamaged`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        try:
            self._db = _ready(connect(self.path, synchronous="FULL", busy_seconds=_BUSY_SECONDS))
        except sqlite3.DatabaseError as error:
            raise MemoryDamaged(
                f"{self.path} cannot be used: {error}. Move the folder {folder} away, and the learner learns "
                "anew from the log"
            ) from error
        self.raters = Raters(self._db)
        self._joins: FileJoins | None = None
        self._scrubs = False

    def joins(
        self, fetch: Callable[[Sequence[Place]], list[Record | None]], sealer: Sealer, keep: int
    ) -> FileJoins:
        """What the joiner remembers; keep: see `FileJoins`."""
        self._joins = FileJoins(self._db, fetch, Opener(sealer), keep)
        return self._joins

    @property
    def step(self) -> int | None:
        """The number of the checkpoint that this belongs to, None before the first."""
        row = self._db.execute("SELECT step FROM checkpoint").fetchone()
        return None if row is None else int(row[0])

    def begin(self) -> None:
        """Let what is written from now on wait for `commit`."""
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")

    def commit(self, step: int) -> None:
        """Make all that was written one with checkpoint `step`."""
        self.begin()
        self._db.execute("INSERT OR REPLACE INTO checkpoint VALUES (1, ?)", (step,))
        self._db.execute("COMMIT")
        if self._scrubs:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._scrubs = False

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Undo what the block wrote when it raises."""
        self.begin()
        self._db.execute("SAVEPOINT attempt")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK TO attempt")
            if self._joins is not None:
                self._joins.rolled_back()
            raise
        finally:
            self._db.execute("RELEASE attempt")

    def clear(self) -> None:
        """Remember nothing."""
        self.begin()
        for table in _TABLES:
            self._db.execute(f"DELETE FROM {table}")

    def scrub(self) -> None:
        """Let the next commit leave no trace of what was deleted in the file's journal either."""
        self._scrubs = True

    def close(self) -> None:
        """Let go of the file; what was not committed is undone."""
        self._db.close()

    # ---- labels, texts sealed

    def save_labels(
        self, changed: Iterable[tuple[int, dict[str, Any]]], gone: Iterable[str], sealer: Sealer
    ) -> None:
        """Write labels, as (number, row), in whose order they come back, and delete others by event id."""
        self.begin()
        self._db.executemany("DELETE FROM labels WHERE id = ?", ((hash64(each),) for each in gone))
        rows = ((number, row["event_id"], _sealed(row, sealer)) for number, row in changed)
        self._db.executemany(
            "INSERT OR REPLACE INTO labels VALUES (?, ?, ?)",
            ((number, hash64(event_id), value) for number, event_id, value in rows),
        )

    def labels(self, sealer: Sealer) -> Iterator[tuple[int, dict[str, Any]]]:
        """The labels as (number, row), in order; texts of owners who were erased are gone."""
        for number, value in self._db.execute("SELECT number, value FROM labels ORDER BY number"):
            yield number, _unsealed(orjson.loads(value), sealer)

    # ---- features

    def save_features(self, changed: Mapping[str, Tensor], gone: Iterable[str]) -> None:
        """Write features (D,) of half precision by their keys, and delete others."""
        self.begin()
        self._db.executemany("DELETE FROM features WHERE id = ?", ((key,) for key in gone))
        rows = ((key, row.numpy().tobytes()) for key, row in changed.items())
        self._db.executemany("INSERT OR REPLACE INTO features (id, value) VALUES (?, ?)", rows)

    def features(self) -> Iterator[tuple[str, Tensor]]:
        """The features by their keys, in the order in which they came."""
        for key, value in self._db.execute("SELECT id, value FROM features ORDER BY number"):
            yield key, torch.frombuffer(bytearray(value), dtype=torch.float16)


class Raters(MutableMapping[str, tuple[float, int]]):
    """Rater -> sum of agreements, votes; in the file, so that memory does not grow with them."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __getitem__(self, rater: str) -> tuple[float, int]:
        row = self._db.execute("SELECT agreed, votes FROM raters WHERE rater = ?", (rater,)).fetchone()
        if row is None:
            raise KeyError(rater)
        return float(row[0]), int(row[1])

    def __setitem__(self, rater: str, sums: tuple[float, int]) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("INSERT OR REPLACE INTO raters VALUES (?, ?, ?)", (rater, *sums))

    def __delitem__(self, rater: str) -> None:
        if not self._db.execute("DELETE FROM raters WHERE rater = ?", (rater,)).rowcount:
            raise KeyError(rater)

    def __iter__(self) -> Iterator[str]:
        return (rater for (rater,) in self._db.execute("SELECT rater FROM raters ORDER BY rater"))

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM raters").fetchone()[0])


def _ready(db: sqlite3.Connection) -> sqlite3.Connection:
    """An open file with its tables. Raises `sqlite3.DatabaseError` when it is of another layout."""
    db.execute("PRAGMA secure_delete=ON")  # an erased user's features are to leave nothing in free pages
    db.execute("PRAGMA cache_size=-65536")  # 64 MiB
    (layout,) = db.execute("PRAGMA user_version").fetchone()
    if layout == 0:
        db.execute("BEGIN IMMEDIATE")
        make_tables(db)
        for statement in _SCHEMA.split(";"):
            db.execute(statement)
        db.execute(f"PRAGMA user_version={_LAYOUT}")
        db.execute("COMMIT")
    elif layout != _LAYOUT:
        db.close()
        raise sqlite3.DatabaseError(f"its layout is {layout}, and {_LAYOUT} is needed")
    return db


def _sealed(row: dict[str, Any], sealer: Sealer) -> bytes:
    return orjson.dumps(sealed.seal({"labels": {"labels": [row]}}, sealer))


def _unsealed(state: dict[str, Any], sealer: Sealer) -> dict[str, Any]:
    row: dict[str, Any] = sealed.unseal(state, sealer)["labels"]["labels"][0]
    return row
