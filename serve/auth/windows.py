"""Sliding-window counters: what was used in the last minute, counted here or by all gateways in Redis.

A window is estimated from two counters, of this minute and of the one before, as if the use of the one
before had been even: `previous * (its share that still lies in the window) + current`. Two numbers per
counter, whatever the limit, where an exact moving window keeps an entry for each request, and for each
token; and unlike a fixed window, nobody gets twice the limit around the turn of a minute.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from prometheus_client import Counter

log = logging.getLogger(__name__)

T = TypeVar("T")

WINDOW_SECONDS = 60
_SWEEP_EVERY = 4096
_UNLIMITED = 2**53
_REDIS_SECONDS = 1.0
_FRESH_SECONDS = 0.1  # how old a look may be: a busy gateway reads a counter ten times a second and no more
_AWAY_SECONDS = 1.0  # how long it is left alone after it did not answer


@dataclass(frozen=True, slots=True)
class Window:
    """One counter, read. The times to live are seconds; `current` becomes `previous` half-way through its."""

    previous: int = 0
    previous_ttl: float = 0.0
    current: int = 0
    current_ttl: float = 0.0
    seconds: float = WINDOW_SECONDS

    @property
    def used(self) -> float:
        """The estimated use in the window that ends now."""
        return self.previous * self.previous_ttl / self.seconds + self.current

    def plus(self, amount: int) -> "Window":
        """The counter with so much more in it."""
        return replace(self, current=self.current + amount) if amount else self

    def remaining(self, limit: int) -> int:
        """How much of `limit` is left, at least 0."""
        return max(0, limit - int(self.used))

    @property
    def _current_ttl(self) -> float:
        return self.current_ttl or 2 * self.seconds  # of a counter that begins now

    def empty_in(self) -> float:
        """Seconds until nothing of it counts any more."""
        if self.current:
            return self._current_ttl
        return self.previous_ttl if self.previous else 0.0

    def wait(self, limit: int) -> float:
        """Seconds until less than `limit` is used, if nothing is added; 0 when that is so now."""
        if self.used < limit:
            return 0.0
        if self.current < limit:
            return (self.used - limit) * self.seconds / self.previous
        to_the_turn = max(0.0, self._current_ttl - self.seconds)
        return to_the_turn + self.seconds * (1 - limit / self.current)


class Windows(Protocol):
    """Counters by name."""

    async def look(self, *names: str) -> list[Window]:
        """Counters, as they stand."""
        ...

    async def take(self, name: str, limit: int, amount: int = 1) -> bool:
        """Count `amount` more, unless `limit` has no room for it: then False, and nothing is counted."""
        ...

    async def add(self, name: str, amount: int) -> None:
        """Count `amount`, whatever the limit."""
        ...


class LocalWindows:
    """Counters of this process. (The library's own keep all names in a list that every request walks.)"""

    def __init__(self, seconds: float = WINDOW_SECONDS, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._now = now
        self._counters: dict[str, tuple[float, int, int]] = {}  # start of current, previous, current
        self._added = 0

    async def look(self, *names: str) -> list[Window]:
        """See `Windows.look`."""
        return [self._look(name) for name in names]

    async def take(self, name: str, limit: int, amount: int = 1) -> bool:
        """See `Windows.take`."""
        if self._look(name).used + amount - 1 >= limit:
            return False
        self._add(name, amount)
        return True

    async def add(self, name: str, amount: int) -> None:
        """See `Windows.add`."""
        self._add(name, amount)

    def _turned(self, name: str) -> tuple[float, int, int] | None:
        """A counter with its windows as of now; a window begins with the first count after the last one."""
        counter = self._counters.get(name)
        if counter is None:
            return None
        start, _, current = counter
        turns = int((self._now() - start) / self._seconds)
        if turns == 0:
            return counter
        return (start + self._seconds, current, 0) if turns == 1 else None

    def _look(self, name: str) -> Window:
        counter = self._turned(name)
        if counter is None:
            return Window(seconds=self._seconds)
        start, previous, current = counter
        left = start + self._seconds - self._now()
        return Window(previous, left, current, left + self._seconds, self._seconds)

    def _add(self, name: str, amount: int) -> None:
        start, previous, current = self._turned(name) or (self._now(), 0, 0)
        self._counters[name] = (start, previous, current + amount)
        self._added += 1
        if self._added % _SWEEP_EVERY == 0:
            old = self._now() - 2 * self._seconds
            self._counters = {name: held for name, held in self._counters.items() if held[0] > old}


class RedisWindows:
    """Counters that all gateways share; while Redis is away, each counts for itself, and that is counted.

    `timeout_seconds`: how long a request waits for Redis.
    """

    def __init__(
        self,
        url: str,
        alone: Counter,
        seconds: int = WINDOW_SECONDS,
        timeout_seconds: float = _REDIS_SECONDS,
    ) -> None:
        # Imported here: a gateway without Redis starts without it.
        from limits.aio.storage import RedisStorage
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError

        self._storage = RedisStorage(
            f"async+{url}",
            implementation="redispy",
            key_prefix="hearken:limits",
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 1),  # type: ignore[arg-type]  # handed to the client as it is
        )
        self._errors = (RedisError, OSError, TimeoutError)
        self._seconds = seconds
        self._timeout_seconds = timeout_seconds
        self._local = LocalWindows(seconds)
        self._alone = alone
        self._seen: dict[str, tuple[float, Window]] = {}  # when it was read, and what
        self._away_until = 0.0
        self._away = False

    async def look(self, *names: str) -> list[Window]:
        """See `Windows.look`."""

        async def shared() -> list[Window]:
            return [self._fresh(name) or await self._read(name) for name in names]

        return await self._ask(shared, lambda: self._local.look(*names))

    async def take(self, name: str, limit: int, amount: int = 1) -> bool:
        """See `Windows.take`."""

        async def shared() -> bool:
            taken = await self._storage.acquire_sliding_window_entry(name, limit, self._seconds, amount)
            if taken:
                self._note(name, amount)
            else:
                self._seen.pop(name, None)  # others came in between: whoever looks now wants to know
            return taken

        return await self._ask(shared, lambda: self._local.take(name, limit, amount))

    async def add(self, name: str, amount: int) -> None:
        """See `Windows.add`."""

        async def shared() -> None:
            await self._storage.acquire_sliding_window_entry(name, _UNLIMITED, self._seconds, amount)
            self._note(name, amount)

        await self._ask(shared, lambda: self._local.add(name, amount))

    def _fresh(self, name: str) -> Window | None:
        """A counter that was read a moment ago, with what this gateway did to it since."""
        seen = self._seen.get(name)
        return seen[1] if seen is not None and time.monotonic() - seen[0] < _FRESH_SECONDS else None

    async def _read(self, name: str) -> Window:
        window = Window(*await self._storage.get_sliding_window(name, self._seconds), self._seconds)
        if len(self._seen) >= _SWEEP_EVERY:
            self._seen.clear()
        self._seen[name] = (time.monotonic(), window)
        return window

    def _note(self, name: str, amount: int) -> None:
        seen = self._seen.get(name)
        if seen is not None:
            self._seen[name] = (seen[0], seen[1].plus(amount))

    async def _ask(self, shared: Callable[[], Awaitable[T]], local: Callable[[], Awaitable[T]]) -> T:
        now = time.monotonic()
        if now >= self._away_until:
            if self._away:
                self._away_until = now + _AWAY_SECONDS  # one request looks whether it is back, not all
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    answer = await shared()
            except self._errors as error:
                self._away_until = time.monotonic() + _AWAY_SECONDS
                if not self._away:
                    log.warning("Redis does not answer, this gateway counts limits for itself: %r", error)
                self._away = True
            else:
                if self._away:
                    log.info("Redis answers again, limits are shared")
                    self._away, self._away_until = False, 0.0
                return answer
        self._alone.inc()
        return await local()
