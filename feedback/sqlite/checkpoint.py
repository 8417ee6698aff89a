"""Moving what was committed from SQLite's write-ahead log into the file, while others go on writing.

Left to itself SQLite does this in whichever commit makes the -wal 4 MB long: every vote of that commit would
wait for it, several times a second under load.
"""

import sqlite3
import threading
from collections.abc import Callable

_PAGE_BYTES = 4096
_PAGES_PER_COMMIT = 4  # heads, sequence, records and their index: what any commit writes
_DUE_BYTES = 4 * 1024 * 1024
_LARGE_PAGES = 32 * 1024 * 1024 // _PAGE_BYTES


class Checkpointer:
    """A thread that checkpoints for one writer. `connect` gives it a connection of its own."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], name: str) -> None:
        self._connect = connect
        self._bytes = 0  # committed since the last checkpoint began, about
        self._due = threading.Event()
        self._closing = False
        self._is_large = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def committed(self, connection: sqlite3.Connection, value_bytes: int) -> None:
        """After each commit of the writer, on its thread and its connection.

        A -wal starts again from its beginning only when a writer finds all of it in the file. While votes
        keep coming that never happens by itself: when it is large the writer does the little that is left.
        """
        self._bytes += value_bytes + _PAGES_PER_COMMIT * _PAGE_BYTES
        if self._is_large:
            self._is_large = False
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        elif self._bytes > _DUE_BYTES:
            self._bytes = 0
            self._due.set()

    def refused(self) -> None:
        """After a commit for which there was no room: the -wal's may be had again."""
        self._due.set()

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while self._due.wait() and not self._closing:
            self._due.clear()
            try:
                connection = connection or self._connect()
                ((_, pages, _),) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                self._is_large = pages > _LARGE_PAGES
            except sqlite3.Error:
                self._is_large = True  # the writer tries, and knows what an error means
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """End the thread."""
        self._closing = True
        self._due.set()
        self._thread.join()
