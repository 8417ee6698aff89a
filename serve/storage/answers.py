"""The answers that tenants have stored: keeping, finding, listing and forgetting them, off the event loop."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

from serve.http.errors import Unavailable
from serve.storage.keeping import KeptGeneration
from serve.storage.privacy import Privacy
from serve.storage.stored import Page, Query, Stored, StoredCompletions, StoreUnavailable

log = logging.getLogger(__name__)

T = TypeVar("T")


class StoredAnswers:
    """What is stored. Its operations raise Unavailable when the store is away."""

    def __init__(self, store: StoredCompletions, privacy: Privacy) -> None:
        self._store = store
        self._privacy = privacy

    async def keep(self, generation: KeptGeneration) -> None:
        """Store an answer. A store that is away is logged, not raised: the client has its answer."""
        route = generation.route
        try:
            await asyncio.to_thread(self._put, self._privacy.stored(generation.stored()), route.since)
        except StoreUnavailable as error:
            log.error("completion %s was not stored: %s", route.completion_id, error)

    def _put(self, item: Stored, since: int) -> None:
        """Keep an answer, unless its user was erased since its request began.

        Looked at afterwards: an erasure that is not known by then finds the answer here.
        """
        self._store.put(item)
        if self._privacy.is_erased(item.tenant, item.user, since):
            self._store.delete(item.tenant, item.completion_id)

    async def find(self, tenant: str, completion_id: str, prefix: str) -> Stored | None:
        """The stored answer of an API, whose ids begin with `prefix`, or None."""
        if not completion_id.startswith(prefix):
            return None
        return await self._ask(self._store.get, tenant, completion_id)

    async def forget(self, tenant: str, completion_id: str, prefix: str) -> bool:
        """Delete the stored answer of an API; whether there was one."""
        if not completion_id.startswith(prefix):
            return False
        return await self._ask(self._store.delete, tenant, completion_id)

    async def page(self, tenant: str, query: Query) -> Page | None:
        """A page of a tenant's answers; None where there is none to go on after."""
        return await self._ask(self._store.page, tenant, query)

    async def set_metadata(
        self, tenant: str, completion_id: str, metadata: Mapping[str, str]
    ) -> Stored | None:
        """Replace the metadata of one; how it is now, None where there is none."""
        return await self._ask(self._store.set_metadata, tenant, completion_id, metadata)

    async def _ask(self, operation: Callable[..., T], *arguments: object) -> T:
        try:
            return await asyncio.to_thread(operation, *arguments)
        except StoreUnavailable as error:
            log.warning("%s", error)
            raise Unavailable(
                "Stored completions cannot be reached at the moment.", code="store_unavailable"
            ) from error
