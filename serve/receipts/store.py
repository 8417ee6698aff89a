"""The read model of receipts: what became of each vote, folded from the log into an SQLite file.

Nothing here is the truth: the file can be lost at any time and is then folded again from the log's
beginning. Several gateways on one data folder share it; whoever comes first folds the next records.
"""

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import orjson

from feedback.core.events import COMPLETIONS, FEEDBACK, RELEASES, UPDATES, Target
from feedback.core.log import Record
from feedback.sqlite.file import connect
from serve.receipts.folding import Row, fold
from serve.receipts.layout import LAYOUT, STEPS

log = logging.getLogger(__name__)

TOPICS = (COMPLETIONS, FEEDBACK, RELEASES, UPDATES)
KEEP = 2_000_000  # newest votes, and completions, that receipts know; about 400 bytes each
_SWEEP_EVERY = 50_000  # records
_BUSY_SECONDS = 5.0


class ReceiptStore:
    """The file and its questions. Every method may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._since_sweep = 0
        self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        """The file, made anew when it is missing, broken or of another layout."""
        try:
            return _ready(connect(self._path, synchronous="OFF", busy_seconds=_BUSY_SECONDS))
        except sqlite3.DatabaseError as error:
            log.warning("%s is folded from the log again: %s", self._path, error)
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            return _ready(connect(self._path, synchronous="OFF", busy_seconds=_BUSY_SECONDS))

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()

    def forget(self) -> None:
        """Begin again: the log is not the one that was folded."""
        with self._lock, _transaction(self._db) as db:
            for table in ("place", "votes", "uses", "updates", "completions", "versions", "live"):
                db.execute(f"DELETE FROM {table}")

    # ---- folding

    def cursor(self) -> dict[str, int]:
        """Up to where the log is folded."""
        with self._lock:
            return dict(self._db.execute("SELECT topic, offset FROM place").fetchall())

    def fold(self, records: Sequence[Record], before: Mapping[str, int], after: Mapping[str, int]) -> bool:
        """Take in the records between two cursors. Does nothing, and says False, when the file is not at
        `before`."""
        with self._lock, _transaction(self._db) as db:
            if dict(db.execute("SELECT topic, offset FROM place").fetchall()) != dict(before):
                return False
            fold(db, records)
            db.executemany("INSERT OR REPLACE INTO place VALUES (?, ?)", after.items())
            self._since_sweep += len(records)
            if self._since_sweep >= _SWEEP_EVERY:
                self._since_sweep = 0
                _sweep(db)
        return True

    # ---- questions

    def vote(self, event_id: str) -> Row | None:
        """A vote: its columns, `targets` parsed and each with the `answers` that it means so far."""
        with self._lock:
            found = self._one("SELECT * FROM votes WHERE id = ?", event_id)
            if found is None:
                return None
            targets = [Target.model_validate(target) for target in orjson.loads(found["targets"])]
            found["targets"] = targets
            found["answers"] = [self._meant(found["tenant"], found["at"], target) for target in targets]
            return found

    def uses(self, event_id: str) -> list[Row]:
        """What updates did with a vote, oldest first."""
        with self._lock:
            query = "SELECT uses.*, updates.at FROM uses LEFT JOIN updates ON number = since WHERE id = ?"
            return self._all(query + " ORDER BY since", event_id)

    def versions(self, since: int, until: int | None, limit: int) -> list[Row]:
        """The newest versions whose reward model had an update from `since` to before `until` as its last,
        and the ones of these that users meet, however old.

        Oldest first.
        """
        met = "version = (SELECT version FROM live) OR status = 'canary'"
        query = (
            f"SELECT * FROM (SELECT *, {met} AS met FROM versions WHERE updates >= ? AND updates < ? "
            "ORDER BY met DESC, updates DESC, at DESC LIMIT ?) ORDER BY updates, at"
        )
        with self._lock:
            return [self._now(row) for row in self._all(query, since, until or 2**62, limit)]

    def version(self, version: str) -> Row | None:
        """A version that was offered, or None."""
        with self._lock:
            found = self._one("SELECT * FROM versions WHERE version = ?", version)
            return None if found is None else self._now(found)

    def shaped(self, updates: int, tenant: str | None, after: str, limit: int) -> list[Row]:
        """The votes that an update was fitted to, in the order of their ids, from `after` on.

        `tenant`: only its votes, None for all.
        """
        query = """
            SELECT uses.id, uses.revision, uses.since, votes.kind, votes.retracted FROM uses
            JOIN votes ON votes.id = uses.id
            WHERE state = 'training' AND since <= ? AND (until IS NULL OR until > ?) AND uses.id > ?
            AND (? IS NULL OR votes.tenant = ?) ORDER BY uses.id LIMIT ?
        """
        with self._lock:
            return self._all(query, updates, updates, after, tenant, tenant, limit)

    def trained_on(self, tenant: str, user: str) -> list[str]:
        """The versions whose reward model was fitted to a user's votes, or to others' votes on the answers
        that the user was given; oldest first."""
        query = """
            WITH given AS (SELECT id, external_id FROM completions WHERE tenant = :tenant AND user = :user)
            SELECT DISTINCT versions.version FROM votes
            JOIN uses ON uses.id = votes.id AND uses.state = 'training'
            JOIN versions ON versions.updates >= uses.since
                AND (uses.until IS NULL OR versions.updates < uses.until)
            WHERE votes.tenant = :tenant AND (votes.rater = :user OR EXISTS (
                SELECT 1 FROM json_each(CAST(votes.targets AS TEXT)) AS target
                WHERE target.value ->> 'completion_id' IN (SELECT id FROM given)
                OR target.value ->> 'external_id' IN (SELECT external_id FROM given)))
            ORDER BY versions.at
        """
        with self._lock:
            rows = self._db.execute(query, {"tenant": tenant, "user": user}).fetchall()
        return [str(version) for (version,) in rows]

    def lineage(self) -> list[tuple[str, str | None]]:
        """All versions, oldest first, each with the one that its training began from, as far as is known."""
        with self._lock:
            return self._db.execute("SELECT version, parent FROM versions ORDER BY at, version").fetchall()

    def about(self, tenant: str, user: str) -> Row:
        """How many completions a user was given, and votes of each kind there are of theirs, as
        {"completions": counted, "votes": {kind: counted}}; counted: count, first_at, last_at, or None."""
        given = "SELECT count(*) AS count, min(at) AS first_at, max(at) AS last_at FROM completions "
        voted = "SELECT kind, count(*) AS count, min(first_at) AS first_at, max(at) AS last_at FROM votes "
        with self._lock:
            completions = self._one(given + "WHERE tenant = ? AND user = ?", tenant, user)
            votes = self._all(voted + "WHERE tenant = ? AND rater = ? GROUP BY kind", tenant, user)
        return {
            "completions": completions if completions and completions["count"] else None,
            "votes": {row.pop("kind"): row for row in votes},
        }

    def votes_since(self, at: float) -> int:
        """How many votes first came at a Unix time or later; signals and retracted ones are none."""
        query = "SELECT count(*) FROM votes WHERE first_at >= ? AND NOT retracted AND kind != 'signal'"
        with self._lock:
            (count,) = self._db.execute(query, (at,)).fetchone()
        return int(count)

    def behind(self) -> Row:
        """How far the learner is behind votes: `votes` that came after its newest update, the Unix time at
        which the first of these came as `since`, and that of the update as `updated`; None where there is
        none. Signals and retracted votes are none."""
        query = """
            WITH newest AS (SELECT at FROM updates ORDER BY number DESC LIMIT 1)
            SELECT count(*) AS votes, min(first_at) AS since, (SELECT at FROM newest) AS updated FROM votes
            WHERE first_at > coalesce((SELECT at FROM newest), 0) AND NOT retracted AND kind != 'signal'
        """
        with self._lock:
            (found,) = self._all(query)
            return found

    def seconds_to_live(self) -> list[float]:
        """How long votes waited that shaped the version that became live last, and not the one that it grew
        from, until it was live; the shortest first."""
        query = """
            WITH newest AS (SELECT updates, live_at, coalesce(
                    (SELECT old.updates FROM versions AS old WHERE old.version = new.parent), 0) AS before
                FROM versions AS new WHERE live_at IS NOT NULL AND updates IS NOT NULL
                ORDER BY live_at DESC LIMIT 1)
            SELECT max(0, live_at - first_at) AS seconds FROM newest
            JOIN uses ON state = 'training' AND since > before AND since <= updates
                AND (until IS NULL OR until > updates)
            JOIN votes ON votes.id = uses.id ORDER BY seconds
        """
        with self._lock:
            return [float(seconds) for (seconds,) in self._db.execute(query).fetchall()]

    def _meant(self, tenant: str, at: float, target: Target) -> list[Row]:
        """The completions that a target means: as `feedback.joining.join.Joiner` finds them."""
        named = "SELECT * FROM completions WHERE role = 'answer' AND tenant = ? AND "
        if target.external_id is not None:
            found = self._all(named + "external_id = ? ORDER BY at, id", tenant, target.external_id)
            return ([row for row in found if row["at"] <= at] or found[:1])[-1:]
        if target.episode_id is not None:
            found = self._all(named + "episode_id = ? ORDER BY at, id", tenant, target.episode_id)
            return [row for row in found if row["at"] <= at] or found[:1]
        return self._all("SELECT * FROM completions WHERE id = ?", target.completion_id)

    def _now(self, version: Row) -> Row:
        live = self._one("SELECT version FROM live")
        if version["status"] == "live" and live is not None and live["version"] != version["version"]:
            version["status"] = "replaced"
        return version

    def _one(self, query: str, *values: object) -> Row | None:
        found = self._all(query, *values)
        return found[0] if found else None

    def _all(self, query: str, *values: object) -> list[Row]:
        rows = self._db.execute(query, values)
        names = [column[0] for column in rows.description]
        return [dict(zip(names, row, strict=True)) for row in rows]


def _ready(db: sqlite3.Connection) -> sqlite3.Connection:
    """An open file with its tables. Raises DatabaseError when it is of another layout."""
    with _transaction(db):
        (layout,) = db.execute("PRAGMA user_version").fetchone()
        if layout not in STEPS:
            db.close()
            raise sqlite3.DatabaseError(f"layout {layout}, {LAYOUT} is needed")
        for statement in ";".join(STEPS[layout]).split(";"):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {LAYOUT}")
    return db


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def _sweep(db: sqlite3.Connection) -> None:
    """Forget the oldest votes and completions beyond `KEEP`."""
    last = "SELECT max(number) - ? FROM votes"
    db.execute(f"DELETE FROM uses WHERE id IN (SELECT id FROM votes WHERE number <= ({last}))", (KEEP,))
    db.execute(f"DELETE FROM votes WHERE number <= ({last})", (KEEP,))
    db.execute("DELETE FROM completions WHERE rowid <= (SELECT max(rowid) - ? FROM completions)", (KEEP,))
