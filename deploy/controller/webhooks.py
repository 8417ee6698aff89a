"""What a webhook says of a decision, and its signature, as Standard Webhooks has them.

Source: https://www.standardwebhooks.com, the specification's sections on payloads, headers and signatures.
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from deploy.history.releases import Decision
from deploy.reports.status import told

VARIABLE = "HEARKEN_WEBHOOK_SECRET"
"""Where the secret is when no file of it is named."""

_PREFIX = "whsec_"
_LEAST_BYTES, _MOST_BYTES = 24, 64


class NoSecret(Exception):
    """There is no secret to sign webhooks with, or none that can be used; the message says what is right."""


def load_secrets(file: Path | None) -> tuple[bytes, ...]:
    """The secrets in a file, one a line, or in `$HEARKEN_WEBHOOK_SECRET`. Raises `NoSecret`.

    Each is `whsec_` and 24 to 64 bytes in base64. With two, as while one takes the other's place, every
    webhook has a signature by each.
    """
    where = f"${VARIABLE}" if file is None else str(file)
    try:
        text = os.environ.get(VARIABLE, "") if file is None else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise NoSecret(f"the file of webhooks' secret cannot be read: {error}") from error
    found = tuple(_secret(line, where) for line in text.split())
    if not found:
        raise NoSecret(
            f"webhooks need a secret, and {where} has none; make one with: "
            "echo whsec_$(openssl rand -base64 32), and put it there or name its file in "
            "controller.webhook_secret_file"
        )
    return found


def _secret(text: str, where: str) -> bytes:
    try:
        found = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        found = b""
    if not text.startswith(_PREFIX) or not _LEAST_BYTES <= len(found) <= _MOST_BYTES:
        raise NoSecret(
            f"a secret in {where} is not {_PREFIX} and {_LEAST_BYTES} to {_MOST_BYTES} bytes in base64; make "
            "one with: echo whsec_$(openssl rand -base64 32)"
        )
    return found


def payload(decision: Decision) -> bytes:
    """The JSON body: `type` (release. and the outcome), `timestamp` of the decision, `data`."""
    at = datetime.fromtimestamp(decision.at, UTC).isoformat(timespec="milliseconds")
    body = {
        "type": f"release.{decision.outcome}",
        "timestamp": at.replace("+00:00", "Z"),
        "data": told(decision),
    }
    return json.dumps(body).encode()


def signed_headers(event_id: str, at: float, body: bytes, secrets: Sequence[bytes]) -> dict[str, str]:
    """The headers of a webhook that is sent at a Unix time in seconds."""
    timestamp = str(int(at))
    content = f"{event_id}.{timestamp}.".encode() + body
    signatures = [hmac.new(secret, content, hashlib.sha256).digest() for secret in secrets]
    return {
        "content-type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{base64.b64encode(each).decode()}" for each in signatures),
    }


def receiver_of(url: str) -> str:
    """Host and port of a URL, for metrics and messages: the rest of it may hold a token."""
    return urlsplit(url).netloc.rpartition("@")[2]
