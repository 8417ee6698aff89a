"""Opening SQLite files that several processes share, and what to do when the disk misbehaves."""

import os
import sqlite3
import time
from pathlib import Path
from typing import NoReturn

_PRIMARY_CODE = 0xFF  # the low byte of an extended SQLite error code
_UNWRITABLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PERM,
}
# No room for the index of the WAL in shared memory: found before a byte of the WAL was written.
_FULL_IN_DISGUISE = {sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMOPEN}
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
EXIT_IO_ERROR = 74  # EX_IOERR of sysexits.h


class DamagedFile(Exception):
    """The file does not hold what was written to it."""


FILE_ERRORS = (sqlite3.Error, DamagedFile, UnicodeDecodeError)
"""All that using a file can raise. The last is what Python makes of SQLite's words about a damaged name."""


def connect(path: Path, *, synchronous: str, busy_seconds: float) -> sqlite3.Connection:
    """A connection in WAL mode and autocommit, which any one thread at a time may use.

    `synchronous` is SQLite's: "FULL" makes a commit survive a power cut, "NORMAL" does not.
    Raises `sqlite3.OperationalError` when the file cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
    try:
        _use_wal(connection, time.monotonic() + busy_seconds)
        connection.execute(f"PRAGMA synchronous={synchronous}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection, deadline: float) -> None:
    # The switch to WAL needs the file alone, and SQLite does not wait for that by itself.
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def primary_code(error: Exception) -> int:
    """SQLite's primary result code, 0 for an error that Python raised without SQLite."""
    return int(getattr(error, "sqlite_errorcode", 0)) & _PRIMARY_CODE


def is_unwritable(error: Exception) -> bool:
    """Whether the write certainly did not happen and may work later: full, read-only or locked."""
    code = int(getattr(error, "sqlite_errorcode", 0))
    return primary_code(error) in _UNWRITABLE or code in _FULL_IN_DISGUISE


def is_io_error(error: Exception) -> bool:
    """Whether the disk failed in the middle: what it holds now is not known."""
    return primary_code(error) == sqlite3.SQLITE_IOERR and not is_unwritable(error)


def is_damage(error: Exception) -> bool:
    """Whether the file does not hold what was written there."""
    return isinstance(error, DamagedFile | UnicodeDecodeError) or primary_code(error) in _DAMAGE


def die(path: Path, error: Exception | str) -> NoReturn:
    """End the process at once.

    After a failed fsync the kernel may drop the dirty pages and report success the next time, so nothing
    that this process would acknowledge from here on could be trusted. A fresh process reads what is
    really on the disk.
    """
    what = f"I/O error on {path}: {error} ({getattr(error, 'sqlite_errorname', 'I/O error')})"
    if isinstance(error, str):
        what = f"{path}: {error}"
    os.write(2, f"hearken: {what}. Ending this process.\n".encode())
    os._exit(EXIT_IO_ERROR)
