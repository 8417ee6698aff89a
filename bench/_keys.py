"""API keys for those who call in a benchmark."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from serve.auth.caller import Scope
from serve.auth.keyfile import edit_keys
from serve.auth.keys import make_key
from serve.auth.limits import NO_LIMITS, Limits


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody who gets a key."""

    name: str
    tenant: str
    scopes: tuple[Scope, ...] = ("chat",)
    limits: Limits = NO_LIMITS


def hand_out(data: Path, holders: Iterable[Holder]) -> dict[str, str]:
    """Each holder's secret by the name. A gateway takes no other keys from then on."""
    made = {
        each.name: make_key(
            each.name, list(each.scopes), datetime.now(UTC), tenant=each.tenant, limits=each.limits
        )
        for each in holders
    }
    edit_keys(data / "keys.json", lambda _: [key for key, _ in made.values()])
    return {name: secret for name, (_, secret) in made.items()}
