"""Moving what was appended to the outbox on to Kafka, in order, until the broker has it."""

import logging
import threading
import time
from typing import Any

from kafka import KafkaProducer
from kafka.errors import (
    InvalidRecordError,
    InvalidTimestampError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)

from feedback.kafka.checks import MAX_MESSAGE_BYTES, KafkaRefused
from feedback.kafka.sending_time import SendingTime
from feedback.kafka.topics import KafkaTopics
from feedback.sqlite.log import SqliteLog
from feedback.sqlite.rows import Stored

logger = logging.getLogger(__name__)

_BATCH = 2000  # entries handed to the producer at once; this bounds memory, whatever waits in the outbox
_BATCH_BYTES = 8 * 1024 * 1024
_BACKOFF_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
_SLOW_ACK_SECONDS = 5.0
_NEVER_MS = 2**31 - 1
_CLOCK = " (the clock of this machine, or of the broker, is wrong; put it right, and the events go on)"
_REFUSED = (InvalidRecordError, InvalidTopicError, MessageSizeTooLargeError, RecordListTooLargeError)


class Relay:
    """One thread that sends the outbox's oldest entries and discards them once every replica has them.

    The producer is idempotent and never gives up on a record, so entries of a key keep their order through
    retries. After a crash or a fatal producer error the entries that were not discarded are sent again:
    duplicates are possible, a gap is not. An entry that the broker refuses for itself (too large, invalid)
    would block all others for ever: it is set aside in the outbox file and reported. One that it refuses for
    its time is sent again with a time that the broker takes (see `SendingTime`).
    """

    def __init__(self, outbox: SqliteLog, topics: KafkaTopics) -> None:
        self._outbox = outbox
        self._topics = topics
        self._stopping = threading.Event()
        self._give_up_at = float("inf")
        self._relayed_through = 0
        self._moved = time.monotonic()  # when the outbox was last seen empty, or an entry left it
        self._time = SendingTime()
        self._producer: Any = None
        self._away = ""  # why, as it was told
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def start(self) -> None:
        """Start the thread. A broker may be absent."""
        self._thread.start()

    def stop(self, grace_seconds: float) -> None:
        """Relay what is left for at most `grace_seconds` and end the thread; the rest stays in the outbox."""
        self._give_up_at = time.monotonic() + grace_seconds
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def wait_until_relayed(self, seconds: float) -> bool:
        """Wait until all that is in the outbox now is on the broker; False after `seconds` without that."""
        deadline = time.monotonic() + seconds
        span = self._outbox.span()
        seen = -1
        while span is not None and self._relayed_through < span[1]:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            seen = self._outbox.wait_for_write(seen, min(left, 0.1))
        return True

    def lag(self) -> tuple[int, float]:
        """How many entries wait, and for how long the oldest has waited, in seconds.

        An entry's own time says how old it is, also over a restart, unless the clock was ahead when it came:
        so the time for which none could leave counts as well.
        """
        count, age_seconds = self._outbox.backlog()
        return (count, max(age_seconds, time.monotonic() - self._moved)) if count else (0, 0.0)

    def _run(self) -> None:
        failures = 0
        seen = -1
        while not self._must_stop():
            try:
                batch = self._outbox.oldest(_BATCH, _BATCH_BYTES, after=self._relayed_through)
                if batch:
                    self._send(batch)
                    failures = 0
                elif self._stopping.is_set():
                    break
                else:
                    self._moved = time.monotonic()
                    seen = self._outbox.wait_for_write(seen, 0.1)
            except (
                Exception
            ) as error:  # whatever it is: nothing is lost by starting over, all by not relaying
                self._drop_producer()
                self._topics.refresh()
                self._report_away(error)
                self._stopping.wait(_BACKOFF_SECONDS[min(failures, len(_BACKOFF_SECONDS) - 1)])
                failures += 1
        self._drop_producer()

    def _must_stop(self) -> bool:
        return self._stopping.is_set() and (bool(self._away) or time.monotonic() > self._give_up_at)

    def _send(self, batch: list[Stored]) -> None:
        """Hand a batch to the producer, wait for its acks, discard it."""
        refused = self._offered(batch)
        guilty = self._find_guilty(refused) if refused else None
        self._relayed_through = guilty.id if guilty is not None else batch[-1].id
        if guilty is None:
            self._time.taken(max(stored.at for stored in batch), time.time(), time.monotonic())
        self._moved = time.monotonic()
        self._report_back()
        # The position above already counts: when this fails (disk full) the next discard covers it.
        self._outbox.discard(self._relayed_through).result()

    def _offered(self, batch: list[Stored]) -> list[Stored]:
        """Send a batch and wait for its acks; those entries that are refused for themselves.

        Raises `InvalidTimestampError` where the broker takes no time that is known here.
        """
        while True:
            try:
                return self._offer(batch)
            except InvalidTimestampError:
                if not self._time.refused():
                    raise
                self._drop_producer()

    def _offer(self, batch: list[Stored]) -> list[Stored]:
        producer = self._connected()
        pending = [(stored, self._hand_over(producer, stored)) for stored in batch]
        try:
            return [stored for stored, future in pending if self._is_refused(future)]
        except KafkaError as error:  # after one refusal the client fails all others, in other words
            failed = (getattr(future, "exception", None) for _, future in pending)
            raise next((e for e in failed if isinstance(e, InvalidTimestampError)), error) from None

    def _find_guilty(self, refused: list[Stored]) -> Stored | None:
        """Send what was refused again, one by one, up to the first that is refused alone; set that aside.

        kafka-python's idempotent producer is done for after one refusal: it fails everything that follows
        with the same error, so only the first entry that a fresh producer sees refused is to blame.
        """
        self._drop_producer()
        for stored in refused:
            future = self._hand_over(self._connected(), stored)
            if self._is_refused(future):
                self._drop_producer()
                self._set_aside(stored, future)
                return stored
        return None

    def _hand_over(self, producer: Any, stored: Stored) -> Any:
        """The future of the ack, or the error with which the client itself refuses the entry."""
        topic, key, value = stored.entry
        at_ms = int(1000 * self._time.of(stored.at, time.time(), time.monotonic()))
        try:
            return producer.send(self._topics.on_broker(topic), value, key.encode(), timestamp_ms=at_ms)
        except _REFUSED as error:
            return error

    def _is_refused(self, future: Any) -> bool:
        """Wait for the ack. Raises `KafkaError` when something else than the entry is wrong."""
        if isinstance(future, KafkaError):
            return True
        started = time.monotonic()
        while not future.is_done:
            try:
                future.get(timeout=0.1)
            except KafkaError as error:
                if self._must_stop():
                    raise
                if time.monotonic() - started > _SLOW_ACK_SECONDS and not self._away:
                    self._report_away(self._topics.refusal() or error)
        if future.exception is None or isinstance(future.exception, _REFUSED):
            return future.exception is not None
        raise future.exception

    def _connected(self) -> Any:
        if self._producer is None:
            self._topics.found()
            self._producer = KafkaProducer(
                **self._topics.client(),
                compression_type=self._topics.settings.compression,
                acks="all",
                enable_idempotence=True,
                delivery_timeout_ms=_NEVER_MS,  # a record that expired would let later ones overtake it
                max_block_ms=5000,
                max_request_size=MAX_MESSAGE_BYTES,
                batch_size=256 * 1024,
            )
        return self._producer

    def _drop_producer(self) -> None:
        if self._producer is not None:
            # close() first flushes, and gives up without ending its thread when the broker is away.
            # Nothing is lost by forgetting what it holds: that is still in the outbox.
            self._producer._sender.force_close()
            try:
                self._producer.close(timeout=2)
            except KafkaError:
                logger.debug("closing the producer", exc_info=True)
            self._producer = None

    def _set_aside(self, stored: Stored, refusal: Any) -> None:
        entry = stored.entry
        error = refusal if isinstance(refusal, KafkaError) else refusal.exception
        logger.error(
            "Kafka refuses an event for %s (key %s, %d bytes): %s. It is set aside in the table "
            "'refused' of %s; no other event waits for it.",
            *(entry.topic, entry.key, len(entry.value), error, self._outbox.path),
        )
        self._outbox.set_aside(stored, str(error)).result()

    def _report_away(self, error: Exception) -> None:
        """Say once that events wait, and again when the broker has come to refuse this client."""
        why = str(error) if isinstance(error, KafkaRefused | InvalidTimestampError) else "away"
        if self._away in ("", "away") and why != self._away:
            self._away = why
            clock = _CLOCK if isinstance(error, InvalidTimestampError) else ""
            where = self._topics.bootstrap
            logger.warning(
                "Kafka at %s does not take events; they wait in the outbox: %s%s", where, error, clock
            )

    def _report_back(self) -> None:
        if self._away:
            self._away = ""
            logger.info("Kafka at %s takes events again", self._topics.bootstrap)
