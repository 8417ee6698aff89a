"""Makes the disk of a process fail and its clock wrong, from outside, while it runs (see shim.c)."""

import os
import struct
import subprocess
from pathlib import Path

from tests.servers import need

_FIELDS = ("fsync_fails", "disk_is_full", "clock_seconds")


class Shim:
    """The faults of the processes that are started with `environment`."""

    def __init__(self, folder: Path) -> None:
        need("cc")
        library = folder / "shim.so"
        source = Path(__file__).with_name("shim.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        self._control = folder / "faults"
        self._now = dict.fromkeys(_FIELDS, 0)
        self._control.write_bytes(struct.pack("=3q", 0, 0, 0))
        self.environment = {"LD_PRELOAD": str(library), "HEARKEN_FAULTS": str(self._control)}

    def set(self, **faults: int) -> None:
        """Begin a fault (1) or end it (0); `clock_seconds` is what the clock is ahead, or behind."""
        self._now |= faults
        packed = struct.pack("=3q", *(self._now[field] for field in _FIELDS))
        with self._control.open("r+b") as file:
            os.pwrite(file.fileno(), packed, 0)
