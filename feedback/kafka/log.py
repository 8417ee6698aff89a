"""The log with Kafka behind it: writers never depend on the broker, readers read from it."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError

from feedback.core.log import Cursor, Entry, LogUnavailable, Place, Record
from feedback.core.losses import Losses, place
from feedback.kafka.checks import KafkaRefused
from feedback.kafka.reader import PATIENCE_SECONDS, KafkaReader, consumer, fetch
from feedback.kafka.relay import Relay
from feedback.kafka.settings import KafkaSettings
from feedback.kafka.topics import PARTITIONS, KafkaTopics
from feedback.sqlite.log import SqliteLog

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 0.5
_IDLE_READERS = 4


class KafkaLog:
    """An `EventLog` on Kafka.

    `append` writes to this process's `outbox` only and is durable there; a relay moves it on, so a broker
    that is down, slow or absent at start neither fails nor delays an append. `read` needs the broker; while
    it is away the answer is empty, after the wait. So it is where records between the cursor and what the
    broker still has are lost, until somebody accepts that (see `losses`). Takes over the outbox and closes
    it. `partitions`: topic -> how many partitions to make where it is missing. `patience_seconds`: see
    `KafkaReader`.
    """

    def __init__(
        self,
        outbox: SqliteLog,
        settings: KafkaSettings,
        partitions: Mapping[str, int] = PARTITIONS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        _quieten_client()
        self._outbox = outbox
        self._patience_seconds = patience_seconds
        self._topics = KafkaTopics(settings, partitions)
        self.losses = Losses(outbox.path.parent)
        self._relay = Relay(outbox, self._topics)
        self._closing = threading.Event()
        self._away = ""  # why, as it was told
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
        refused = False
        while topics and not self._closing.is_set():
            left = max(0.0, deadline - time.monotonic())
            try:
                with self._reader(topics, cursor) as reader:
                    start, losses = reader.start(cursor, left, refused=refused)
                    if self.losses.may_pass(topics, losses):
                        records, after = reader.read(start, limit, left)
                        self._report(records)
                        return records, after
            except OffsetOutOfRangeError as error:
                self._topics.refresh()
                if not refused:  # look at once why, also for a caller who does not wait
                    refused = True
                    continue
                self._report_away(error)
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
                    self._fetcher = consumer(self._topics)
                found = fetch(self._fetcher, self._topics, places, max(1.0, wait_seconds))
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
        found = self._topics.found()
        places = {
            TopicPartition(self._topics.on_broker(topic), n): place(topic, n)
            for topic in topics
            for n in range(found[topic].partitions)
        }
        with contextlib.closing(consumer(self._topics)) as client:
            ends = client.end_offsets(list(places), timeout_ms=int(seconds * 1000))
            starts = client.beginning_offsets(list(places), timeout_ms=int(seconds * 1000))
        # Nothing to read up to where nothing is left: no record would ever take a reader there.
        return {name: ends[p] for p, name in places.items() if ends[p] > starts[p]}

    def lag(self) -> tuple[int, float]:
        """How many events wait for the broker in the outbox, and for how long the oldest has, in seconds."""
        return self._relay.lag()

    def behind(self, topics: Sequence[str], cursor: Cursor) -> tuple[int, float]:
        """See `EventLog.behind`: as of the last fetch of whoever read up to the cursor, else 0."""
        with self._lock:
            readers = [r for r in self._readers if r.found.keys() == set(topics) and r.matches(cursor)]
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
        known = self._topics.found()
        found = {topic: known[topic] for topic in topics}
        with self._lock:
            fitting = [r for r in self._readers if r.found == found]
            fitting.sort(key=lambda r: r.matches(cursor))
            reader = fitting[-1] if fitting else None
            if reader is not None:
                self._readers.remove(reader)
        reader = reader or KafkaReader(self._topics, found, self._patience_seconds)
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
            self._away = ""
        else:
            self._report_away(None)

    def _report_away(self, error: KafkaError | None) -> None:
        """Say once that nothing can be read, and again when the broker has come to refuse it."""
        why = str(error) if isinstance(error, KafkaRefused) else "away"
        if self._away in ("", "away") and why != self._away:
            at = self._topics.bootstrap
            told = error if why != "away" else f"Kafka at {at} does not answer: {error}"
            logger.warning("nothing can be read: %s", told)
            self._away = why


def _quieten_client() -> None:
    # kafka-python logs dozens of lines a second while a broker is away; we say it once.
    client = logging.getLogger("kafka")
    if client.level == logging.NOTSET:
        client.setLevel(logging.CRITICAL)
