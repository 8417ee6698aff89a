"""Brings every decision to one webhook, at least once and in order, in a thread of its own.

The log is all that it needs: it follows the releases topic, and writes there how far it came. So it goes on
where the last one stopped, after a restart and on another controller, and its receiver holds up no release.
"""

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import httpx
from prometheus_client import Counter
from pydantic import TypeAdapter, ValidationError

from deploy.controller.webhooks import payload, receiver_of, signed_headers
from deploy.history.releases import Decision, Reached, admit, parse
from feedback.core.events import RELEASES, Event
from feedback.core.log import Entry, EventLog, LogError, reached

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0
"""How long a receiver may take to answer."""

PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 300.0
"""The pause after a failure, twice as long after each next one, up to the longest."""

READ_SECONDS = 0.25
"""How long a read waits for news, and so how long the end of the process waits for this."""


class Delivered(Event):
    """A webhook is done with the decisions up to `number`: they were delivered, or given up."""

    type: Literal["delivered"] = "delivered"
    receiver: str  # names the URL
    number: int


_EVENT: TypeAdapter[Delivered] = TypeAdapter(Delivered)


class Letter(NamedTuple):
    """A decision on its way. at: when it was made, Unix time in seconds."""

    number: int
    event_id: str
    at: float
    body: bytes


class Courier:
    """Follows the log for one URL. may_send: whether this controller leads, and so is to send.

    A URL that is new gets the decisions from now on. A decision that could not be delivered within
    `patience_seconds` is given up, after one try at least. counter: by receiver and result (delivered,
    failed, given_up). clock: Unix time in seconds. pause_seconds: after a first failure.
    """

    def __init__(
        self,
        log: EventLog,
        url: str,
        secrets: Sequence[bytes],
        patience_seconds: float,
        may_send: Callable[[], bool],
        counter: Counter,
        clock: Callable[[], float] = time.time,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        self._log = log
        self._url = url
        self._secrets = secrets
        self._patience_seconds = patience_seconds
        self._may_send = may_send
        self._counter = counter
        self._clock = clock
        self._pause_seconds = pause_seconds
        self._receiver = receiver_of(url)
        self._name = hashlib.sha256(url.encode()).hexdigest()[:16]
        self._cursor: dict[str, int] = {}
        self._reached = Reached()
        self._done: int | None = None  # number of the last decision that is done with; None: of a new URL
        self._waiting: deque[Letter] = deque()
        for result in ("delivered", "failed", "given_up"):
            counter.labels(self._receiver, result)

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop`."""
        with httpx.Client(timeout=ANSWER_SECONDS, follow_redirects=False) as http:
            while not stop.is_set():
                try:
                    self._read_to_end(stop)
                    while not stop.is_set():
                        self._read(READ_SECONDS)
                        if self._may_send():
                            self._send_waiting(http, stop)
                except LogError as error:
                    logger.warning("webhooks wait for the log: %s", error)
                    stop.wait(READ_SECONDS)

    # -- the log --------------------------------------------------------------------------------------------

    def _read_to_end(self, stop: threading.Event) -> None:
        """Know what is done before anything is sent."""
        end = self._log.end([RELEASES], READ_SECONDS)
        while not reached(self._cursor, end) and not stop.is_set():
            self._read(READ_SECONDS)

    def _read(self, wait_seconds: float) -> None:
        records, self._cursor = self._log.read([RELEASES], self._cursor, wait_seconds=wait_seconds)
        for record in records:
            event = parse(record.value)
            if isinstance(event, Decision):
                self._reached, counts = admit(self._reached, event)
                if counts:
                    self._waiting.append(Letter(event.number, event.event_id, event.at, payload(event)))
            elif event is None and (delivered := _parse(record.value)) and delivered.receiver == self._name:
                self._done = max(self._done or 0, delivered.number)
        while self._done is not None and self._waiting and self._waiting[0].number <= self._done:
            self._waiting.popleft()

    def _note(self, number: int) -> None:
        """Write how far it came. Raises `LogUnavailable`: then it is sent once more after a restart."""
        note = Delivered(
            event_id=f"delivered-{self._name}-{number}", at=self._clock(), receiver=self._name, number=number
        )
        self._done = number
        self._log.append([Entry(RELEASES, "delivered", note.model_dump_json().encode())]).result()

    # -- the receiver ---------------------------------------------------------------------------------------

    def _send_waiting(self, http: httpx.Client, stop: threading.Event) -> None:
        if self._done is None:
            self._waiting.clear()
            self._note(self._reached.number)
        while self._waiting and not stop.is_set() and self._may_send():
            if not self._deliver(http, self._waiting[0], stop):
                return
            self._note(self._waiting.popleft().number)

    def _deliver(self, http: httpx.Client, letter: Letter, stop: threading.Event) -> bool:
        """Try until it is delivered or given up; False where it has to stop before."""
        pause = self._pause_seconds
        while True:
            problem = self._try(http, letter)
            if problem is None:
                self._counter.labels(self._receiver, "delivered").inc()
                return True
            self._counter.labels(self._receiver, "failed").inc()
            left = letter.at + self._patience_seconds - self._clock()
            if left <= 0:
                self._counter.labels(self._receiver, "given_up").inc()
                logger.error(
                    "decision %d was not delivered to %s within %g s and is given up: %s",
                    *(letter.number, self._receiver, self._patience_seconds, problem),
                )
                return True
            logger.warning("decision %d is not at %s yet: %s", letter.number, self._receiver, problem)
            if stop.wait(min(pause, left)) or not self._may_send():
                return False
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _try(self, http: httpx.Client, letter: Letter) -> str | None:
        """Send it once; what went wrong, or None. What a receiver says beside its status is not read."""
        headers = signed_headers(letter.event_id, self._clock(), letter.body, self._secrets)
        try:
            with http.stream("POST", self._url, content=letter.body, headers=headers) as answer:
                return None if answer.is_success else f"it answered {answer.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"{type(error).__name__}: {error}"


def _parse(value: bytes) -> Delivered | None:
    try:
        return _EVENT.validate_json(value)
    except ValidationError:
        return None
