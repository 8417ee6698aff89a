"""Who goes next: a bounded queue before the engines, in which every API key has its turn."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from serve.http.errors import Unavailable, queue_full
from serve.metrics import Metrics

T = TypeVar("T")
W = TypeVar("W")
P = TypeVar("P")


class FairQueue(Generic[T]):
    """Lines of items, one per key, that are served in turn; `length` is the room of all together.

    Where there is no room, the newest of the longest line has to go: a key that floods the queue cannot
    keep others out of it.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self.size = 0  # of all lines together
        self._lines: OrderedDict[str, list[T]] = OrderedDict()  # whose turn it is first; no empty ones

    def push(self, key: str, item: T) -> None:
        """Add an item at the end of its key's line, whether there is room or not."""
        self._lines.setdefault(key, []).append(item)
        self.size += 1

    def spill(self, last: str) -> tuple[str, T] | None:
        """Take out an item, of the key given back with it, when there are more than there is room for.

        `last`: the key that has just got an item; where its line is one of the longest, that item goes.
        """
        if self.size <= self._length:
            return None
        longest = max(self._lines, key=lambda k: len(self._lines[k]))
        if len(self._lines[longest]) <= len(self._lines.get(last, ())):
            longest = last
        out = self._lines[longest][-1]
        self.remove(longest, out)
        return longest, out

    def remove(self, key: str, item: T) -> None:
        """Take an item out, if it is still there."""
        line = self._lines.get(key, [])
        if item in line:
            line.remove(item)
            self.size -= 1
            if not line:
                del self._lines[key]

    def serve(self, place: Callable[[T], bool]) -> None:
        """Offer items to `place`, one of each key in turn, oldest first, until it takes none.

        A key that got a place is last in the next round; one whose items do not fit keeps its turn.
        """
        placed = True
        while placed:
            placed = False
            for key in list(self._lines):
                item = next((item for item in self._lines[key] if place(item)), None)
                if item is not None:
                    placed = True
                    if len(self._lines[key]) > 1:
                        self._lines.move_to_end(key)
                    self.remove(key, item)


class _Waiter(Generic[W, P]):
    """A request in the queue; identity, not equality, tells them apart."""

    __slots__ = ("place", "want")

    def __init__(self, want: W) -> None:
        self.want = want
        self.place: asyncio.Future[P] = asyncio.get_running_loop().create_future()


class Admission(Generic[W, P]):
    """Gives requests, each with what it wants, their places.

    `find` takes a place for a want, or gives None when there is none at the moment; `free` gives one back.
    `serve` has to be called whenever `find` may find more than before.
    """

    def __init__(
        self,
        find: Callable[[W], P | None],
        free: Callable[[P], None],
        length: int,
        seconds: float,
        metrics: Metrics,
    ) -> None:
        self._find = find
        self._free = free
        self._seconds = seconds
        self._metrics = metrics
        self._queue: FairQueue[_Waiter[W, P]] = FairQueue(length)
        metrics.queue_length.set_function(lambda: len(self))

    def __len__(self) -> int:
        """How many wait."""
        return self._queue.size

    async def enter(self, key: str, want: W, missing: Callable[[], Unavailable]) -> P:
        """A place, after waiting for it if need be.

        Raises Unavailable at once when the queue is full, and `missing()` when the time limit is over.
        """
        if not self._queue.size and (place := self._find(want)) is not None:
            return place
        started = asyncio.get_running_loop().time()
        waiter: _Waiter[W, P] = _Waiter(want)
        self._push(key, waiter)
        try:
            async with asyncio.timeout(self._seconds):
                place = await waiter.place
        except BaseException as error:
            self._queue.remove(key, waiter)
            if waiter.place.done() and not waiter.place.cancelled() and waiter.place.exception() is None:
                self._free(waiter.place.result())  # given and taken away in one moment
                self.serve()
            if isinstance(error, TimeoutError):
                self._metrics.refused.labels("waited too long").inc()
                raise missing() from None
            raise
        self._metrics.queue_seconds.observe(asyncio.get_running_loop().time() - started)
        return place

    def serve(self) -> None:
        """Give out all places that there are."""
        if self._queue.size:
            self._queue.serve(self._place)

    def _push(self, key: str, waiter: _Waiter[W, P]) -> None:
        # First who gets a place, then who has none: those who wait for what is away must not keep others
        # from what is free.
        self._queue.push(key, waiter)
        self.serve()
        out = self._queue.spill(key)
        if out is None:
            return
        self._metrics.refused.labels("queue full").inc()
        if out[1] is waiter:
            raise queue_full()
        if not out[1].place.done():
            out[1].place.set_exception(queue_full())

    def _place(self, waiter: _Waiter[W, P]) -> bool:
        if waiter.place.done():  # its task was cancelled and has not run yet
            return False
        place = self._find(waiter.want)
        if place is None:
            return False
        waiter.place.set_result(place)
        return True
