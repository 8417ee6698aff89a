"""Work on the log with a model: turn after turn, from where it stopped, whatever is away."""

import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from feedback.core.events import Completion
from feedback.core.files import replace_durably
from feedback.core.log import Cursor, EventLog, Record
from feedback.opening import open_log
from feedback.privacy.sealing import Sealer
from hearken.ai_judge import AskSettings, JudgeAway
from hearken.base.stopping import event_of_signals

T = TypeVar("T", bound=Mapping[str, Any])

READ_LIMIT = 500
WAIT_SECONDS = 1.0
RETRY_SECONDS = 5.0


@dataclass(slots=True)
class Progress:
    """What became of the work: judged by the model, and skipped by reason. what: is counted, for people."""

    what: str
    judged: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def take(self, found: Iterable[object]) -> None:
        """Count what came of some work: a text says why there was nothing."""
        for each in found:
            if isinstance(each, str):
                self.skipped[each] += 1
            else:
                self.judged += 1

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


def completion_in(record: Record, sealer: Sealer) -> Completion | None:
    """The completion that a record has, unsealed; None for a record without one."""
    try:
        return sealer.open(Completion.model_validate_json(record.value))
    except ValueError:
        return None  # those who need it count it


def before(cursor: Cursor, records: Iterable[Record]) -> dict[str, int]:
    """The cursor, but no later than any of the records: whoever goes on there reads them again."""
    found = dict(cursor)
    for record in records:
        place = f"{record.topic}/{record.partition}"
        found[place] = min(found.get(place, record.offset), record.offset)
    return found


def load(state: Path) -> dict[str, Any]:
    """Where a worker of before had come to, as it saved that; empty where none was."""
    try:
        found: dict[str, Any] = json.loads(state.read_text())
    except FileNotFoundError:
        return {}
    return found


def save(state: Path, reached: T, saved: T) -> T:
    """Write where a worker has come to, unless that was saved last. Gives what is saved now."""
    if reached != saved:
        replace_durably(state, json.dumps(reached).encode())
    return reached


def work_off(
    settings: AskSettings,
    reader: str,
    worker: Callable[[EventLog], Worker],
    logger: logging.Logger,
    *,
    once: bool,
) -> int:
    """Work on a service's log until SIGTERM, or with `once` on what is in it now; the exit status.

    reader: the worker's name as a reader of the log. Raises `LogError`.
    """
    stop = event_of_signals()
    log = open_log(settings.data, settings.kafka, reader)
    try:
        return follow(worker(log), stop, logger, once=once)
    finally:
        log.close()


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
