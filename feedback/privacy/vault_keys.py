"""A user's key, how it is wrapped for a file, and what can be wrong with a vault."""

import hashlib
import secrets
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from feedback.core.log import LogUnavailable

KEY_BYTES = 32
KEY_ID_BYTES = 8
NONCE_BYTES = 12


class UserKey(NamedTuple):
    """A user's key. `id` tells it from the keys that the same user had before an erasure."""

    id: bytes
    cipher: AESGCM


class KeyState(NamedTuple):
    """Whether there is a key, and when (Unix time in seconds) the newest erasure took one, None for never."""

    has_key: bool
    erased_at: float | None


class VaultUnavailable(LogUnavailable):
    """The vault can be neither read nor written now: nothing was sealed or opened."""


class VaultLost(VaultUnavailable):
    """The vault is not there, or not the one that the texts were sealed with."""


class VaultDamaged(VaultUnavailable):
    """A key does not open with this service's secret."""


class Wrapping:
    """Wraps users' keys with a key that follows from the service's secret; each fits its user's name only."""

    def __init__(self, secret: bytes) -> None:
        self._cipher = AESGCM(HKDF(SHA256(), KEY_BYTES, salt=None, info=b"hearken vault").derive(secret))

    def new(self, user: str) -> tuple[UserKey, bytes]:
        """A new key of a user, and the same wrapped."""
        key, nonce = secrets.token_bytes(KEY_BYTES), secrets.token_bytes(NONCE_BYTES)
        return _user_key(key), nonce + self._cipher.encrypt(nonce, key, user.encode())

    def open(self, user: str, wrapped: bytes) -> UserKey:
        """The key that was wrapped. Raises VaultDamaged."""
        try:
            key = self._cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], user.encode())
        except (InvalidTag, ValueError) as error:
            raise VaultDamaged(f"the key of {user} does not fit this service's secret") from error
        return _user_key(key)


def owner_of(user: str) -> bytes:
    """What a vault's file calls a user."""
    return hashlib.sha256(user.encode()).digest()


def _user_key(key: bytes) -> UserKey:
    return UserKey(hashlib.sha256(key).digest()[:KEY_ID_BYTES], AESGCM(key))
