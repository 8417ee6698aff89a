"""Idempotency-Key: a request that is sent again gets the first answer, and is not done again."""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import orjson

from feedback.shared import SharedStore, SharedUnavailable
from serve.errors import BadRequest, IdempotencyConflict

log = logging.getLogger(__name__)

KEEP_SECONDS = 24 * 3600
MAX_KEY_CHARS = 255
_STORE_SECONDS = 1.0  # how long a request waits for the shared store before it goes on without
Json = dict[str, Any]
T = TypeVar("T")


class Idempotency:
    """Remembers answers in the shared store.

    The entry is written before the work, without an answer, and completed after it: a crash in between
    makes the retry do the work, never skip it. When the store is away the work is simply done; votes have
    ids that make that harmless.
    """

    def __init__(self, store: SharedStore) -> None:
        self._store = store

    async def once(self, key: str | None, raw: bytes, work: Callable[[], Awaitable[Json]]) -> Json:
        """The answer of `work`, or the one that it gave before under `key` for the same `raw` body.

        Raises IdempotencyConflict when the key came with another body before.
        """
        if key is None:
            return await work()
        if not 0 < len(key) <= MAX_KEY_CHARS:
            raise BadRequest(f"Idempotency-Key must have 1 to {MAX_KEY_CHARS} characters.")
        name = "idempotency:" + hashlib.sha256(key.encode()).hexdigest()
        entry: Json = {"body": hashlib.sha256(raw).hexdigest(), "answer": None}
        known = await self._ask(self._store.put_if_absent, name, orjson.dumps(entry), KEEP_SECONDS)
        first: Json = orjson.loads(known) if known is not None else entry
        if first["body"] != entry["body"]:
            raise IdempotencyConflict(
                "This Idempotency-Key was used with another body; use a new key for a new request.",
                code="idempotency_key_reused",
            )
        if first["answer"] is not None:
            answer: Json = first["answer"]
            return answer
        answer = await work()
        await self._ask(self._store.put, name, orjson.dumps(entry | {"answer": answer}), KEEP_SECONDS)
        return answer

    async def _ask(self, operation: Callable[..., T], *arguments: object) -> T | None:
        """One operation of the store, off the event loop; None when the store is away."""
        try:
            async with asyncio.timeout(_STORE_SECONDS):
                return await asyncio.to_thread(operation, *arguments)
        except (SharedUnavailable, TimeoutError) as error:
            log.warning("the shared store is away, going on without it: %r", error)
            return None
