"""Who may do what: finds a request's key among those in force, and follows the file that holds them."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from starlette.requests import Request

from serve.auth.caller import OPEN, Caller, Scope
from serve.auth.keyfile import Signature, read_keys, signature
from serve.auth.keys import BadKeyFile, Consent, Key, id_of
from serve.auth.limits import KEY_DEFAULTS, NO_LIMITS, Limits
from serve.http.errors import Forbidden, Unauthorized
from serve.metrics import Metrics

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5  # how often the key file is looked at


class KeysUnusable(Exception):
    """There is a key file, or there ought to be one, and it cannot be used: the gateway must not start."""


@dataclass(frozen=True, slots=True)
class _Held:
    key: Key
    caller: Caller


class Access:
    """Tells who sent a request.

    `path` is the key file. Where there is none, and none is `required`, the service is open to everyone who
    reaches it, until there is one. A file that can no longer be used, or is gone, is reported, and the keys
    that were read last stay in force: no mistake opens a service that had keys. `limits` and `consent` hold
    where a key has none of its own. `blind`: who may vote is blind, see serve/completions/answering.py.

    Raises KeysUnusable when made with a file that cannot be used.
    """

    def __init__(
        self,
        path: Path,
        required: bool,
        limits: Limits,
        metrics: Metrics,
        consent: Consent = "given",
        blind: bool = True,
    ) -> None:
        self._path = path
        self._defaults = limits.or_else(KEY_DEFAULTS)
        self._consent = consent
        self._blind = blind
        self._open = replace(
            OPEN, limits=limits.or_else(NO_LIMITS), consent=consent == "given", is_blind=blind
        )
        self._metrics = metrics
        self._held: Mapping[str, _Held] | None = None
        self._seen: Signature | None = signature(path)
        if self._seen is None and not required:
            return
        try:
            self._take(read_keys(path))
        except BadKeyFile as error:
            raise KeysUnusable(
                f"the key file {path} cannot be used: {error}; mend it (`hearken keys create` makes one)"
            ) from error

    @property
    def is_open(self) -> bool:
        """Whether the service has no keys."""
        return self._held is None

    def still_trusts(self, key_id: str) -> bool:
        """Whether what a key was given is still good; "" is the caller of an open service.

        A key that expired has come to its planned end, and what it was given ends in its own time. One that
        was revoked, or is gone from the file, may have been stolen.
        """
        if self._held is None:
            return True
        held = self._held.get(key_id)
        return held is not None and held.key.state(datetime.now(UTC)) != "revoked"

    def caller(self, request: Request, scope: Scope) -> Caller:
        """The sender of a request that needs `scope`. Raises Unauthorized (401) or Forbidden (403)."""
        if self._held is None:
            return self._open
        held = self._find(presented_key(request.headers), self._held)
        if scope not in held.caller.scopes:
            raise Forbidden(
                f"This API key has no scope {scope!r}; it has: {', '.join(held.key.scopes)}.",
                code="missing_scope",
            )
        return held.caller

    def is_operator(self, request: Request) -> bool:
        """Whether a request has an operator's key. Never in the open service."""
        if self._held is None:
            return False
        try:
            return self.caller(request, "operate").is_operator
        except (Unauthorized, Forbidden):
            return False

    def _find(self, presented: str, keys: Mapping[str, _Held]) -> _Held:
        if not presented:
            raise _invalid(
                "No API key was sent: send it in the header 'Authorization: Bearer hk-...', or in x-api-key."
            )
        held = keys.get(id_of(presented) or "")
        if held is None or not held.key.matches(presented):
            raise _invalid("The API key is not one of this service.")
        state = held.key.state(datetime.now(UTC))
        if state != "in force":
            raise _invalid(f"The API key {held.key.id} is {state}.")
        return held

    async def follow(self) -> None:
        """Take over changes of the file, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            found = await asyncio.to_thread(signature, self._path)
            if found == self._seen:
                continue
            self._seen = found
            try:
                self._take(await asyncio.to_thread(read_keys, self._path))
            except BadKeyFile as error:
                self._metrics.keys_stale.set(1)
                kept = "the keys that were read before stay in force"
                if self._held is None:
                    self._held = {}  # whoever writes a key file does not want an open service
                    kept = "nobody is let in until it can"
                log.error("the key file %s cannot be used, %s: %s", self._path, kept, error)

    def _take(self, keys: list[Key]) -> None:
        self._held = {key.id: _Held(key, self._caller(key)) for key in keys}
        self._metrics.keys_stale.set(0)
        now = datetime.now(UTC)
        in_force = sum(key.state(now) == "in force" for key in keys)
        log.info("%d API keys are in force, from %s", in_force, self._path)

    def _caller(self, key: Key) -> Caller:
        consent = (key.consent or self._consent) == "given"
        limits = key.limits.or_else(self._defaults)
        is_operator = "operate" in key.scopes
        is_blind = self._blind and "feedback" in key.scopes and not is_operator
        scopes = frozenset(key.scopes)
        return Caller(key.id, key.tenant, scopes, limits, consent, is_blind, key.name, is_operator)


def presented_key(headers: Mapping[str, str]) -> str:
    """The key in a request's headers, "" without one: OpenAI's clients send one, Anthropic's the other."""
    kind, _, bearer = headers.get("authorization", "").strip().partition(" ")
    bearer = bearer.strip()
    return bearer if kind.lower() == "bearer" and bearer else headers.get("x-api-key", "").strip()


def _invalid(message: str) -> Unauthorized:
    return Unauthorized(message, code="invalid_api_key")
