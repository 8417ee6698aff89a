"""Guard files beside the embedded log's: who has it open, how far it got, whether it is damaged.

log.db-lock      everyone who has the log open shares this lock; who mends it holds it alone
log.db-mark      an id that was durable, written after each commit: a file that ends before it lost rows
log.db-damaged/  exists from when damage was found until it is mended; holds links to the damaged files
"""

import contextlib
import fcntl
import logging
import os
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

from crc32c import crc32c

from feedback.core.files import fsync
from feedback.core.log import LogUnavailable

logger = logging.getLogger(__name__)

PARTS = ("", "-wal")
"""Suffixes of the files that hold records. SQLite makes the third, -shm, from them."""

_MARK = struct.Struct("<QI")
_PATIENCE_SECONDS = 20.0  # until the other processes have noticed the damage and have ended


class Guard:
    """One process's hold on the files of one log. `mend(folder, path, mark)` rebuilds `path`."""

    def __init__(self, path: Path, mend: Callable[[Path, Path, int], object]) -> None:
        self._path = path
        self._mend = mend
        self._damaged = _beside(path, "-damaged")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _open(_beside(path, "-lock"))
        self._mark = _open(_beside(path, "-mark"))

    def enter(self) -> None:
        """Become one of those who have the log open; mends it first if it is damaged.

        Raises `LogUnavailable` when it is damaged and others do not let go of it, and `OSError` or
        `sqlite3.Error` when the new file cannot be written.
        """
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        while self.is_condemned():
            self._alone()
            if self.is_condemned():  # and nobody else was quicker
                self._preserve()
                self._mend(self._damaged, self._path, self.mark())
                stamp = f"{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**9:09d}"
                self._damaged.rename(_beside(self._path, f"-damaged-{stamp}"))
                fsync(self._path.parent)
            fcntl.flock(self._lock, fcntl.LOCK_SH)

    def _alone(self) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LogUnavailable(
                        f"the log {self._path} is damaged and cannot be mended while other processes have it "
                        "open; end them"
                    ) from None
                time.sleep(0.05)

    def is_condemned(self) -> bool:
        """Whether damage was found by whichever process, so that all must let go of the log."""
        return self._damaged.exists()

    def condemn(self, why: str) -> None:
        """Say that the log is damaged, and keep its files as they are."""
        logger.error("the log %s is damaged: %s", self._path, why)
        self._damaged.mkdir(exist_ok=True)
        self._preserve()
        with contextlib.suppress(OSError):  # a full disk must not hide the damage
            (self._damaged / "why.txt").write_text(why + "\n")

    def _preserve(self) -> None:
        """Link what is there into the folder, as "-late" where it is another file than the one linked before.

        SQLite deletes its -wal when the last connection closes, and with it what comes after a flipped bit.
        """
        for part in PARTS:
            source = _beside(self._path, part)
            kept = [self._damaged / (source.name + suffix) for suffix in ("", "-late")]
            if source.exists() and not any(each.exists() and each.samefile(source) for each in kept):
                target = next((each for each in kept if not each.exists()), kept[-1])
                target.unlink(missing_ok=True)
                try:
                    os.link(source, target)
                except PermissionError:  # a file system without links
                    shutil.copyfile(source, target)

    def mark(self) -> int:
        """An id that was durable; 0 when it is not known."""
        raw = os.pread(self._mark, _MARK.size, 0)
        if len(raw) != _MARK.size:
            return 0
        number, crc = _MARK.unpack(raw)
        return int(number) if crc == crc32c(raw[:8]) else 0

    def set_mark(self, number: int) -> None:
        """Remember that all up to an id is durable. Not itself made durable: it may say less, never more."""
        raw = number.to_bytes(8, "little")
        with contextlib.suppress(OSError):
            os.pwrite(self._mark, raw + crc32c(raw).to_bytes(4, "little"), 0)

    def leave(self) -> None:
        """Let go of the log."""
        if self._lock >= 0:
            os.close(self._mark)
            os.close(self._lock)
        self._mark = self._lock = -1


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
