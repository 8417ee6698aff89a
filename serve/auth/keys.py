"""API keys: what they look like, what each may do, and the file's text, which holds only hashes of them.

A key is `hk-<id>-<secret>`. The id is public: it names the key in the file, in metrics and to operators. The
secret has 256 random bits, so a plain SHA-256 of the key cannot be turned back, and is quick to check.
"""

import hashlib
import hmac
import json
import re
import secrets
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from serve.auth.caller import Scope
from serve.auth.limits import Limits

_SHAPE = re.compile(r"hk-([a-z0-9]{1,32})-[\w-]{16,200}", re.ASCII)


Consent = Literal["given", "asked"]
"""What a request that says nothing of consent is taken to say: yes, or no."""


class Key(BaseModel):
    """One key, as the file has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")  # a misspelt limit must not be no limit

    id: str = Field(pattern=r"^[a-z0-9]{1,32}$")
    name: str = Field(min_length=1, max_length=100)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")  # of the whole key
    scopes: list[Scope] = Field(min_length=1)
    tenant: str = Field(default="default", pattern=r"^[\w.-]{1,64}$")
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None
    limits: Limits = Limits()
    consent: Consent | None = None  # None: what the service was told

    def matches(self, presented: str) -> bool:
        """Whether `presented` is this key; takes as long for a wrong one as for the right one."""
        return hmac.compare_digest(hash_of(presented), self.sha256)

    def state(self, now: datetime) -> Literal["in force", "expired", "revoked"]:
        """What became of the key by `now`."""
        if self.revoked is not None and self.revoked <= now:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "in force"


class BadKeyFile(Exception):
    """The key file cannot be used; the message says why in a line."""


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Annotated[int, Field(ge=1, le=1)] = 1
    keys: list[Key]


def make_key(
    name: str,
    scopes: list[Scope],
    now: datetime,
    tenant: str = "default",
    expires: datetime | None = None,
    limits: Limits | None = None,
    consent: Consent | None = None,
) -> tuple[Key, str]:
    """A new key: its entry for the file, and the key itself, which is kept nowhere. Raises ValueError."""
    key_id = secrets.token_hex(5)
    secret = f"hk-{key_id}-{secrets.token_urlsafe(32)}"
    try:
        key = Key(
            id=key_id,
            name=name,
            sha256=hash_of(secret),
            scopes=sorted(set(scopes)),
            tenant=tenant,
            created=now,
            expires=expires,
            limits=limits or Limits(),
            consent=consent,
        )
    except ValidationError as error:
        raise ValueError(_in_a_line(error)) from error
    return key, secret


def hash_of(presented: str) -> str:
    """What the file has of a key."""
    return hashlib.sha256(presented.encode()).hexdigest()


def id_of(presented: str) -> str | None:
    """The id in something that looks like a key, else None."""
    found = _SHAPE.fullmatch(presented)
    return None if found is None else found[1]


def parse_keys(raw: bytes) -> list[Key]:
    """The keys in a file's bytes. Raises BadKeyFile."""
    try:
        keys = _KeyFile.model_validate_json(raw).keys
    except ValidationError as error:
        raise BadKeyFile(_in_a_line(error)) from error
    ids = [key.id for key in keys]
    if len(set(ids)) != len(ids):
        raise BadKeyFile("two keys have the same id")
    return keys


def file_of(keys: list[Key]) -> bytes:
    """The file's bytes for some keys; what is not set is left out."""
    held = _KeyFile(keys=keys).model_dump(mode="json", exclude_none=True)
    for key in held["keys"]:
        if not key["limits"]:
            del key["limits"]
    return json.dumps(held, indent=2).encode() + b"\n"


def _in_a_line(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])
