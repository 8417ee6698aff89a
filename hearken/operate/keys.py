"""`hearken keys`: make, list and revoke API keys. A running gateway notices by itself."""

import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hearken.base.checks import prepare_data
from hearken.base.errors import UsageError
from serve.auth.caller import Scope
from serve.auth.keyfile import edit_keys, read_keys
from serve.auth.keys import BadKeyFile, Consent, Key, id_of, make_key
from serve.auth.limits import parse_limits


def key_file(data: Path, keys: Path | None) -> Path:
    """Where the keys are."""
    return (keys or data / "keys.json").expanduser().resolve()


def create(
    path: Path,
    name: str,
    scopes: Sequence[Scope],
    tenant: str,
    days: float | None,
    limits: Sequence[str],
    consent: Consent | None,
) -> int:
    """Add a key to the file and print it: on standard output nothing but the key."""
    now = datetime.now(UTC).replace(microsecond=0)
    if days is not None and not 0 < days < 100_000:
        raise UsageError(f"--days {days:g} must be more than 0 and less than 100000")
    expires = None if days is None else now + timedelta(days=days)
    try:
        key, secret = make_key(
            name, list(scopes or ("chat", "feedback")), now, tenant, expires, parse_limits(limits), consent
        )
    except ValueError as error:
        raise UsageError(f"no key was made: {error}") from error
    prepare_data(path.parent)
    first = not path.exists()
    _edit(path, lambda keys: [*keys, key])
    print(
        f"key {key.id} ({key.name}) may {' and '.join(key.scopes)}; this is the only time that it is shown:",
        file=sys.stderr,
    )
    print(secret, flush=True)
    if first:
        print(f"{path} is new: from now on the service answers only those who have a key", file=sys.stderr)
    return 0


def show(path: Path, *, as_json: bool) -> int:
    """Print the keys, without what they are checked with."""
    try:
        keys = read_keys(path) if path.exists() else []
    except BadKeyFile as error:
        raise UsageError(f"the key file {path} cannot be used: {error}", code=1) from error
    now = datetime.now(UTC)
    if as_json:
        shown = [
            key.model_dump(mode="json", exclude={"sha256"}, exclude_none=True) | {"state": key.state(now)}
            for key in keys
        ]
        print(json.dumps(shown, indent=1))
    elif not path.exists():
        print(f"there is no {path}: the service is open to everyone who reaches it")
    else:
        print(
            "\n".join([_line("ID", "STATE", "TENANT", "SCOPES", "NAME"), *(_row(key, now) for key in keys)])
        )
    return 0


def revoke(path: Path, key_id: str) -> int:
    """End a key. It stays in the file, so that its id can still be looked up."""
    wanted = id_of(key_id) or key_id  # whoever has the whole key may name it by that
    now = datetime.now(UTC).replace(microsecond=0)

    def without(keys: list[Key]) -> list[Key]:
        if wanted not in {key.id for key in keys}:
            raise UsageError(f"there is no key {wanted} in {path}; `hearken keys list` prints them")
        return [
            key.model_copy(update={"revoked": now}) if key.id == wanted and key.revoked is None else key
            for key in keys
        ]

    if not path.exists():
        raise UsageError(f"there is no {path}, and so no key to revoke")
    _edit(path, without)
    print(f"key {wanted} is revoked; running gateways refuse it within a second or two")
    return 0


def _edit(path: Path, change: Callable[[list[Key]], list[Key]]) -> None:
    try:
        edit_keys(path, change)
    except BadKeyFile as error:
        raise UsageError(
            f"the key file {path} cannot be used: {error}; nothing was changed", code=1
        ) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", code=1) from error


def _row(key: Key, now: datetime) -> str:
    ends = f", until {key.expires:%Y-%m-%d %H:%M} UTC" if key.expires and key.state(now) == "in force" else ""
    limits = key.limits.given()
    own = "".join(f", {name}={number}" for name, number in limits.items())
    return _line(key.id, key.state(now), key.tenant, " ".join(key.scopes), key.name + ends + own)


def _line(key_id: str, state: str, tenant: str, scopes: str, rest: str) -> str:
    return f"{key_id:<12} {state:<9} {tenant:<12} {scopes:<22} {rest}"
