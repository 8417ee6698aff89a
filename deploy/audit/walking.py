"""Going through the log again, from decision to decision: what each of them was made on, and no more.

A walk reads from where a stage of a release began to where one decision had read, then on to the next one, so
nothing is kept and a long log costs time alone. It never waits for what will not come: a copy may lack what
its owner left out, and a service deletes what is old.
"""

import time
from collections.abc import Callable, Iterator, Sequence

from deploy.history.releases import Decision, Reached, admit, parse
from deploy.history.shadowed import Shadowed
from feedback.core.events import RELEASES
from feedback.core.log import Cursor, EventLog, LogUnavailable, Record, reached
from feedback.core.losses import place
from feedback.core.replay import replay

LIMIT = 2000
"""Records in memory at once."""
LEAST = 100
"""Records read at once, where fewer are wanted: topics are not read evenly."""


def counted(
    log: EventLog, wait_seconds: float, beside: Callable[[Shadowed], object] = lambda event: None
) -> Iterator[tuple[Decision, bytes]]:
    """The decisions that count, oldest first, each with the bytes of its record; none is kept.

    beside: is told of what shadows came to, in the same order. Raises as `read_history` does.
    """
    now = Reached()
    for records, _ in replay(log, [RELEASES], {}, wait_seconds):
        for record in records:
            event = parse(record.value)
            if isinstance(event, Shadowed):
                beside(event)
            if isinstance(event, Decision):
                now, counts = admit(now, event)
                if counts:
                    yield event, record.value


class NotKept(Exception):
    """The log has nothing more of what was read then: too old, or left out of a copy. Nothing is wrong."""


class Missing(Exception):
    """The log lacks records between those that it has: damaged, or somebody took them away."""


class Walk:
    """Reads some topics, up to one decision after another. `wait_seconds`: for a broker that is away."""

    def __init__(self, log: EventLog, topics: Sequence[str], wait_seconds: float) -> None:
        self._log, self._topics, self._wait_seconds = log, tuple(topics), wait_seconds
        self._end = {where: at for where, at in log.end(self._topics, wait_seconds).items() if at}
        self._first = self._beginnings()
        self._cursor: dict[str, int] = {}

    def _beginnings(self) -> dict[str, int]:
        """Place -> the offset of the first record that the log has, or its end where nothing is left.

        A reader that begins is told by its cursor, for a broker may have any first offset.
        """
        found: dict[str, int] = {}
        for topic in {where.rpartition("/")[0] for where in self._end}:
            records, after = self._log.read([topic], {}, limit=1)
            deadline = time.monotonic() + self._wait_seconds
            while not records and not self._places(after) and time.monotonic() < deadline:
                records, after = self._log.read([topic], {}, limit=1, wait_seconds=1.0)
            offsets = {place(topic, record.partition): record.offset for record in records}
            found |= {where: offsets.get(where, at) for where, at in self._places(after).items()}
        return found

    def begin(self, cursor: Cursor) -> None:
        """Go to where a stage of a release began."""
        self._cursor = self._places(cursor)

    def is_beyond(self, stop: Cursor) -> bool:
        """Whether more was read than up to `stop`: a controller that has just started decides with less."""
        return any(at > stop.get(where, 0) for where, at in self._cursor.items())

    def to(self, stop: Cursor) -> Iterator[list[Record]]:
        """The records from here to `stop`, in batches. The walk is at `stop` afterwards.

        Raises `NotKept`, `Missing`, and `LogUnavailable` where the log does not answer.
        """
        start, stop = self._cursor, self._places(stop)
        wanted = {where: (start.get(where, 0), offset) for where, offset in stop.items()}
        wanted = {where: span for where, span in wanted.items() if span[0] < span[1]}
        self._cursor = start | stop
        self._check(wanted)
        expected = {where: first for where, (first, _) in wanted.items()}
        cursor = dict(start)
        while not reached(cursor, stop):
            left = sum(max(0, offset - cursor.get(where, 0)) for where, offset in stop.items())
            limit = min(LIMIT, max(LEAST, left))
            records, after = self._log.read(self._topics, cursor, limit, self._wait_seconds)
            if not records and not reached(after, stop):
                raise LogUnavailable(f"nothing arrives for {self._wait_seconds:g} s before {stop}")
            mine = [record for record in records if _is_within(record, wanted)]
            for record in mine:
                where = place(record.topic, record.partition)
                _is_next(where, expected[where], record.offset)
                expected[where] = record.offset + 1
            cursor = after
            yield mine
        for where, (_, after_last) in wanted.items():
            _is_next(where, expected[where], after_last)

    def _check(self, wanted: dict[str, tuple[int, int]]) -> None:
        for where, (first, after_last) in wanted.items():
            if where not in self._end or self._first.get(where, 0) > first:
                raise NotKept(f"{where} has no records {first} to {after_last - 1} (any more)")
            if self._end[where] < after_last:
                raise Missing(f"{where} ends at {self._end[where]}, before {after_last}")

    def _places(self, cursor: Cursor) -> dict[str, int]:
        """A cursor's places of these topics, without which topic of that name it was: a copy has another."""
        return {
            where: offset
            for where, offset in cursor.items()
            if "#" not in where and where.rpartition("/")[0] in self._topics
        }


def _is_within(record: Record, wanted: dict[str, tuple[int, int]]) -> bool:
    span = wanted.get(place(record.topic, record.partition))
    return span is not None and span[0] <= record.offset < span[1]


def _is_next(where: str, expected: int, offset: int) -> None:
    if offset != expected:
        gone = str(expected) if offset == expected + 1 else f"{expected} to {offset - 1}"
        raise Missing(f"{where} lacks {gone}, which is missing or not readable")
