"""The secret that signs ids and hides users, kept in one file of the service's data folder."""

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

_SECRET_BYTES = 32


def load_secret(path: Path) -> bytes:
    """The signing secret, made on first use. Two processes that start at once agree on one."""
    if not path.exists():
        descriptor, temporary = tempfile.mkstemp(prefix=".secret.", dir=path.parent)  # mode 0600
        try:
            with open(descriptor, "wb") as file:
                file.write(secrets.token_bytes(_SECRET_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)  # fails, unlike a rename, when another process was first
        finally:
            os.unlink(temporary)
    return path.read_bytes()
