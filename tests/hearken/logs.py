"""A service's log, for tests of what works on it: written, read, and opened anew for each worker."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from feedback.core.events import FEEDBACK, Completion, Feedback
from feedback.core.log import Entry
from feedback.opening import open_sealer
from feedback.sqlite.log import SqliteLog
from tests.feedback.examples import record


def write(data: Path, *events: Completion | Feedback, sealed: bool = True) -> None:
    """Log events, as a gateway does."""
    log, sealer = SqliteLog(data / "log.db"), open_sealer(data)
    made = [record(sealer.seal(each) if sealed else each) for each in events]
    log.append([Entry(each.topic, each.key, each.value) for each in made]).result()
    log.close()


def votes(data: Path) -> list[Feedback]:
    """What is in the log of votes, oldest first, as it lies there."""
    log = SqliteLog(data / "log.db")
    records, _ = log.read([FEEDBACK], {}, 1000)
    log.close()
    return [Feedback.model_validate_json(each.value) for each in records]


@contextmanager
def opened(data: Path) -> Iterator[Callable[[], SqliteLog]]:
    """Opens the log as often as it is called, and closes all at the end."""
    logs: list[SqliteLog] = []

    def open_one() -> SqliteLog:
        logs.append(SqliteLog(data / "log.db"))
        return logs[-1]

    yield open_one
    for log in logs:
        log.close()
