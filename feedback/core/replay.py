"""Reading a log to its end, for a process that rebuilds its state when it starts."""

import time
from collections.abc import Iterator, Sequence

from feedback.core.log import Cursor, EventLog, LogUnavailable, Record, reached


def replay(
    log: EventLog, topics: Sequence[str], cursor: Cursor, wait_seconds: float = 30.0
) -> Iterator[tuple[list[Record], dict[str, int]]]:
    """Everything from `cursor` to where the log ends now, in batches, each with the cursor after it.

    Always gives at least one batch, perhaps an empty one. Raises `LogUnavailable` when the end is not known,
    or nothing more arrives, for `wait_seconds`.
    """
    end = log.end(topics, wait_seconds)
    after = dict(cursor)
    yield [], dict(after)
    deadline = time.monotonic() + wait_seconds
    while not reached(after, end):
        records, after = log.read(topics, after, wait_seconds=1.0)
        if records:
            deadline = time.monotonic() + wait_seconds
            yield records, dict(after)
        elif time.monotonic() > deadline:
            raise LogUnavailable(f"nothing arrived for {wait_seconds} s before the end of the log: {end}")
