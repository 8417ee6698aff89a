"""The secret that signs ids and hides users, kept in one file of the service's data folder."""

import secrets
from pathlib import Path

from feedback.core.files import write_once

_SECRET_BYTES = 32


def load_secret(path: Path) -> bytes:
    """The signing secret, made on first use. Two processes that start at once agree on one."""
    if not path.exists():
        write_once(path, secrets.token_bytes(_SECRET_BYTES))
    return path.read_bytes()
