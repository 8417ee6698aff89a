"""How fast a client takes what waits for it: a slow reader is told from one that stopped."""

import asyncio
import fcntl
import struct
import termios
from collections import deque
from collections.abc import Callable

READ_BYTES_A_SECOND = 1024
GIVEN_SECONDS = 0.25
"""How long a place that was taken from a reader may need to come to who waits for it."""


class Pressure:
    """Requests that wait for places on engines: no more readers lose theirs than there are of those.

    Readers that stopped at one time are looked at in one moment. Were all of them cut for a single request,
    a hundred clients in a tunnel would lose their answers, and all others would wait while they are logged.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._waiting = waiting
        self._taken: deque[float] = deque()  # when places were taken that may not have been given yet

    def takes_a_place(self, now: float) -> bool:
        """Whether a reader that stopped has to give up its place now; who asks then does so. now: in
        seconds."""
        while self._taken and now - self._taken[0] >= GIVEN_SECONDS:
            self._taken.popleft()
        if len(self._taken) >= self._waiting():
            return False
        self._taken.append(now)
        return True


class Reader:
    """The client's side of a transport, from the moment at which something began to wait for it.

    Times are in seconds on the loop's clock.
    """

    def __init__(self, transport: asyncio.WriteTransport, now: float) -> None:
        self._transport = transport
        self._mark(now)

    def stopped_seconds(self, now: float) -> float:
        """For how long it has taken less than `READ_BYTES_A_SECOND`; 0 when it keeps up."""
        seconds, taken = now - self._since, self._waiting_bytes - _untaken_bytes(self._transport)
        if taken > 0 and taken >= READ_BYTES_A_SECOND * seconds:
            self._mark(now)
            return 0.0
        return seconds

    def _mark(self, now: float) -> None:
        self._since, self._waiting_bytes = now, _untaken_bytes(self._transport)


def _untaken_bytes(transport: asyncio.WriteTransport) -> int:
    """What the client's side has not confirmed: ours, and what lies in the system's buffer.

    The system tells that its buffer has room only when a third of it is free, which can be megabytes: a slow
    reader would look like one that stopped.
    """
    ours = transport.get_write_buffer_size()
    plain = transport.get_extra_info("socket")
    try:
        told = fcntl.ioctl(plain.fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, AttributeError):  # no socket, or a system that does not tell
        return ours
    (systems,) = struct.unpack("i", told)
    return ours + int(systems)
