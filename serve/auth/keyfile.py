"""The key file on disk: read as a whole, replaced as a whole, edited by one process at a time."""

import fcntl
from collections.abc import Callable
from pathlib import Path

from feedback.core.files import replace_durably
from serve.auth.keys import BadKeyFile, Key, file_of, parse_keys

Signature = tuple[int, int, int]


def read_keys(path: Path) -> list[Key]:
    """The keys in the file. Raises BadKeyFile, also when it cannot be read or is not there."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadKeyFile(error.strerror or str(error)) from error
    return parse_keys(raw)


def signature(path: Path) -> Signature | None:
    """Something that differs once the file was replaced or written; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def edit_keys(path: Path, change: Callable[[list[Key]], list[Key]]) -> None:
    """Replace the file's keys by `change` of them, in one rename; a file that is not there has none.

    Raises BadKeyFile, and OSError when it cannot be written. Two edits at once happen one after the other.
    """
    with open(path.with_name(path.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        replace_durably(path, file_of(change(read_keys(path) if path.exists() else [])))
