"""The end of a process that was told to stop."""

import signal
import threading


def event_of_signals() -> threading.Event:
    """An event that SIGTERM and Ctrl-C set from now on, instead of tearing the process down."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
