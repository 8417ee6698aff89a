"""Deleting what is old from the embedded log, a little at a time, and never what a reader still needs."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

from feedback.core.events import COMPLETIONS, FEEDBACK
from feedback.core.log import EventLog, LogError
from feedback.sqlite.log import SqliteLog

logger = logging.getLogger(__name__)

TOPICS = (COMPLETIONS, FEEDBACK)
"""What ages. Releases are kept for ever: replaying them is how the state comes back."""

BATCH = 200  # records deleted in one transaction: votes that come meanwhile wait for no more than that
_EVERY_SECONDS = 60.0


def prune(log: SqliteLog, days: float, stop: threading.Event) -> int:
    """Delete the completions and votes that are older than `days` and that no reader holds; how many."""
    total = 0
    for topic in TOPICS:
        deleted = BATCH
        while deleted == BATCH and not stop.is_set():
            deleted = log.prune(topic, time.time() - days * 24 * 3600, BATCH)
            total += deleted
    return total


@contextlib.contextmanager
def retention(log: EventLog, days: float) -> Iterator[None]:
    """Keep the embedded log to `days` while the block lasts; 0 keeps everything. A broker sees to its own."""
    if days <= 0 or not isinstance(log, SqliteLog):
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_run, args=(log, days, stop), name="retention", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _run(log: SqliteLog, days: float, stop: threading.Event) -> None:
    while not stop.wait(_EVERY_SECONDS):
        try:
            deleted = prune(log, days, stop)
        except LogError as error:
            logger.warning("nothing old could be deleted from the log: %s", error)
            continue
        if deleted:
            logger.info("deleted %d records older than %g days from the log", deleted, days)
