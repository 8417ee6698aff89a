"""The file of a vault: wrapped keys, and which users were erased.

SQLite with a rollback journal and not a write-ahead log: gateways and the learner of a cluster have the vault
on one shared volume, and a write-ahead log needs the shared memory of one machine. Locks are POSIX's.

A key is erased by writing zeros over it where it lies. No row is ever deleted and rows are only added at the
end, so SQLite never moves a key to another place of the file, where a copy could be left behind.
"""

import os
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from feedback.core.files import fsync
from feedback.privacy.vault_mark import new_id

FILE = "keys.db"
WRAPPED_BYTES = 12 + 32 + 16  # nonce, key, GCM's tag
_BUSY_SECONDS = 30.0
_OLD_FOLDER = re.compile("[0-9a-f]{2}")
_OLD_FILE = re.compile("[0-9a-f]{62}")
_SCHEMA = """
CREATE TABLE keys (number INTEGER PRIMARY KEY, owner BLOB NOT NULL, wrapped BLOB NOT NULL);
CREATE INDEX keys_by_owner ON keys (owner);
CREATE TABLE erasures (
    number INTEGER PRIMARY KEY, owner BLOB NOT NULL, at REAL NOT NULL, had_key INTEGER NOT NULL);
CREATE INDEX erasures_by_owner ON erasures (owner);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)
"""


class VaultFile:
    """A connection to the file. `owner` is always the SHA-256 of a user's name. Raises `sqlite3.Error`.

    olds: the folders in which there may be files of before, with a user's key each.
    """

    def __init__(self, folder: Path, olds: Sequence[Path]) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / FILE
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        found = os.fstat(descriptor)
        os.close(descriptor)
        self._place = (found.st_dev, found.st_ino)
        self._olds, self._path = olds, path
        self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=TRUNCATE")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA secure_delete=ON")
        with self.transaction():
            if self._db.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
                self.put_fact("id", new_id())
                self._db.execute("PRAGMA user_version=1")

    def is_there(self) -> bool:
        """Whether the file is still the one in the folder: a key that is written to another one is lost."""
        try:
            found = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (found.st_dev, found.st_ino) == self._place

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything in the block or nothing of it, alone among all processes; durable at its end."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # the first error tells more
                self._db.execute("ROLLBACK")
            raise

    # ---- keys

    def wrapped(self, owner: bytes) -> list[bytes]:
        """An owner's keys, the newest first; erased ones are left out."""
        query = "SELECT wrapped FROM keys WHERE owner = ? ORDER BY number DESC"
        return [key for (key,) in self._db.execute(query, (owner,)) if any(key)]

    def add(self, owner: bytes, wrapped: bytes) -> None:
        """Add a key."""
        self._db.execute("INSERT INTO keys (owner, wrapped) VALUES (?, ?)", (owner, wrapped))

    # ---- erasures

    def erase(self, owner: bytes) -> bool:
        """Write zeros over an owner's keys and note that it was done; whether there was a key."""
        had_key = bool(self.wrapped(owner))
        self._db.execute(f"UPDATE keys SET wrapped = zeroblob({WRAPPED_BYTES}) WHERE owner = ?", (owner,))
        for folder in self._olds:
            had_key |= _destroy(folder / owner.hex()[:2] / owner.hex()[2:])
        note = "INSERT INTO erasures (owner, at, had_key) VALUES (?, ?, ?)"
        self._db.execute(note, (owner, time.time(), had_key))
        return had_key

    def erasures(self) -> int:
        """How many there were: the number of the newest."""
        return int(self._db.execute("SELECT coalesce(max(number), 0) FROM erasures").fetchone()[0])

    def erased(self, owner: bytes) -> tuple[int, float | None]:
        """The number of an owner's newest erasure, 0 for none, and the time of the newest that took a key."""
        query = "SELECT coalesce(max(number), 0), max(CASE WHEN had_key THEN at END) FROM erasures "
        number, at = self._db.execute(query + "WHERE owner = ?", (owner,)).fetchone()
        return number, at

    # ---- facts: id, took_over (old files: whose erasures left no note), gave_up (what was lost before)

    def fact(self, name: str) -> str | None:
        """One of the facts, None where it is not so."""
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def put_fact(self, name: str, value: str) -> None:
        """Note a fact."""
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    # ---- the files of before: one for each user

    def take_over(self) -> int:
        """Take in the files that each held one user's key, and remove them; how many there were.

        Files are read in the transaction that writes their keys, so no process brings back what another one
        erases meanwhile; a process that is killed here does it again.
        """
        count = 0
        for folder in old_folders(self._olds):
            files: list[Path] = []
            with suppress(FileNotFoundError):  # another process was faster
                files = [path for path in folder.iterdir() if _OLD_FILE.fullmatch(path.name)]
            with self.transaction():
                self.put_fact("took_over", "1")
                for path in files:
                    with suppress(FileNotFoundError):
                        self._take(bytes.fromhex(folder.name + path.name), path.read_bytes())
            count += sum(_destroy(path, at_once=False) for path in files)
            with suppress(OSError):  # a process of before is writing there
                folder.rmdir()
                fsync(folder.parent)
        return count

    def _take(self, owner: bytes, wrapped: bytes) -> None:
        if len(wrapped) == WRAPPED_BYTES and wrapped not in self.wrapped(owner):
            self.add(owner, wrapped)


def old_folders(olds: Sequence[Path]) -> list[Path]:
    """The folders in vaults of before, in which each user had a file."""
    found: list[Path] = []
    for folder in olds:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as listed:
            found += [
                Path(each.path) for each in listed if _OLD_FOLDER.fullmatch(each.name) and each.is_dir()
            ]
    return found


def _destroy(path: Path, *, at_once: bool = True) -> bool:
    """Write zeros over a key's file and remove it; whether it was there. at_once: durable on return."""
    try:
        with path.open("r+b") as file:
            file.write(bytes(os.fstat(file.fileno()).st_size))
            file.flush()
            if at_once:
                os.fsync(file.fileno())
            path.unlink()
    except FileNotFoundError:
        return False
    return True
