"""Signatures of decisions: who has the service's secret made them, and anyone with the public key sees so.

The key is Ed25519 and follows from the secret, so there is nothing more to keep. What is signed is the
decision's content without the signature, as JSON with sorted names: a decision names the one before by its
sha256, so a signature speaks for all that came before as well.
"""

import hmac
import json
from collections.abc import Iterable
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from deploy.history.releases import Decision

_PURPOSE = b"hearken: decisions of releases, 1"


class BadKey(ValueError):
    """A text that is no public key; the message says what one looks like."""


def signing_key(secret: bytes) -> Ed25519PrivateKey:
    """The key that follows from a service's secret."""
    return Ed25519PrivateKey.from_private_bytes(hmac.digest(secret, _PURPOSE, "sha256"))


def public_key(secret: bytes) -> str:
    """Its public half: 64 hexadecimal digits, for whoever checks and cannot sign."""
    return signing_key(secret).public_key().public_bytes_raw().hex()


def parse_key(text: str) -> Ed25519PublicKey:
    """A public key from its digits. Raises `BadKey`."""
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    except ValueError as error:
        raise BadKey(f"{text!r} is no public key of 64 hexadecimal digits") from error


def sign(decision: Decision, key: Ed25519PrivateKey) -> Decision:
    """The decision with its signature."""
    content = json.loads(decision.model_dump_json())
    return decision.model_copy(update={"signature": key.sign(_message(content)).hex()})


def is_signed(value: bytes, keys: Iterable[Ed25519PublicKey]) -> bool:
    """Whether one of the keys signed the decision in a record."""
    content = json.loads(value)
    try:
        signature, message = bytes.fromhex(content.get("signature", "")), _message(content)
    except ValueError:
        return False
    for key in keys:
        try:
            key.verify(signature, message)
        except InvalidSignature:
            continue
        return True
    return False


def _message(content: dict[str, Any]) -> bytes:
    signed = {name: value for name, value in content.items() if name != "signature"}
    return _PURPOSE + json.dumps(signed, sort_keys=True, separators=(",", ":")).encode()
