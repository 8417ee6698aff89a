"""Was every vote used exactly once? Checked against the log, without the learner's code.

The learner's checkpoint says up to where it read and, as a sum of hashes, which votes it used. Here the log
is read again from its beginning to there, joined anew, and summed the same way: a vote that was lost or
used twice (by a crash between two checkpoints, say) would change the sum.
"""

import contextlib
import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from feedback.core.events import COMPLETIONS, FEEDBACK
from feedback.core.log import EventLog, LogUnavailable, Record, reached
from feedback.joining.file import FileJoins, make_tables
from feedback.joining.join import Joiner
from feedback.joining.memory import Joins
from feedback.joining.opened import Opener

MODULUS = 2**256
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Audit:
    """What the learner says it used, and what the log says it should have."""

    votes_used_once: bool
    labels_used: int
    labels_in_log: int


def votes_digest(votes: Iterable[tuple[str, int]]) -> str:
    """The sum of the votes' sha256, modulo 2**256, in hex: depends on which votes, not on their order."""
    total = 0
    for event_id, revision in votes:
        total += int.from_bytes(hashlib.sha256(f"{event_id}.{revision}".encode()).digest())
    return f"{total % MODULUS:064x}"


def audit(log: EventLog, data: Path) -> Audit | None:
    """Check the learner's present checkpoint; None when there is none yet.

    Raises LogUnavailable when the log does not reach as far as the checkpoint says.
    """
    ledger = read_ledger(data)
    if ledger is None:
        return None
    used = votes_up_to(log, ledger["cursor"])
    agrees = int(ledger["digest"], 16) == int(votes_digest(used.items()), 16)
    same = agrees and ledger["labels"] == len(used)
    return Audit(same, ledger["labels"], len(used))


def wait_until_read(log: EventLog, data: Path, seconds: float, stopping: threading.Event) -> bool:
    """Wait until the learner's checkpoint covers all that is in the log now; False if time is up first."""
    end = log.end([COMPLETIONS, FEEDBACK], PATIENCE_SECONDS)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not stopping.is_set():
        ledger = read_ledger(data)
        cursor = {} if ledger is None else ledger["cursor"]
        if reached(cursor, end):
            return True
        stopping.wait(0.5)
    return False


def read_ledger(data: Path) -> dict[str, Any] | None:
    """The ledger of the learner's present checkpoint, or None before the first."""
    try:
        ledger: dict[str, Any] = json.loads((data / "learner" / "checkpoint" / "ledger.json").read_bytes())
    except FileNotFoundError:
        return None
    return ledger


def votes_up_to(log: EventLog, cursor: Mapping[str, int]) -> dict[str, int]:
    """The votes whose completion lies before the cursor as well: event id -> newest revision."""
    with contextlib.closing(sqlite3.connect("", isolation_level=None)) as db:  # a file that nobody else sees
        make_tables(db)
        return _votes_up_to(
            log, cursor, FileJoins(db, partial(log.fetch, wait_seconds=PATIENCE_SECONDS), Opener())
        )


def _votes_up_to(log: EventLog, cursor: Mapping[str, int], joins: Joins) -> dict[str, int]:
    joiner = Joiner(joins=joins)
    topics = (COMPLETIONS, FEEDBACK)
    end = {place: at for place, at in cursor.items() if place.rpartition("/")[0] in topics}
    used: dict[str, int] = {}
    at: dict[str, int] = {}
    while any(at.get(place, 0) < offset for place, offset in end.items()):
        records, at = log.read(topics, at, limit=2000, wait_seconds=PATIENCE_SECONDS)
        if not records:
            raise LogUnavailable(f"the log ends before the learner's checkpoint: {at} of {end}")
        for label in joiner.feed(record for record in records if _is_before(record, end)):
            if label.answers or label.event_id in used:  # else a retraction of what was never joined
                used[label.event_id] = label.revision
    return used


def _is_before(record: Record, end: Mapping[str, int]) -> bool:
    return record.offset < end.get(f"{record.topic}/{record.partition}", 0)
