"""The log with Kafka behind it: writers never depend on the broker, readers read from it."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError

from feedback.kafka_reader import PATIENCE_SECONDS, KafkaReader, consumer, fetch
from feedback.kafka_topics import PARTITIONS, KafkaTopics
from feedback.log import Cursor, Entry, LogUnavailable, Place, Record
from feedback.relay import Relay
from feedback.sqlite_log import SqliteLog

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 0.5
_IDLE_READERS = 4


class KafkaLog:
    """An `EventLog` on Kafka.

    `append` writes to this process's `outbox` only and is durable there; a relay moves it on, so a broker
    that is down, slow or absent at start neither fails nor delays an append. `read` needs the broker; while
    it is away the answer is empty, after the wait. Takes over the outbox and closes it. `partitions`:
    topic -> how many partitions to make where it is missing. `patience_seconds`: see `KafkaReader`.
    """

    def __init__(
        self,
        outbox: SqliteLog,
        bootstrap: str,
        partitions: Mapping[str, int] = PARTITIONS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        _quieten_client()
        self._outbox = outbox
        self._patience_seconds = patience_seconds
        self._topics = KafkaTopics(bootstrap, partitions)
        self._relay = Relay(outbox, self._topics)
        self._closing = threading.Event()
        self._away = False
        self._lock = threading.Lock()  # guards the idle readers
        self._readers: list[KafkaReader] = []
        self._fetching = threading.Lock()  # guards the consumer of `fetch`, made when it is first wanted
        self._fetcher: Any = None
        self._relay.start()

    def append(self, entries: Sequence[Entry]) -> "Future[None]":
        """See `EventLog.append`. Raises `ValueError` for a topic that this log does not have."""
        for entry in entries:
            self._check_topic(entry.topic)
        return self._outbox.append(entries)

    def read(
        self, topics: Sequence[str], cursor: Cursor, limit: int = 1000, wait_seconds: float = 0.0
    ) -> tuple[list[Record], dict[str, int]]:
        """See `EventLog.read`. Records come in the order of their times, as far as that is known."""
        for topic in topics:
            self._check_topic(topic)
        deadline = time.monotonic() + wait_seconds
        while topics and not self._closing.is_set():
            left = deadline - time.monotonic()
            try:
                with self._reader(topics, cursor) as reader:
                    records, after = reader.read(cursor, limit, max(0.0, left))
                self._report(records)
                return records, after
            except KafkaError as error:
                self._topics.refresh()
                self._report_away(error)
            if (left := deadline - time.monotonic()) <= 0:
                break
            self._closing.wait(min(left, _RETRY_SECONDS))
        return [], dict(cursor)

    def fetch(self, places: Sequence[Place], wait_seconds: float = 0.0) -> list[Record | None]:
        """See `EventLog.fetch`."""
        with self._fetching:
            try:
                if self._fetcher is None:
                    self._fetcher = consumer(self._topics.bootstrap)
                found = fetch(self._fetcher, places, max(1.0, wait_seconds))
            except KafkaError as error:
                self._end_fetcher()
                raise LogUnavailable(f"Kafka at {self._topics.bootstrap} does not answer: {error}") from error
        return [found.get(place) for place in places]

    def _end_fetcher(self) -> None:
        if self._fetcher is not None:
            self._fetcher.close(autocommit=False, timeout_ms=1000)
            self._fetcher = None

    def end(self, topics: Sequence[str], wait_seconds: float = 0.0) -> dict[str, int]:
        """See `EventLog.end`. First waits until this process's own appends are on the broker."""
        deadline = time.monotonic() + wait_seconds
        if not self._relay.wait_until_relayed(wait_seconds):
            waiting, _ = self._outbox.backlog()
            raise LogUnavailable(f"{waiting} events of this process still wait for Kafka")
        try:
            return self._broker_end(topics, max(1.0, deadline - time.monotonic()))
        except KafkaError as error:
            raise LogUnavailable(f"Kafka at {self._topics.bootstrap} does not answer: {error}") from error

    def _broker_end(self, topics: Sequence[str], seconds: float) -> dict[str, int]:
        partitions = self._topics.partitions()
        places = [TopicPartition(topic, n) for topic in topics for n in range(partitions[topic])]
        with contextlib.closing(consumer(self._topics.bootstrap)) as client:
            ends = client.end_offsets(places, timeout_ms=int(seconds * 1000))
            starts = client.beginning_offsets(places, timeout_ms=int(seconds * 1000))
        # Nothing to read up to where nothing is left: no record would ever take a reader there.
        return {f"{p.topic}/{p.partition}": ends[p] for p in places if ends[p] > starts[p]}

    def lag(self) -> tuple[int, float]:
        """How many events wait for the broker in the outbox, and the age of the oldest in seconds."""
        return self._outbox.backlog()

    def behind(self, topics: Sequence[str], cursor: Cursor) -> tuple[int, float]:
        """See `EventLog.behind`: as of the last fetch of whoever read up to the cursor, else 0."""
        with self._lock:
            readers = [r for r in self._readers if r.partitions.keys() == set(topics) and r.matches(cursor)]
            return readers[-1].behind() if readers else (0, 0.0)

    def release_hold(self, reader: str) -> "Future[None]":
        """See `EventLog.release_hold`."""
        return self.hold(reader, {})

    def bury(self, reader: str, record: Record, reason: str) -> "Future[None]":
        """See `EventLog.bury`."""
        return self._outbox.bury(reader, record, reason)

    def hold(self, reader: str, cursor: Cursor) -> "Future[None]":
        """See `EventLog.hold`: the broker keeps what its retention says."""
        nothing: Future[None] = Future()
        nothing.set_result(None)
        return nothing

    def stamp(self) -> int:
        """See `EventLog.stamp`."""
        return self._outbox.stamp()

    def close(self) -> None:
        """See `EventLog.close`. What the broker does not take within two seconds waits for the next start."""
        self._closing.set()
        self._relay.stop(grace_seconds=2.0)
        self._outbox.close()
        with self._lock:
            idle, self._readers = self._readers, []
        for reader in idle:
            reader.close()
        with self._fetching:
            self._end_fetcher()

    def _check_topic(self, topic: str) -> None:
        if topic not in self._topics.wanted:
            raise ValueError(f"no topic {topic!r} in this log; it has {', '.join(self._topics.wanted)}")

    @contextlib.contextmanager
    def _reader(self, topics: Sequence[str], cursor: Cursor) -> Iterator[KafkaReader]:
        """A reader for the time of one read: an idle one that stands at the cursor if there is one."""
        known = self._topics.partitions()
        partitions = {topic: known[topic] for topic in topics}
        with self._lock:
            fitting = [r for r in self._readers if r.partitions == partitions]
            fitting.sort(key=lambda r: r.matches(cursor))
            reader = fitting[-1] if fitting else None
            if reader is not None:
                self._readers.remove(reader)
        reader = reader or KafkaReader(self._topics.bootstrap, partitions, self._patience_seconds)
        try:
            yield reader
        except BaseException:
            reader.close()
            raise
        with self._lock:
            self._readers.append(reader)
            room = 0 if self._closing.is_set() else _IDLE_READERS
            cut = max(0, len(self._readers) - room)
            surplus, self._readers = self._readers[:cut], self._readers[cut:]
        for old in surplus:
            old.close()

    def _report(self, records: list[Record]) -> None:
        if records or self._topics.answers():
            if self._away:
                logger.info("Kafka at %s answers again", self._topics.bootstrap)
            self._away = False
        else:
            self._report_away(None)

    def _report_away(self, error: KafkaError | None) -> None:
        if not self._away:
            self._away = True
            logger.warning(
                "nothing can be read: Kafka at %s does not answer: %s", self._topics.bootstrap, error
            )


def _quieten_client() -> None:
    # kafka-python logs dozens of lines a second while a broker is away; we say it once.
    client = logging.getLogger("kafka")
    if client.level == logging.NOTSET:
        client.setLevel(logging.CRITICAL)
