"""Reading topics from Kafka by explicit offsets, in the order in which the events happened."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from feedback.kafka_topics import CLIENT, MAX_MESSAGE_BYTES
from feedback.log import Cursor, LogUnavailable, Place, Record

_BUFFERED = 1000  # records of one partition that wait for the others; above that no more are fetched
_ROUND_SECONDS = 0.3  # a fetch needs one round trip, even for a caller who will not wait
PATIENCE_SECONDS = 2.0
"""How long a partition that does not answer holds up the others."""

_NOWHERE = -1


def consumer(bootstrap: str) -> Any:
    """A consumer without group and without commits, which starts where it is told to."""
    return KafkaConsumer(
        **CLIENT,
        bootstrap_servers=bootstrap,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",  # also for offsets that retention deleted
        fetch_max_wait_ms=250,
        max_partition_fetch_bytes=1024 * 1024,
        fetch_max_bytes=MAX_MESSAGE_BYTES,
        metrics_enabled=False,
    )


class KafkaReader:
    """Follows all partitions of some topics. `partitions`: topic -> how many it has.

    Partitions are merged by the records' times, so that a reader who starts far behind sees completions and
    their feedback side by side, and not all of the smaller topic first. After `patience_seconds` they are
    merged without those that do not answer. Not thread-safe. Methods raise `KafkaError` for what the client
    cannot repair by itself.
    """

    def __init__(
        self, bootstrap: str, partitions: Mapping[str, int], patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self.partitions = dict(partitions)
        self._patience_seconds = patience_seconds
        self._places = [
            TopicPartition(topic, number) for topic, count in partitions.items() for number in range(count)
        ]
        self._buffers: dict[Any, deque[Any]] = {place: deque() for place in self._places}
        # Per partition the next offset to give out and the next one to fetch; None is the beginning.
        self._next: dict[Any, int | None] = dict.fromkeys(self._places, _NOWHERE)
        self._fetched: dict[Any, int | None] = dict(self._next)
        self._consumer = consumer(bootstrap)

    def matches(self, cursor: Cursor) -> bool:
        """Whether this reader stands at the cursor and can go on without seeking."""
        return all(self._next[place] == cursor.get(_name(place)) for place in self._places)

    def read(self, cursor: Cursor, limit: int, wait_seconds: float) -> tuple[list[Record], dict[str, int]]:
        """Like `EventLog.read`."""
        self._seek(cursor)
        deadline = time.monotonic() + max(wait_seconds, _ROUND_SECONDS)
        patient = False
        records = self._merge(limit, complete=True)
        while not records and (left := deadline - time.monotonic()) > 0:
            self._fetch(min(left, 0.5))
            records = self._merge(limit, complete=True)
            if not patient and any(self._buffers.values()):  # they wait for partitions that did not answer
                patient, deadline = True, time.monotonic() + self._patience_seconds
        records = records or self._merge(limit, complete=False)
        known = {_name(place): offset for place, offset in self._next.items() if offset is not None}
        return records, {**cursor, **known}

    def behind(self) -> tuple[int, float]:
        """Records that were not given out yet, and the age of the oldest that was fetched, in seconds."""
        count = 0
        for place in self._places:
            high = self._consumer.highwater(place) if place in self._consumer.assignment() else None
            count += max(len(self._buffers[place]), (high or 0) - (self._next[place] or 0))
        times = [buffer[0].timestamp for buffer in self._buffers.values() if buffer]
        return count, max(0.0, time.time() - min(times) / 1000) if times else 0.0

    def close(self) -> None:
        """End the connections."""
        self._consumer.close(autocommit=False, timeout_ms=1000)

    def _seek(self, cursor: Cursor) -> None:
        for place in self._places:
            offset = cursor.get(_name(place))
            if offset == self._next[place]:
                continue
            self._buffers[place].clear()
            self._next[place] = self._fetched[place] = offset
            if place in self._consumer.assignment():
                self._start(place)

    def _fetch(self, seconds: float) -> None:
        # Not pause(): kafka-python 3.0 can lose sight of a paused partition's data and never return it.
        wanted = {place for place, buffer in self._buffers.items() if len(buffer) < _BUFFERED}
        added = wanted - self._consumer.assignment()
        self._consumer.assign(list(wanted))
        for place in added:
            self._start(place)
        for place, messages in self._consumer.poll(timeout_ms=int(seconds * 1000), max_records=2000).items():
            self._buffers[place].extend(messages)
            self._fetched[place] = messages[-1].offset + 1

    def _start(self, place: Any) -> None:
        offset = self._fetched[place]
        if offset is None:
            self._consumer.seek_to_beginning(place)
        else:
            self._consumer.seek(place, offset)

    def _merge(self, limit: int, complete: bool) -> list[Record]:
        """Take what is oldest from the buffers.

        With `complete` it stops where a partition has more on the broker: what is not here yet may be older.
        """
        records: list[Record] = []
        if complete and any(self._is_behind(place) for place in self._places):
            return records
        filled = [place for place in self._places if self._buffers[place]]
        while filled and len(records) < limit:
            place = min(filled, key=lambda p: self._buffers[p][0].timestamp)
            message = self._buffers[place].popleft()
            self._next[place] = message.offset + 1
            records.append(_record(message))
            if not self._buffers[place]:
                filled.remove(place)
                if complete and self._is_behind(place):
                    break
        return records

    def _is_behind(self, place: Any) -> bool:
        if self._buffers[place]:
            return False
        if place not in self._consumer.assignment():
            return True
        position = self._consumer.position(place, timeout_ms=0)
        high = self._consumer.highwater(place)
        return position is None or high is None or position < high


_STRIDE = 200  # offsets between two wanted records over which reading on is cheaper than seeking


def fetch(client: Any, places: Sequence[Place], wait_seconds: float) -> dict[Place, Record]:
    """The records that lie at some places, by a `consumer` that nobody else uses now.

    Raises `LogUnavailable` after `wait_seconds` without an answer, and `KafkaError`.
    """
    found: dict[Place, Record] = {}
    for topic, number in sorted({(place.topic, place.partition) for place in places}):
        partition = TopicPartition(topic, number)
        timeout = max(1, int(wait_seconds * 1000))
        start = client.beginning_offsets([partition], timeout_ms=timeout)[partition]
        end = client.end_offsets([partition], timeout_ms=timeout)[partition]
        wanted = {place.offset for place in places if place[:2] == (topic, number)}
        client.assign([partition])
        _fetch_sorted(client, partition, sorted(o for o in wanted if start <= o < end), wait_seconds, found)
    return found


def _fetch_sorted(
    client: Any, partition: Any, offsets: list[int], wait_seconds: float, found: dict[Place, Record]
) -> None:
    """Add the records of one partition at ascending offsets, all between its beginning and its end."""
    position = -_STRIDE
    left = deque(offsets)
    while left:
        if not position <= left[0] < position + _STRIDE:
            position = left[0]
            client.seek(partition, position)
        deadline = time.monotonic() + wait_seconds
        while not (messages := client.poll(timeout_ms=200).get(partition, [])):
            if time.monotonic() > deadline:
                raise LogUnavailable(f"Kafka gives nothing at {_name(partition)}, offset {left[0]}")
        for message in messages:
            while left and left[0] < message.offset:
                left.popleft()  # there is nothing at it
            if left and left[0] == message.offset:
                left.popleft()
                record = _record(message)
                found[Place(record.topic, record.partition, record.offset)] = record
        position = messages[-1].offset + 1


def _name(place: Any) -> str:
    return f"{place.topic}/{place.partition}"


def _record(message: Any) -> Record:
    key = (message.key or b"").decode(errors="replace")
    return Record(message.topic, message.partition, message.offset, key, message.value or b"")
