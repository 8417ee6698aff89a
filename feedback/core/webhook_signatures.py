"""Signatures of webhooks as Standard Webhooks has them: made for what is sent, checked on what comes.

Source: https://www.standardwebhooks.com, the specification's sections on headers, signatures and secrets.
"""

import base64
import binascii
import hmac
from collections.abc import Sequence

PREFIX = "whsec_"
LEAST_BYTES, MOST_BYTES = 24, 64
MAKE = "echo whsec_$(openssl rand -base64 32)"
"""The command that makes a secret."""

TOLERANCE_SECONDS = 300.0
"""How far the time of a webhook may be from the receiver's clock: an older one may be somebody's copy."""

_VERSION = "v1,"  # HMAC-SHA256, the one with a shared secret


class BadSecret(ValueError):
    """A text is no secret of webhooks; the message says what one looks like, and never what was written."""


def parse_secret(text: str) -> bytes:
    """The bytes of a secret as it is written: `whsec_` and 24 to 64 bytes in base64. Raises `BadSecret`."""
    try:
        found = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):  # the second: letters beyond ASCII
        found = b""
    if not text.startswith(PREFIX) or not LEAST_BYTES <= len(found) <= MOST_BYTES:
        raise BadSecret(
            f"is not {PREFIX} and {LEAST_BYTES} to {MOST_BYTES} bytes in base64; make one with: {MAKE}"
        )
    return found


def signature(event_id: str, timestamp: str, body: bytes, secret: bytes) -> str:
    """The signature of a webhook by one secret. timestamp: Unix seconds, as its header has them."""
    content = f"{event_id}.{timestamp}.".encode() + body
    return _VERSION + base64.b64encode(hmac.digest(secret, content, "sha256")).decode()


def is_signed(event_id: str, timestamp: str, body: bytes, given: str, secrets: Sequence[bytes]) -> bool:
    """Whether one of the signatures in a header is by one of the secrets.

    given: signatures with spaces between them, of which those of other versions do not count.
    """
    wanted = [signature(event_id, timestamp, body, secret).encode() for secret in secrets]
    found = [each.encode() for each in given.split(" ") if each.startswith(_VERSION)]
    return any(hmac.compare_digest(one, other) for one in wanted for other in found)
