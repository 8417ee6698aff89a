"""How records of the log change the tables of receipts."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from deploy.history.releases import Candidate, Decision, Reached, admit
from deploy.history.releases import parse as parse_release
from deploy.history.states import Outcome
from feedback.core.events import COMPLETIONS, FEEDBACK, RELEASES, UPDATES
from feedback.core.log import Record
from feedback.updates.usage import parse as parse_usage

Row = dict[str, Any]

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

_VERSION = """
INSERT OR IGNORE INTO versions (version, updates, at, status, status_at, parent)
VALUES (?, ?, ?, 'offered', ?, ?)
"""


def fold(db: sqlite3.Connection, records: Sequence[Record]) -> None:
    """Take in the next records of the log."""
    db.executemany(_COMPLETION, _rows(records, COMPLETIONS, _completion_row))
    db.executemany(_VOTE, _rows(records, FEEDBACK, _vote_row))
    for record in records:
        if record.topic == UPDATES:
            _fold_usage(db, record.value)
        elif record.topic == RELEASES:
            _fold_release(db, record.value)


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
        row = (event.version, event.reward_updates, event.at, event.at, event.parent)
        db.execute(_VERSION, row)
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
            first = "UPDATE versions SET live_at = ? WHERE version = ? AND live_at IS NULL"
            db.execute(first, (event.at, live))
        db.execute("INSERT OR REPLACE INTO live VALUES (1, ?, ?, ?)", (live, *reached))


def _becomes(db: sqlite3.Connection, version: str, status: str, at: float, *, anew: bool = False) -> None:
    """Note what a version is, and since when. A status that it had goes on, unless it begins `anew`."""
    query = """
        UPDATE versions SET status_at = CASE WHEN status = :status AND NOT :anew THEN status_at ELSE :at END,
        status = :status WHERE version = :version
    """
    db.execute(query, {"version": version, "status": status, "at": at, "anew": anew})
