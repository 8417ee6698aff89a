"""A small process that outlives its supervisor by some seconds and kills what that one left behind.

The supervisor holds the writing end of this process's standard input and names its children's process
groups on it ("+123" started, "-123" ended). When the supervisor dies, by SIGKILL too, the pipe closes:
what still runs gets some seconds to end by itself (the direct children have had a SIGTERM from the
kernel) and is killed then, grandchildren included.

    python -m hearken.service.watchdog GRACE_SECONDS
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable


def groups_left(lines: Iterable[str]) -> set[int]:
    """The process groups that were started and did not end, by the supervisor's own account."""
    left: set[int] = set()
    for line in lines:
        group = int(line[1:])
        if line.startswith("+"):
            left.add(group)
        else:
            left.discard(group)
    return left


def is_alive(group: int) -> bool:
    """Whether any process of a group still exists."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it exists, under another user
        return True
    return True


def kill_group(group: int) -> None:
    """SIGKILL to every process of a group; none left is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def main() -> None:
    """Read until the supervisor is gone, then clean up after it."""
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, signal.SIG_IGN)  # it ends when the supervisor does, never before
    left = groups_left(sys.stdin)
    deadline = time.monotonic() + float(sys.argv[1])
    while any(is_alive(group) for group in left) and time.monotonic() < deadline:
        time.sleep(0.1)
    for group in left:
        kill_group(group)


if __name__ == "__main__":
    main()
