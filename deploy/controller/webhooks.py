"""What a webhook says of a decision, and its headers, as Standard Webhooks has them.

Source: https://www.standardwebhooks.com, the specification's sections on payloads and headers.
"""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from deploy.history.releases import Decision
from deploy.reports.status import told
from feedback.core.webhook_signatures import MAKE, BadSecret, parse_secret, signature

VARIABLE = "HEARKEN_WEBHOOK_SECRET"
"""Where the secret is when no file of it is named."""


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
            f"webhooks need a secret, and {where} has none; make one with: {MAKE}, and put it there or name "
            "its file in controller.webhook_secret_file"
        )
    return found


def _secret(text: str, where: str) -> bytes:
    try:
        return parse_secret(text)
    except BadSecret as error:
        raise NoSecret(f"a secret in {where} {error}") from error


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
    signatures = [signature(event_id, timestamp, body, secret) for secret in secrets]
    return {
        "content-type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(signatures),
    }


def receiver_of(url: str) -> str:
    """Host and port of a URL, for metrics and messages: the rest of it may hold a token."""
    return urlsplit(url).netloc.rpartition("@")[2]
