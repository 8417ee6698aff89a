"""One key for every user, so that destroying it makes all that was ever written of the user unreadable.

The log, its copies in Kafka and the backups of both hold texts only under these keys (see `sealing`). The
keys lie in a folder of their own, a file for each user, which every process of the service sees. Leave that
folder out of the backups of the log: an erased key must not come back with them.
"""

import contextlib
import hashlib
import os
import secrets
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
KEY_ID_BYTES = 8
NONCE_BYTES = 12
_CACHED_KEYS = 10_000


class UserKey(NamedTuple):
    """A user's key. `id` tells it from the keys that the same user had before an erasure."""

    id: bytes
    cipher: AESGCM


class VaultDamaged(Exception):
    """A key file cannot be opened with this service's secret."""


class Vault:
    """The keys of users, in files under `folder`, each wrapped with a key that follows from the secret.

    Every operation looks at the file system (a `stat`), so an erasure by another process counts at once.
    """

    def __init__(self, folder: Path, secret: bytes) -> None:
        self._folder = folder
        self._wrapping = AESGCM(HKDF(SHA256(), KEY_BYTES, salt=None, info=b"hearken vault").derive(secret))
        self._cache: OrderedDict[str, tuple[int, int, UserKey]] = OrderedDict()

    def key(self, user: str) -> UserKey | None:
        """The user's key, or None when there is none: nothing was written yet, or it was erased.

        Raises VaultDamaged.
        """
        path = self._path(user)
        try:
            status = os.stat(path)
        except FileNotFoundError:
            self._cache.pop(user, None)
            return None
        known = self._cache.get(user)
        if known is not None and known[:2] == (status.st_ino, status.st_mtime_ns):
            return known[2]
        return self._read(user, Path(path), status)

    def key_to_write(self, user: str) -> UserKey:
        """The user's key, made and on disk before this returns if there was none. Raises OSError."""
        found = self.key(user)
        if found is not None:
            return found
        self._make(user)
        made = self.key(user)
        return made if made is not None else self.key_to_write(user)  # erased in between

    def erase(self, user: str) -> bool:
        """Destroy the user's key; whether there was one. Durable when this returns. Raises OSError."""
        path = Path(self._path(user))
        self._cache.pop(user, None)
        try:
            with path.open("r+b") as file:
                path.unlink()
                _sync_folder(path.parent)
                file.write(bytes(os.fstat(file.fileno()).st_size))
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError:
            return False
        return True

    def _path(self, user: str) -> str:
        # No `Path`: making one takes longer than to look whether the file is there.
        name = hashlib.sha256(user.encode()).hexdigest()
        return f"{self._folder}/{name[:2]}/{name[2:]}"

    def _read(self, user: str, path: Path, status: os.stat_result) -> UserKey | None:
        try:
            wrapped = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            key = self._wrapping.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], user.encode())
        except (InvalidTag, ValueError) as error:
            if not path.exists():
                return None  # erased while it was read
            raise VaultDamaged(
                f"the key of {user} in {self._folder} does not fit this service's secret"
            ) from error
        found = UserKey(hashlib.sha256(key).digest()[:KEY_ID_BYTES], AESGCM(key))
        self._cache[user] = (status.st_ino, status.st_mtime_ns, found)
        if len(self._cache) > _CACHED_KEYS:
            self._cache.popitem(last=False)
        return found

    def _make(self, user: str) -> None:
        path = Path(self._path(user))
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        nonce = secrets.token_bytes(NONCE_BYTES)
        wrapped = nonce + self._wrapping.encrypt(nonce, secrets.token_bytes(KEY_BYTES), user.encode())
        descriptor, temporary = tempfile.mkstemp(prefix=".new.", dir=path.parent)  # mode 0600
        try:
            with open(descriptor, "wb") as file:
                file.write(wrapped)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)  # fails, unlike a rename, when another process was first
        finally:
            os.unlink(temporary)
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
