"""The read model of receipts: what became of each vote, folded from the log into an SQLite file.

Nothing here is the truth: the file can be lost at any time and is then folded again from the log's
beginning. Several gateways on one data folder share it; whoever comes first folds the next records.
"""

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from deploy.history.releases import Candidate, Decision, Reached, admit
from deploy.history.releases import parse as parse_release
from deploy.history.states import Outcome
from feedback.core.events import COMPLETIONS, FEEDBACK, RELEASES, UPDATES, Target
from feedback.core.log import Record
from feedback.sqlite.file import connect
from feedback.updates.usage import parse as parse_usage
from serve.receipts.layout import LAYOUT, STEPS

log = logging.getLogger(__name__)

TOPICS = (COMPLETIONS, FEEDBACK, RELEASES, UPDATES)
KEEP = 2_000_000  # newest votes, and completions, that receipts know; about 400 bytes each
_SWEEP_EVERY = 50_000  # records
_BUSY_SECONDS = 5.0

# A retraction is a revision too; what it takes back keeps its kind and targets.
_VOTE = """
INSERT INTO votes
    (id, tenant, rater, kind, source, revision, first_at, at, revisions, retracted, targets, key_id, refused)
VALUES
    (:id, :tenant, :rater, :kind, :source, :revision, :at, :at, 1, :retracted, :targets, :key_id, :refused)
ON CONFLICT (id) DO UPDATE SET
    revisions = revisions + 1, first_at = min(first_at, excluded.first_at), kind = excluded.kind,
    source = excluded.source, revision = excluded.revision, at = excluded.at,
    retracted = excluded.retracted, targets = excluded.targets, key_id = excluded.key_id,
    refused = excluded.refused
WHERE excluded.revision > revision
"""
_COMPLETION = """
INSERT OR IGNORE INTO completions
    (id, tenant, version, arm, role, prompt_hash, choices, at, external_id, episode_id, user)
VALUES (:id, :tenant, :version, :arm, :role, :prompt_hash, :choices, :at, :external_id, :episode_id, :user)
"""

_STATUS: Mapping[Outcome, str] = {
    "accepted": "waiting",
    "started": "canary",
    "raised": "canary",
    "promoted": "live",
    "finished": "live",
    "harmful": "rolled_back",
    "guardrail": "rolled_back",
    "rolled_back": "rolled_back",
    "refused": "refused",
    "superseded": "superseded",
    "inconclusive": "inconclusive",
}
"""What an outcome of a release makes of its version."""

Row = dict[str, Any]


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
            db.executemany(_COMPLETION, _rows(records, COMPLETIONS, _completion_row))
            db.executemany(_VOTE, _rows(records, FEEDBACK, _vote_row))
            for record in records:
                if record.topic == UPDATES:
                    _fold_usage(db, record.value)
                elif record.topic == RELEASES:
                    _fold_release(db, record.value)
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


def _rows(records: Iterable[Record], topic: str, row: Callable[[Row], Row]) -> Iterator[Row]:
    """The rows of a topic's records; what cannot be read is skipped, as everywhere."""
    for record in records:
        if record.topic == topic:
            try:
                yield row(orjson.loads(record.value))
            except (ValueError, KeyError, TypeError):
                continue


def _vote_row(event: Row) -> Row:
    retracted = event["kind"] == "retraction"
    return {
        "id": str(event["event_id"]),
        "tenant": str(event.get("tenant", "default")),
        "rater": str(event["rater"]),
        "kind": str((event.get("retracts") or "thumbs") if retracted else event["kind"]),
        "source": str(event.get("source", "end_user")),
        "revision": int(event["revision"]),
        "at": float(event["at"]),
        "retracted": retracted,
        "targets": orjson.dumps(event["targets"]),
        "key_id": str(event.get("key_id", "")),
        "refused": event.get("refused"),
    }


def _completion_row(event: Row) -> Row:
    return {
        "id": str(event["completion_id"]),
        "tenant": str(event.get("tenant", "default")),
        "version": str(event["policy_version"]),
        "arm": str(event["arm"]),
        "role": str(event.get("role", "answer")),
        "prompt_hash": event.get("prompt_hash"),
        "choices": len(event["choices"]),
        "at": float(event["at"]),
        "external_id": event.get("external_id"),
        "episode_id": event.get("episode_id"),
        "user": str(event["user"]),
    }


def _fold_usage(db: sqlite3.Connection, value: bytes) -> None:
    usage = parse_usage(value)
    if usage is None:
        return
    db.execute("INSERT OR IGNORE INTO updates VALUES (?, ?)", (usage.update, usage.at))
    named = [
        (event_id, revision, state) for state, votes in usage.votes.items() for event_id, revision in votes
    ]
    closing = "UPDATE uses SET until = ? WHERE id = ? AND until IS NULL AND since < ?"
    db.executemany(closing, [(usage.update, event_id, usage.update) for event_id, _, _ in named])
    opening = "INSERT OR IGNORE INTO uses (id, since, revision, state) VALUES (?, ?, ?, ?)"
    db.executemany(
        opening, [(event_id, usage.update, revision, state) for event_id, revision, state in named]
    )


def _fold_release(db: sqlite3.Connection, value: bytes) -> None:
    event = parse_release(value)
    if isinstance(event, Candidate):
        row = (event.version, event.reward_updates, event.at, "offered", event.at, event.parent)
        db.execute("INSERT OR IGNORE INTO versions VALUES (?, ?, ?, ?, ?, ?)", row)
    elif isinstance(event, Decision):
        newest = db.execute("SELECT number, fence, version FROM live").fetchone() or (0, 0, None)
        reached, counts = admit(Reached(*newest[:2]), event)
        if not counts:
            db.execute("UPDATE live SET fence = ?", (reached.fence,))
            return
        status = _STATUS.get(event.outcome)
        if status is not None and event.version is not None:
            _becomes(db, event.version, status, event.at)
        live = event.state.table.live
        if live != newest[2]:  # promoted, or back because a newer one was rolled back
            _becomes(db, live, "live", event.at, anew=True)
        db.execute("INSERT OR REPLACE INTO live VALUES (1, ?, ?, ?)", (live, *reached))


def _becomes(db: sqlite3.Connection, version: str, status: str, at: float, *, anew: bool = False) -> None:
    """Note what a version is, and since when. A status that it had goes on, unless it begins `anew`."""
    query = """
        UPDATE versions SET status_at = CASE WHEN status = :status AND NOT :anew THEN status_at ELSE :at END,
        status = :status WHERE version = :version
    """
    db.execute(query, {"version": version, "status": status, "at": at, "anew": anew})


def _sweep(db: sqlite3.Connection) -> None:
    """Forget the oldest votes and completions beyond `KEEP`."""
    last = "SELECT max(number) - ? FROM votes"
    db.execute(f"DELETE FROM uses WHERE id IN (SELECT id FROM votes WHERE number <= ({last}))", (KEEP,))
    db.execute(f"DELETE FROM votes WHERE number <= ({last})", (KEEP,))
    db.execute("DELETE FROM completions WHERE rowid <= (SELECT max(rowid) - ? FROM completions)", (KEEP,))
