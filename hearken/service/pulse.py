"""Whether a process that runs still answers: asked again and again, by a thread of its own."""

import contextlib
import threading
import time
import urllib.request

INTERVAL_SECONDS = 2.0
ANSWER_SECONDS = 10.0


class Pulse:
    """Asks `url` until `stop`. Any 2xx is a beat."""

    def __init__(self, url: str, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._url = url
        self._interval_seconds = interval_seconds
        self._beat_at: float | None = None
        self._stopped = threading.Event()
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        threading.Thread(target=self._ask, name=f"pulse {url}", daemon=True).start()

    @property
    def has_beaten(self) -> bool:
        """Whether there was an answer at all."""
        return self._beat_at is not None

    @property
    def silent_seconds(self) -> float:
        """Since the last beat; 0 before the first: nobody knows how long a start may take."""
        return 0.0 if self._beat_at is None else time.monotonic() - self._beat_at

    def stop(self) -> None:
        """Ask no more. Returns at once."""
        self._stopped.set()

    def _ask(self) -> None:
        while not self._stopped.wait(self._interval_seconds):
            # OSError: refused, broken off, timed out; ValueError: what answers does not speak HTTP.
            with contextlib.suppress(OSError, ValueError):
                self._opener.open(self._url, timeout=ANSWER_SECONDS).close()
                self._beat_at = time.monotonic()
