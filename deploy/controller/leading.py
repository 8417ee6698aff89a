"""Which of several controllers leads: a lease in the shared store, with a number that fences older ones off.

The lease is one record. Its holder changes it every `RENEW_SECONDS`; who sees it unchanged for
`LEASE_SECONDS` takes it, by a compare-and-set, with the next number. Both times are a process's own, on the
monotonic clock: no clock is compared with another one.

The lease keeps two controllers from working against each other. It is not what keeps the history whole, as a
holder may stop for a while at any line and go on without knowing that it was replaced. So decisions carry the
number, and their readers pass over those of older leases (`deploy.history.releases.admit`; Burrows, OSDI
2006, 2.4).
"""

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from feedback.shared import SharedStore, SharedUnavailable

logger = logging.getLogger(__name__)

KEY = "lease/controller/"
"""And the service's name: several services may share a store."""

RENEW_SECONDS = 0.5
"""How often the holder writes the record, and others look at it."""

LEASE_SECONDS = 2.5
"""How long a record counts that does not change. A standby acts at most two looks later."""

FORGET_SECONDS = 30 * 86400.0
"""When the store may forget a record that nobody holds: its number is in the log's decisions as well."""


class Leadership(Protocol):
    """Tells a controller whether it leads."""

    def fence(self, seen: int) -> int | None:
        """The number that decisions carry now; None while another controller leads, or may.

        seen: the highest fence in the log. Who has a lower one was replaced.
        """
        ...


class Alone:
    """Leads always, and its decisions are of no lease: the lock on its data folder keeps others away."""

    def fence(self, seen: int) -> int | None:
        """See `Leadership.fence`."""
        return 0


class Record(BaseModel):
    """The lease in the store."""

    model_config = ConfigDict(frozen=True)

    holder: str = ""  # "": given back
    fence: int
    beat: int = 0  # changes with every renewal


def claim(found: Record | None, me: str, floor: int, *, silent: bool) -> Record | None:
    """The record to put in the place of the one that was found; None while another controller holds it.

    floor: the highest fence in the log, for a store that lost its memory. silent: whether the record has been
    seen unchanged for `LEASE_SECONDS`.
    """
    if found is not None and found.holder == me and found.fence >= floor:
        return found.model_copy(update={"beat": found.beat + 1})
    if found is None or found.holder in ("", me) or silent:
        return Record(holder=me, fence=max(found.fence if found else 0, floor) + 1)
    return None


class Lease:
    """A controller's part in the lease. As a context manager it holds or waits for it in a thread of its own,
    because a controller's round may take long, and gives it back at the end.

    While the store is away the holder goes on: no other can take the lease then, and a bad canary must not
    stay because Redis is gone. Should only the holder have lost the store, it is replaced once it reads a
    decision of a higher fence. service: the same for the controllers of one service only. `clock`: monotonic
    seconds.
    """

    def __init__(self, store: SharedStore, service: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._key = KEY + service
        self._clock = clock
        self._me = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
        self._floor = 0
        self._seen: tuple[bytes | None, float] | None = None  # the record as it was found, and since when
        self._held: tuple[int, float] | None = None  # our fence, and when we last asked for it with success
        self._away = False  # the store, when it was last asked
        self._told = ""  # the last holder that was logged
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew_again, name="lease", daemon=True)

    def fence(self, seen: int) -> int | None:
        """See `Leadership.fence`."""
        with self._lock:
            self._floor = max(self._floor, seen)
            if self._held is None or self._held[0] < seen:
                return None
            fence, at = self._held
            return fence if self._away or self._clock() - at < LEASE_SECONDS else None

    def renew(self) -> None:
        """Look at the record once; renew it or take it where that is right."""
        asked_at = self._clock()
        try:
            raw = self._store.get(self._key)
            found = _parse(raw)
            wanted = claim(found, self._me, self._floor, silent=self._is_silent(raw))
            taken = wanted is not None and self._swap(raw, wanted)
        except SharedUnavailable as error:
            self._lost_sight(error)
            return
        with self._lock:
            self._away = False
            if wanted is None:
                self._held = None
            elif taken:
                self._held = (wanted.fence, asked_at)
        self._tell(found if wanted is None else wanted)

    def give_back(self) -> None:
        """Let another controller lead at once."""
        with self._lock:
            self._held = None
        try:
            raw = self._store.get(self._key)
            found = _parse(raw)
            if found is not None and found.holder == self._me:
                self._swap(raw, Record(fence=found.fence))
        except SharedUnavailable as error:
            logger.warning("the lease cannot be given back, it ends by itself: %s", error)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.give_back()

    def _renew_again(self) -> None:
        while not self._stop.is_set():
            self.renew()
            self._stop.wait(RENEW_SECONDS)

    def _swap(self, there: bytes | None, record: Record) -> bool:
        return self._store.swap(self._key, there, record.model_dump_json().encode(), FORGET_SECONDS)

    def _is_silent(self, raw: bytes | None) -> bool:
        now = self._clock()  # after the store's answer: the record was there until now
        if self._seen is None or self._seen[0] != raw:
            self._seen = (raw, now)
        return now - self._seen[1] >= LEASE_SECONDS

    def _lost_sight(self, error: SharedUnavailable) -> None:
        """Nobody could renew: silence begins anew when the store is back."""
        self._seen = None
        if not self._away:
            logger.warning("whether another controller leads is not known: %s", error)
        with self._lock:
            self._away = True

    def _tell(self, record: Record | None) -> None:
        if record is not None and record.holder != self._told:
            self._told = record.holder
            if record.holder != self._me:
                logger.info("standing by: %s leads, with fence %d", record.holder, record.fence)


def _parse(raw: bytes | None) -> Record | None:
    """The record; None for none, and for one that cannot be read, which counts for none."""
    if raw is None:
        return None
    try:
        return Record.model_validate_json(raw)
    except ValidationError:
        return None
