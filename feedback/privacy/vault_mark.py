"""The mark of a vault: one small file that says which vault a folder holds, and grows with every erasure.

    <folder>/identity: the vault's id (16 hex digits), a line feed, and a full stop for each erasure

To look at it is one `stat`: whoever caches keys sees by it, at once and without opening the vault, that some
process erased somebody, and that the folder went away or became another.
"""

import os
import re
import secrets
from pathlib import Path
from typing import NamedTuple

from feedback.core.files import write_once

FILE = "identity"
ID_HEX = 16
_ID = re.compile(rb"[0-9a-f]{16}\n\.*")


class Look(NamedTuple):
    """What a `stat` of the mark tells. Two that are equal mean that nothing happened in between."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    def same_file(self, other: "Look") -> bool:
        """Whether both are of one vault, to which something may have happened in between."""
        return (self.device, self.inode) == (other.device, other.inode)


class Mark:
    """The mark in a folder, whether or not it is there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = str(folder / FILE)  # no `Path`: making one takes longer than the `stat`

    def look(self) -> Look | None:
        """What is there now; None without a vault."""
        try:
            status = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Look(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def id(self) -> str | None:
        """The vault's id, None without a vault. Raises ValueError for a file that is something else."""
        try:
            with open(self._path, "rb") as file:
                head = file.read(ID_HEX + 2)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if _ID.fullmatch(head) is None:
            raise ValueError(f"{self._path} is not the identity of a vault")
        return head[:ID_HEX].decode()

    def make(self, vault_id: str) -> None:
        """Write the mark of a new vault, durably; nothing when another process was first."""
        write_once(Path(self._path), f"{vault_id}\n".encode())

    def ring(self) -> None:
        """Let everyone see that there was an erasure."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, b".")
        finally:
            os.close(descriptor)


def is_vault_id(text: str) -> bool:
    """Whether a text may be a vault's id."""
    return re.fullmatch(f"[0-9a-f]{{{ID_HEX}}}", text) is not None


def new_id() -> str:
    """An id that no other vault has."""
    return secrets.token_hex(ID_HEX // 2)
