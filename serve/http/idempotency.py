"""Idempotency keys: a request that is sent again gets the first answer, and is not done again."""

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from feedback.shared import SharedStore, SharedUnavailable
from serve.http.errors import BadRequest, IdempotencyConflict, StillRunning

log = logging.getLogger(__name__)

KEEP_SECONDS = 24 * 3600
KEY_HEADER = "idempotency-key"
MAX_KEY_CHARS = 255
HEADER_KEY = re.compile(f"[!-~]{{1,{MAX_KEY_CHARS}}}")
CLAIM_SECONDS = 5.0  # without an answer for so long a request is taken for dead; twice is harmless
_STORE_SECONDS = 1.0  # how long a request waits for the shared store before it goes on without
Json = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that can be given again."""

    status: int
    body: Json


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to do the work of a key, or the `first` answer when it was done before."""

    name: str
    digest: str
    first: Reply | None = None


def check_header(key: str) -> None:
    """Whether an Idempotency-Key header is as documented; raises BadRequest, also where no key is needed."""
    if not HEADER_KEY.fullmatch(key):
        raise BadRequest(
            f"The header Idempotency-Key must have 1 to {MAX_KEY_CHARS} visible ASCII characters, "
            "and no spaces.",
            param="idempotency_key",
        )


class Idempotency:
    """Remembers answers in the shared store, for a day.

    The entry is written before the work, without an answer, and completed after it: a crash in between
    makes a retry do the work after `CLAIM_SECONDS`, never skip it. When the store is away the work is simply
    done; votes have ids that make that harmless.
    """

    def __init__(self, store: SharedStore) -> None:
        self._store = store

    async def once(
        self, tenant: str, key: str | None, raw: bytes, work: Callable[[], Awaitable[Reply]]
    ) -> Reply:
        """The answer of `work`, or the one that it gave before under a tenant's `key` for the same body.

        Raises IdempotencyConflict when the key came with another body before, StillRunning when the first
        request has not been answered yet. Work that raises leaves the key unused.
        """
        if key is None:
            return await work()
        claim = await self.claim(tenant, key, raw)
        if claim.first is not None:
            return claim.first
        try:
            reply = await work()
        except BaseException:  # a client that left as well: its retry must not wait
            await asyncio.shield(self.release(claim))
            raise
        await self.complete(claim, reply)
        return reply

    async def claim(self, tenant: str, key: str, raw: bytes) -> Claim:
        """Take a key for a body, or find what it led to. Raises as `once` does."""
        if not 0 < len(key) <= MAX_KEY_CHARS:
            raise BadRequest(
                f"An idempotency key must have 1 to {MAX_KEY_CHARS} characters.", param="idempotency_key"
            )
        name = "idempotency:" + hashlib.sha256(f"{tenant}\0{key}".encode()).hexdigest()
        claim = Claim(name, hashlib.sha256(raw).hexdigest())
        entry = orjson.dumps({"body": claim.digest, "until": time.time() + CLAIM_SECONDS})
        known = await self._ask(self._store.put_if_absent, name, entry, KEEP_SECONDS)
        if known is None:
            return claim
        first: Json = orjson.loads(known)
        if first["body"] != claim.digest:
            raise IdempotencyConflict(
                "This idempotency key was used with another body; use a new key for a new request.",
                code="idempotency_key_reused",
                param="idempotency_key",
            )
        if "reply" in first:
            return Claim(name, claim.digest, Reply(*first["reply"]))
        if first["until"] > time.time():
            raise StillRunning(
                "The first request with this idempotency key is still being answered; try again shortly.",
                code="idempotency_key_in_use",
                param="idempotency_key",
            )
        await self._ask(self._store.put, name, entry, KEEP_SECONDS)
        return claim

    async def complete(self, claim: Claim, reply: Reply) -> None:
        """Remember what the work of a claim led to."""
        entry = orjson.dumps({"body": claim.digest, "reply": [reply.status, reply.body]})
        await self._ask(self._store.put, claim.name, entry, KEEP_SECONDS)

    async def release(self, claim: Claim) -> None:
        """Forget a claim whose work was not done."""
        await self._ask(self._store.delete, claim.name)

    async def _ask(self, operation: Callable[..., T], *arguments: object) -> T | None:
        """One operation of the store, off the event loop; None when the store is away."""
        try:
            async with asyncio.timeout(_STORE_SECONDS):
                return await asyncio.to_thread(operation, *arguments)
        except (SharedUnavailable, TimeoutError) as error:
            log.warning("the shared store is away, going on without it: %r", error)
            return None
