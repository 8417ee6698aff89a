"""Work on the log with a model: turn after turn, from where it stopped, whatever is away."""

import logging
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from feedback.core.log import Cursor, Record
from hearken.ai_judge import JudgeAway

READ_LIMIT = 500
WAIT_SECONDS = 1.0
RETRY_SECONDS = 5.0


@dataclass(slots=True)
class Progress:
    """What became of the work: judged by the model, and skipped by reason. what: is counted, for people."""

    what: str
    judged: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """For people."""
        told = [f"{self.judged} {self.what}"]
        return told + [f"{count} skipped: {why}" for why, count in self.skipped.most_common()]


class Worker(Protocol):
    """What works off a log."""

    progress: Progress

    def turn(self, wait_seconds: float) -> int:
        """Read what is new and work on it; how many records that were.

        Raises `LogError`, and `JudgeAway`: the next turn works on the same again.
        """
        ...


def before(cursor: Cursor, records: Iterable[Record]) -> dict[str, int]:
    """The cursor, but no later than any of the records: whoever goes on there reads them again."""
    found = dict(cursor)
    for record in records:
        place = f"{record.topic}/{record.partition}"
        found[place] = min(found.get(place, record.offset), record.offset)
    return found


def follow(worker: Worker, stop: threading.Event, logger: logging.Logger, *, once: bool) -> int:
    """Work until told to stop, or with `once` up to the log's end; the exit status."""
    told = 0
    while not stop.is_set():
        try:
            read = worker.turn(WAIT_SECONDS)
        except JudgeAway as error:
            if once:
                logger.error("%s", error)
                return 1
            logger.warning("%s; asking again in %g s", error, RETRY_SECONDS)
            stop.wait(RETRY_SECONDS)
            continue
        if once and not read:
            break
        if worker.progress.judged - told >= 100:
            told = worker.progress.judged
            logger.info("%s", "; ".join(worker.progress.lines()))
    print("\n".join(worker.progress.lines()))
    return 0
