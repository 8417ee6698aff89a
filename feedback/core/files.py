"""Uses of files that many modules share: one process at a time, and what must survive a power cut."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """Where what can be made again is kept: ~/.cache/hearken, or under XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hearken"


class Held(Exception):
    """Another process holds the lock; `holder` is its process id as it wrote it there, or "unknown"."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is held by process {holder}")
        self.holder = holder


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold the lock file `path` (made if need be); the kernel lets go of it however the process ends.

    Raises `Held` when another process has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise Held(path, lock.read().strip() or "unknown") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def fsync(path: Path) -> None:
    """Make a file's contents, or a folder's entries, survive a power cut. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _written(path: Path, content: bytes) -> Iterator[str]:
    """A file of mode 0600 with `content` beside `path`, on disk, for the length of the block; what the block
    makes of it survives a power cut, too."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):  # it has another name by now
            os.unlink(temporary)
    fsync(path.parent)


def write_once(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 durably, all of it or nothing, unless another process was first."""
    with _written(path, content) as temporary, contextlib.suppress(FileExistsError):
        os.link(temporary, path)  # fails, unlike a rename, when the file is there


def replace_durably(path: Path, raw: bytes) -> None:
    """Write a file of mode 0600 in one rename, so that nobody ever sees a part of it. Raises `OSError`."""
    with _written(path, raw) as temporary:
        os.replace(temporary, path)
