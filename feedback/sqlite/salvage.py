"""Rebuilding a damaged log: records whose checksum is right go into a new file, the rest is reported."""

import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from feedback.core.files import fsync
from feedback.sqlite import rows
from feedback.sqlite.file import FILE_ERRORS
from feedback.sqlite.pages import Pages, Value

logger = logging.getLogger(__name__)

UNKNOWN = 1_000_000
"""How far offsets jump when it cannot be told how many were given out."""

THE_END = "(the end)"
"""Where ids are listed as lost whose topic is not known."""

Row = tuple[int, str, int, str, bytes, float, int | None]


def salvage(folder: Path, path: Path, mark: int) -> dict[str, object]:
    """Rebuild `path` from the damaged files in `folder`; what was kept and lost, also in folder/report.json.

    `mark` is an id that was durable, 0 when that is not known. New offsets begin after any that may have been
    given out, so that no reader's cursor ever points into the middle of other records. Interrupted, it can
    be begun again. Raises `OSError` or `sqlite3.Error` when the new file cannot be written.
    """
    name, new = path.name, path.with_name(path.name + "-salvaged")
    pages = Pages(folder / name, [folder / f"{name}-wal", folder / f"{name}-wal-late"])
    new.unlink(missing_ok=True)
    connection = sqlite3.connect(new, isolation_level=None)
    with contextlib.closing(connection):
        rows.prepare(connection)
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT OR IGNORE INTO records VALUES (?, ?, ?, ?, ?, ?, ?)", _good(pages))
        heads = _heads(folder / name)
        _copy_small_tables(connection, folder / name)
        lost = _close_gaps(connection, heads, mark)
        kept, lowest = connection.execute("SELECT count(*), min(id) FROM records").fetchone()
        top = rows.last_id(connection)
        connection.execute("COMMIT")
    fsync(new)
    for suffix in ("-wal", "-shm"):
        path.with_name(name + suffix).unlink(missing_ok=True)
    os.replace(new, path)
    count = sum(last - first + 1 for holes in lost.values() for first, last in holes)
    if mark and sum(after for after, _, _ in heads.values()) < top:
        # The heads are not known, or old. But ids have no holes, except where old records were deleted.
        count = max(count, top - (lowest if heads and lowest else 1) + 1 - kept)
    report = {"kept": kept, "lost": lost, "lost_records": count}
    (folder / "report.json").write_text(json.dumps(report) + "\n")
    logger.error(
        "the log %s was damaged and has been rebuilt: %d records kept, at most %d lost (%s); the damaged "
        "files are kept beside it",
        *(path, kept, count, lost),
    )
    return report


def _good(pages: Pages) -> Iterator[Row]:
    """The rows that look like records and have the right checksum."""
    for number, values in pages.rows(columns=7):
        row = _as_row(number, values)
        if row is not None and rows.is_whole(row):
            yield row


def _as_row(number: int, values: list[Value]) -> Row | None:
    _, topic, offset, key, value, at, crc = values
    if not (isinstance(topic, bytes) and isinstance(key, bytes) and isinstance(value, bytes)):
        return None
    if not (isinstance(offset, int) and isinstance(at, int | float) and isinstance(crc, int | None)):
        return None
    try:
        return number, topic.decode(), offset, key.decode(), value, float(at), crc
    except UnicodeDecodeError:
        return None


def _heads(damaged: Path) -> dict[str, tuple[int, int, float]]:
    """Topic -> (next, first, latest), as far as SQLite can still read that table."""
    with contextlib.suppress(*FILE_ERRORS), contextlib.closing(_readable(damaged)) as old:
        found = filter(rows.is_head, old.execute(rows.HEADS).fetchall())
        return {topic: (after, first, latest) for topic, after, first, latest in found}
    return {}


def _readable(damaged: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{damaged}?mode=ro", uri=True, isolation_level=None)


def _copy_small_tables(connection: sqlite3.Connection, damaged: Path) -> None:
    """Dead letters, gaps and holds, as far as SQLite can still read them."""
    for table, columns in (("refused", 6), ("dead_letters", 8), ("gaps", 3), ("holds", 4)):
        with contextlib.suppress(*FILE_ERRORS), contextlib.closing(_readable(damaged)) as old:
            marks = ", ".join("?" * columns)
            found = old.execute(f"SELECT * FROM {table}").fetchall()
            connection.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", found)


def _close_gaps(
    connection: sqlite3.Connection, heads: dict[str, tuple[int, int, float]], mark: int
) -> dict[str, list[tuple[int, int]]]:
    """Write the heads, and the offsets that are missing as gaps; topic -> those that were lost just now."""
    (highest,) = connection.execute("SELECT coalesce(max(id), 0) FROM records").fetchone()
    top = max(mark, highest)  # the highest id that was given out, if the mark is known
    query = "SELECT topic, min(offset), max(offset), max(at), max(id) FROM records GROUP BY topic"
    kept = {topic: values for topic, *values in connection.execute(query)}
    lost: dict[str, list[tuple[int, int]]] = {}
    for topic in (heads.keys() | kept.keys()) - {""}:
        after, first, latest = heads.get(topic, (0, 0, 0.0))
        low, high, at, number = kept.get(topic, (after, after - 1, 0.0, 0))
        after = max(min(after, top) if mark else after, high + 1)
        first = min(first, low)
        holes = _holes(connection, topic, first, after)
        if holes:
            lost[topic] = holes
        # As many as this topic can have lost at its end: every offset has an id.
        jump = min(top - number, max(0, top - after)) if mark else UNKNOWN
        if jump:
            holes = [*holes, (after, after + jump - 1)]
        connection.executemany("INSERT OR IGNORE INTO gaps VALUES (?, ?, ?)", [(topic, *h) for h in holes])
        _put_head(connection, topic, after + jump, first, max(latest, at))
    if not mark:
        top += UNKNOWN
    _put_head(connection, "", top, 0, 0.0)  # for topics of which nothing is left
    connection.execute("DELETE FROM sqlite_sequence WHERE name = 'records'")
    connection.execute("INSERT INTO sqlite_sequence VALUES ('records', ?)", (top,))
    if mark > highest:
        lost[THE_END] = [(highest + 1, mark)]
    return lost


def _put_head(connection: sqlite3.Connection, topic: str, after: int, first: int, latest: float) -> None:
    head = (topic, after, first, latest)
    connection.execute("INSERT INTO heads (topic, next, first, latest) VALUES (?, ?, ?, ?)", head)


def _holes(connection: sqlite3.Connection, topic: str, first: int, after: int) -> list[tuple[int, int]]:
    """Ranges of offsets from `first` to before `after` that are neither there nor known to be lost."""
    known = "SELECT first, last FROM gaps WHERE topic = ?"
    there = "SELECT offset, offset FROM records WHERE topic = ?"
    holes, expected = [], first
    for low, high in connection.execute(f"{there} UNION ALL {known} ORDER BY 1", (topic, topic)):
        if low > expected:
            holes.append((expected, low - 1))
        expected = max(expected, high + 1)
    if expected < after:
        holes.append((expected, after - 1))
    return holes
