"""TCP ports for servers of benchmarks and tests, below those that the system gives out.

Between the question and the use anybody may be given one of those, and whoever keeps connecting to one where
nobody listens ends up connected to itself.
"""

import contextlib
import random
import socket


def free_ports(count: int) -> int:
    """The first of so many ports in a row on loopback that nobody listens on."""
    drawn = random.SystemRandom().sample(range(20_000, 32_000, count), 1000)  # whatever tests seed
    for first in drawn:
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise RuntimeError(f"no {count} free ports in a row")


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    return free_ports(1)


def listens(port: int) -> bool:
    """Whether a server accepts connections on a port on loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
