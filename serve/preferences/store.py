"""Where people's preferences are kept: short lists of sentences, sealed with their users' keys.

    <vault>/preferences.db       owner (SHA-256 of tenant/pseudonym), number of entries, the sealed list
    <vault>/preferences.changes  a full stop for each change

They lie beside the keys. Every gateway sees that folder, nothing in it can be lost as a shared store can, and
backups of the log leave it out. An erased key erases the list wherever a copy of it lies.

A chat looks by one `stat` whether what is remembered here is still true. A change is told while the file is
held alone, before it is durable: whoever looks in between waits for it, and a process that is killed in
between has only made others look once more.
"""

import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from feedback.privacy.sealing import SealBroken, Sealer
from feedback.privacy.vault_keys import UserKey, owner_of
from serve.storage.stored import StoreUnavailable

Entries = tuple[str, ...]
Change = Callable[[Entries], Entries]

_FILE, _CHANGES = "preferences.db", "preferences.changes"
_CACHED_USERS = 10_000
_BUSY_SECONDS = 5.0
_SCHEMA = """CREATE TABLE IF NOT EXISTS preferences (
    owner BLOB PRIMARY KEY, entries INTEGER NOT NULL, sealed TEXT NOT NULL)"""
_GET = "SELECT sealed FROM preferences WHERE owner = ?"
_COUNT = "SELECT entries FROM preferences WHERE owner = ?"
_PUT = "INSERT OR REPLACE INTO preferences (owner, entries, sealed) VALUES (?, ?, ?)"
_DELETE = "DELETE FROM preferences WHERE owner = ?"

_Look = tuple[int, int, int]


class PreferenceStore:
    """The lists of all users, for any thread and process. What waits for the disk raises StoreUnavailable,
    and VaultUnavailable where a key is needed.

    Users are named by tenant and pseudonym. `folder`: the vault's.
    """

    def __init__(self, folder: Path, sealer: Sealer) -> None:
        self._folder = folder
        self._changes = str(folder / _CHANGES)
        self._sealer = sealer
        self._lock = threading.Lock()  # guards what is remembered
        self._seen: _Look | None = None  # as of which it is true
        self._held: OrderedDict[str, Entries] = OrderedDict()

    def at_hand(self, tenant: str, user: str) -> Entries | None:
        """The user's list if that is known without waiting. Raises StoreUnavailable."""
        look = self._look()
        if look is None:
            return ()
        with self._lock:
            return self._held.get(f"{tenant}/{user}") if look == self._seen else None

    def read(self, tenant: str, user: str) -> Entries:
        """The user's list; empty for one who has none, or was erased."""
        look = self._look()
        if look is None:
            return ()
        with self._opened() as db:
            found = self._entries(db, tenant, user)
        with self._lock:
            if self._seen != look:
                self._held.clear()
                self._seen = look
            self._held[f"{tenant}/{user}"] = found
            if len(self._held) > _CACHED_USERS:
                self._held.popitem(last=False)
        return found

    def change(self, tenant: str, user: str, key: UserKey, change: Change) -> Entries:
        """What `change` makes of the user's list, durable when this returns; what it raises changes nothing.

        key: the user's, to seal the list with.
        """
        owner = owner_of(f"{tenant}/{user}")
        with self._alone() as db:
            before = self._entries(db, tenant, user)
            after = change(before)
            if after and after != before:
                sealed = self._sealer.seal_texts_with(tenant, user, list(after), key)
                db.execute(_PUT, (owner, len(after), sealed))
            elif not after:
                db.execute(_DELETE, (owner,))
        return after

    def count(self, tenant: str, user: str) -> int:
        """How many entries a user has."""
        if self._look() is None:
            return 0
        with self._opened() as db:
            row = db.execute(_COUNT, (owner_of(f"{tenant}/{user}"),)).fetchone()
        return 0 if row is None else int(row[0])

    def erase(self, tenant: str, user: str) -> int:
        """Forget a user's list; how many entries it had."""
        count = self.count(tenant, user)
        if count:
            with self._alone() as db:
                db.execute(_DELETE, (owner_of(f"{tenant}/{user}"),))
        return count

    def _entries(self, db: sqlite3.Connection, tenant: str, user: str) -> Entries:
        row = db.execute(_GET, (owner_of(f"{tenant}/{user}"),)).fetchone()
        if row is None:
            return ()
        try:
            opened = self._sealer.open_texts(tenant, user, row[0])
        except SealBroken as error:
            raise StoreUnavailable(f"{self._folder / _FILE} is damaged: {error}") from error
        return tuple(opened or ())

    def _look(self) -> _Look | None:
        """What a `stat` tells; None where nobody ever had a list. Raises StoreUnavailable."""
        try:
            found = os.stat(self._changes)
        except (FileNotFoundError, NotADirectoryError) as error:
            if self._seen is not None:
                raise StoreUnavailable(f"{self._changes} was there and is gone") from error
            return None
        except OSError as error:
            raise StoreUnavailable(f"{self._changes} cannot be looked at: {error}") from error
        return found.st_dev, found.st_ino, found.st_size

    def _ring(self) -> None:
        descriptor = os.open(self._changes, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, b".")
        finally:
            os.close(descriptor)

    @contextmanager
    def _alone(self) -> Iterator[sqlite3.Connection]:
        """The file, with no other process reading or writing it; a change that others are told of."""
        with self._opened(make=self._look() is None) as db:
            db.execute("BEGIN EXCLUSIVE")  # closing ends a transaction that was not committed
            self._ring()
            yield db
            db.execute("COMMIT")

    @contextmanager
    def _opened(self, *, make: bool = False) -> Iterator[sqlite3.Connection]:
        """The file, opened for one operation: reads are remembered, and changes are rare.

        make: there may be none yet. Else one that is not there was lost, and nobody's list is empty for that.
        """
        try:
            path = self._folder / _FILE
            os.close(os.open(path, os.O_RDWR | (os.O_CREAT if make else 0), 0o600))
            with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)) as db:
                # As in the vault: its folder may be on a network's volume, where a write-ahead log cannot be.
                db.execute("PRAGMA journal_mode=TRUNCATE")
                db.execute("PRAGMA synchronous=FULL")
                db.execute("PRAGMA secure_delete=ON")
                db.execute(_SCHEMA)
                yield db
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(f"preferences cannot be read or written: {error}") from error
