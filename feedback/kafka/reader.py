"""Reading topics from Kafka by explicit offsets, in the order in which the events happened."""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from feedback.core.log import Cursor, LogUnavailable, Place, Record
from feedback.core.losses import Loss, Span, identity_key, onward, place
from feedback.kafka.checks import MAX_MESSAGE_BYTES, Topic
from feedback.kafka.topics import KafkaTopics

_BUFFERED = 1000  # records of one partition that wait for the others; above that no more are fetched
_ROUND_SECONDS = 0.3  # a fetch needs one round trip, even for a caller who will not wait
PATIENCE_SECONDS = 2.0
"""How long a partition that does not answer holds up the others."""

_NOWHERE = -1


def consumer(topics: KafkaTopics) -> Any:
    """A consumer without group and without commits, which starts where it is told to.

    `poll` raises `OffsetOutOfRangeError` where there is nothing (any more).
    """
    return KafkaConsumer(
        **topics.client(),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",  # anything else passes over what is gone without a word
        fetch_max_wait_ms=250,
        max_partition_fetch_bytes=1024 * 1024,
        fetch_max_bytes=MAX_MESSAGE_BYTES,
        metrics_enabled=False,
    )


class KafkaReader:
    """Follows all partitions of some topics. `found`: what these topics are.

    Partitions are merged by the records' times, so that a reader who starts far behind sees completions and
    their feedback side by side, and not all of the smaller topic first. After `patience_seconds` they are
    merged without those that do not answer. Not thread-safe. Methods raise `KafkaError` for what the client
    cannot repair by itself.
    """

    def __init__(
        self, topics: KafkaTopics, found: Mapping[str, Topic], patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self.found = dict(found)
        self._prefix = len(topics.settings.prefix)
        self._patience_seconds = patience_seconds
        self._by_topic = {
            topic: [TopicPartition(topics.on_broker(topic), n) for n in range(each.partitions)]
            for topic, each in found.items()
        }
        self._places = [each for places in self._by_topic.values() for each in places]
        self._buffers: dict[Any, deque[Any]] = {each: deque() for each in self._places}
        # Per partition the next offset to give out and the next one to fetch.
        self._next: dict[Any, int] = dict.fromkeys(self._places, _NOWHERE)
        self._fetched: dict[Any, int] = dict(self._next)
        self._consumer = consumer(topics)

    def matches(self, cursor: Cursor) -> bool:
        """Whether this reader stands at the cursor and can go on without seeking."""
        same = all(cursor.get(identity_key(t)) == (each.identity or None) for t, each in self.found.items())
        return same and all(self._next[each] == cursor.get(self._name(each)) for each in self._places)

    def start(self, cursor: Cursor, seconds: float, *, refused: bool) -> tuple[dict[str, int], list[Loss]]:
        """The cursor at which reading from `cursor` really goes on, and what is missed by that.

        refused: whether the broker has refused to read there. Without both, asks the broker only where this
        reader does not stand there already.
        """
        if self.matches(cursor) and not refused:
            return dict(cursor), []
        timeout_ms = int(max(seconds, 1.0) * 1000)
        firsts = self._consumer.beginning_offsets(self._places, timeout_ms=timeout_ms)
        afters = self._consumer.end_offsets(self._places, timeout_ms=timeout_ms)
        after, losses = dict(cursor), []
        for topic, places in self._by_topic.items():
            spans = [Span(firsts[each], afters[each]) for each in places]
            there, loss = onward(topic, self.found[topic].identity, spans, cursor, refused=refused)
            after |= there
            losses += [loss] if loss else []
        return after, losses

    def read(self, cursor: Cursor, limit: int, wait_seconds: float) -> tuple[list[Record], dict[str, int]]:
        """Like `EventLog.read`. The cursor is one that `start` gave.

        Raises `OffsetOutOfRangeError` where the log does not go on at it.
        """
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
        return records, {**cursor, **{self._name(each): offset for each, offset in self._next.items()}}

    def behind(self) -> tuple[int, float]:
        """Records that were not given out yet, and the age of the oldest that was fetched, in seconds."""
        count = 0
        for each in self._places:
            high = self._consumer.highwater(each) if each in self._consumer.assignment() else None
            count += max(len(self._buffers[each]), (high or 0) - self._next[each])
        times = [buffer[0].timestamp for buffer in self._buffers.values() if buffer]
        return count, max(0.0, time.time() - min(times) / 1000) if times else 0.0

    def close(self) -> None:
        """End the connections."""
        self._consumer.close(autocommit=False, timeout_ms=1000)

    def _name(self, at: Any) -> str:
        return place(at.topic[self._prefix :], at.partition)

    def _seek(self, cursor: Cursor) -> None:
        for each in self._places:
            offset = cursor[self._name(each)]
            if offset == self._next[each]:
                continue
            self._buffers[each].clear()
            self._next[each] = self._fetched[each] = offset
            if each in self._consumer.assignment():
                self._consumer.seek(each, offset)

    def _fetch(self, seconds: float) -> None:
        # Not pause(): kafka-python 3.0 can lose sight of a paused partition's data and never return it.
        wanted = {each for each, buffer in self._buffers.items() if len(buffer) < _BUFFERED}
        added = wanted - self._consumer.assignment()
        self._consumer.assign(list(wanted))
        for each in added:
            self._consumer.seek(each, self._fetched[each])
        for each, messages in self._consumer.poll(timeout_ms=int(seconds * 1000), max_records=2000).items():
            self._buffers[each].extend(messages)
            self._fetched[each] = messages[-1].offset + 1

    def _merge(self, limit: int, complete: bool) -> list[Record]:
        """Take what is oldest from the buffers.

        With `complete` it stops where a partition has more on the broker: what is not here yet may be older.
        """
        records: list[Record] = []
        if complete and any(self._is_behind(each) for each in self._places):
            return records
        filled = [each for each in self._places if self._buffers[each]]
        while filled and len(records) < limit:
            oldest = min(filled, key=lambda p: self._buffers[p][0].timestamp)
            message = self._buffers[oldest].popleft()
            self._next[oldest] = message.offset + 1
            records.append(_record(message, self._prefix))
            if not self._buffers[oldest]:
                filled.remove(oldest)
                if complete and self._is_behind(oldest):
                    break
        return records

    def _is_behind(self, at: Any) -> bool:
        if self._buffers[at]:
            return False
        if at not in self._consumer.assignment():
            return True
        position = self._consumer.position(at, timeout_ms=0)
        high = self._consumer.highwater(at)
        return position is None or high is None or position < high


_STRIDE = 200  # offsets between two wanted records over which reading on is cheaper than seeking


def fetch(
    client: Any, topics: KafkaTopics, places: Sequence[Place], wait_seconds: float
) -> dict[Place, Record]:
    """The records that lie at some places, by a `consumer` that nobody else uses now.

    Raises `LogUnavailable` after `wait_seconds` without an answer, and `KafkaError`.
    """
    found: dict[Place, Record] = {}
    prefix = len(topics.settings.prefix)
    for topic, number in sorted({(each.topic, each.partition) for each in places}):
        partition = TopicPartition(topics.on_broker(topic), number)
        timeout = max(1, int(wait_seconds * 1000))
        start = client.beginning_offsets([partition], timeout_ms=timeout)[partition]
        end = client.end_offsets([partition], timeout_ms=timeout)[partition]
        wanted = {each.offset for each in places if each[:2] == (topic, number)}
        client.assign([partition])
        offsets = sorted(o for o in wanted if start <= o < end)
        for message in _fetch_sorted(client, partition, offsets, wait_seconds):
            found[Place(topic, number, message.offset)] = _record(message, prefix)
    return found


def _fetch_sorted(client: Any, partition: Any, offsets: list[int], wait_seconds: float) -> Iterator[Any]:
    """The messages of one partition at ascending offsets, all between its beginning and its end."""
    position = -_STRIDE
    left = deque(offsets)
    while left:
        if not position <= left[0] < position + _STRIDE:
            position = left[0]
            client.seek(partition, position)
        deadline = time.monotonic() + wait_seconds
        while not (messages := client.poll(timeout_ms=200).get(partition, [])):
            if time.monotonic() > deadline:
                raise LogUnavailable(f"Kafka gives nothing at {partition}, offset {left[0]}")
        for message in messages:
            while left and left[0] < message.offset:
                left.popleft()  # there is nothing at it
            if left and left[0] == message.offset:
                left.popleft()
                yield message
        position = messages[-1].offset + 1


def _record(message: Any, prefix: int) -> Record:
    """A record as readers know it. prefix: how many characters the broker's names have more."""
    key = (message.key or b"").decode(errors="replace")
    return Record(message.topic[prefix:], message.partition, message.offset, key, message.value or b"")
