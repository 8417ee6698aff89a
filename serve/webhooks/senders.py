"""Who may send votes as webhooks: names, secrets and tenants, from one TOML file.

[helpdesk]                    # sends to /v1/webhooks/helpdesk
secrets = ["whsec_.."]        # two while one takes the other's place
tenant = "shop"               # whose votes these are; without it "default"
source = "annotator"          # of votes that name no source; without it "end_user"
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feedback.core.events import Source
from feedback.core.webhook_signatures import BadSecret, parse_secret
from serve.auth.caller import Caller
from serve.auth.limits import KEY_DEFAULTS, Limits
from serve.votes.common import SOURCES

VARIABLE = "HEARKEN_WEBHOOK_SENDERS"
"""Where the file's text is when no file is named."""

MOST_SECRETS = 4
_NAME = re.compile(r"[a-z0-9-]{1,32}")
_TENANT = re.compile(r"[\w.-]{1,64}", re.ASCII)
_FIELDS = frozenset({"secrets", "tenant", "source"})
_ALLOWED = SOURCES - {"import"}  # which is for operators


class BadWebhookSenders(Exception):
    """The file of those who send webhooks cannot be used; the message says what would be right."""


@dataclass(frozen=True, slots=True)
class WebhookSender:
    """One that may send votes. `caller` tells in whose name; secrets: any of them may have signed."""

    name: str
    secrets: tuple[bytes, ...]
    caller: Caller
    source: Source


def load_senders(file: Path | None, limits: Limits) -> Mapping[str, WebhookSender]:
    """The senders in a file, or in `$HEARKEN_WEBHOOK_SENDERS`, by name; none where neither is there.

    limits: of each sender, where these have a number; else those of a key. Raises BadWebhookSenders.
    """
    where = f"${VARIABLE}" if file is None else str(file)
    try:
        text = os.environ.get(VARIABLE, "") if file is None else file.read_text()
        found = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadWebhookSenders(f"{where} cannot be read: {error}") from error
    return {name: _sender(name, entry, where, limits) for name, entry in found.items()}


def _sender(name: str, entry: Any, where: str, limits: Limits) -> WebhookSender:
    at = f"{where}, [{name}]:"
    if not isinstance(entry, dict):
        raise BadWebhookSenders(f"{where}: {name} stands outside of a table; begin one with [NAME]")
    if not _NAME.fullmatch(name):
        raise BadWebhookSenders(f"{at} a name has 1 to 32 of the letters a-z, 0-9 and -")
    unknown = sorted(entry.keys() - _FIELDS)
    if unknown:
        raise BadWebhookSenders(f"{at} {unknown[0]!r} is not known; there are {', '.join(sorted(_FIELDS))}")
    tenant, source = entry.get("tenant", "default"), entry.get("source", "end_user")
    if not isinstance(tenant, str) or not _TENANT.fullmatch(tenant):
        raise BadWebhookSenders(f"{at} tenant has 1 to 64 letters, digits or any of . _ -")
    if not isinstance(source, str) or source not in _ALLOWED:
        raise BadWebhookSenders(f"{at} source is one of {', '.join(sorted(_ALLOWED))}")
    caller = Caller(
        key_id=f"webhook-{name}",
        tenant=tenant,
        scopes=frozenset({"feedback"}),
        limits=limits.or_else(KEY_DEFAULTS),
        key_name=name,
    )
    return WebhookSender(name, _secrets(entry.get("secrets"), at), caller, source)


def _secrets(given: Any, at: str) -> tuple[bytes, ...]:
    right = f"secrets is a list of 1 to {MOST_SECRETS} texts"
    if not isinstance(given, list) or not 0 < len(given) <= MOST_SECRETS:
        raise BadWebhookSenders(f"{at} {right}")
    try:
        return tuple(parse_secret(each if isinstance(each, str) else "") for each in given)
    except BadSecret as error:
        raise BadWebhookSenders(f"{at} a secret {error}") from error
