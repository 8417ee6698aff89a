"""Reading, changing and deleting stored completions: GET, POST and DELETE below /v1/chat/completions."""

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.datastructures import QueryParams

from feedback.ids import PREFIX
from serve.bodies import parse_object
from serve.errors import BadRequest, NotFound, Unavailable
from serve.keeping import KeptGeneration
from serve.privacy import Privacy
from serve.request_schemas import LIST_QUERY, METADATA_CHANGE
from serve.schema import check
from serve.stored import Query, Stored, StoredCompletions, StoreUnavailable

log = logging.getLogger(__name__)

Json = dict[str, Any]
T = TypeVar("T")

METADATA_KEY = re.compile(r"metadata\[([^\[\]]{1,64})\]")


class StoredApi:
    """The operations on what a tenant has stored."""

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

    async def page(self, tenant: str, parameters: QueryParams) -> Json:
        """A page of stored completions. Raises BadRequest, Unavailable."""
        query = parse_query(parameters)
        page = await self._ask(self._store.page, tenant, query)
        if page is None:
            raise BadRequest(f"There is no stored completion {query.after!r:.60}.", param="after")
        return _listed([_shown(item) for item in page.items], page.has_more)

    async def read(self, tenant: str, completion_id: str) -> Json:
        """One stored completion. Raises NotFound, Unavailable."""
        return _shown(await self._one(tenant, completion_id))

    async def messages(self, tenant: str, completion_id: str, parameters: QueryParams) -> Json:
        """A page of the messages that one answers. Raises BadRequest, NotFound, Unavailable."""
        query = parse_query(parameters)
        item = await self._one(tenant, completion_id)
        messages = [_message(completion_id, i, message) for i, message in enumerate(item.messages)]
        if query.order == "desc":
            messages.reverse()
        if query.after is not None:
            ids = [message["id"] for message in messages]
            if query.after not in ids:
                raise BadRequest(f"There is no message {query.after!r:.60}.", param="after")
            messages = messages[ids.index(query.after) + 1 :]
        return _listed(messages[: query.limit], len(messages) > query.limit)

    async def change(self, tenant: str, completion_id: str, raw: bytes) -> Json:
        """Replace the metadata of one. Raises BadRequest, NotFound, Unavailable."""
        body = parse_object(raw)
        check(body, METADATA_CHANGE)
        await self._one(tenant, completion_id)
        changed = await self._ask(self._store.set_metadata, tenant, completion_id, body["metadata"] or {})
        if changed is None:
            raise _unknown(completion_id)
        return _shown(changed)

    async def delete(self, tenant: str, completion_id: str) -> Json:
        """Delete one. Raises NotFound, Unavailable."""
        if not await self.forget(tenant, completion_id, PREFIX):
            raise _unknown(completion_id)
        return {"object": "chat.completion.deleted", "id": completion_id, "deleted": True}

    async def find(self, tenant: str, completion_id: str, prefix: str) -> Stored | None:
        """The stored answer of an API, whose ids begin with `prefix`, or None. Raises Unavailable."""
        if not completion_id.startswith(prefix):
            return None
        return await self._ask(self._store.get, tenant, completion_id)

    async def forget(self, tenant: str, completion_id: str, prefix: str) -> bool:
        """Delete the stored answer of an API; whether there was one. Raises Unavailable."""
        if not completion_id.startswith(prefix):
            return False
        return await self._ask(self._store.delete, tenant, completion_id)

    async def _one(self, tenant: str, completion_id: str) -> Stored:
        item = await self.find(tenant, completion_id, PREFIX)
        if item is None:
            raise _unknown(completion_id)
        return item

    async def _ask(self, operation: Callable[..., T], *arguments: object) -> T:
        """One operation of the store, off the event loop. Raises Unavailable when the store is away."""
        try:
            return await asyncio.to_thread(operation, *arguments)
        except StoreUnavailable as error:
            log.warning("%s", error)
            raise Unavailable(
                "Stored completions cannot be reached at the moment.", code="store_unavailable"
            ) from error


def parse_query(parameters: QueryParams) -> Query:
    """The query of a list: limit, order, after, model, metadata[key]. Raises BadRequest."""
    known: Json = {}
    metadata: dict[str, str] = {}
    for name, values in ((name, parameters.getlist(name)) for name in parameters):
        value = values[0]
        if name == "metadata" or name.startswith("metadata["):
            metadata[_metadata_key(name)] = value
        elif name == "limit":
            known["limit"] = _whole_number(value)
        elif name in LIST_QUERY["properties"]:
            known[name] = value
        else:
            continue
        if len(values) > 1:
            param = name.partition("[")[0]
            raise BadRequest(f"{name:.80} is there {len(values)} times; send it once.", param=param)
    check(known, LIST_QUERY)
    return Query(**known, metadata=metadata, prefix=PREFIX)


def _metadata_key(name: str) -> str:
    found = METADATA_KEY.fullmatch(name)
    if found is None:
        raise BadRequest("Metadata is asked for as metadata[key]=value.", param="metadata")
    return found[1]


def _whole_number(value: str) -> int:
    if not value.isdecimal() or len(value) > 9:
        raise BadRequest("limit must be an integer.", param="limit", code="invalid_type")
    return int(value)


def _listed(items: list[Json], has_more: bool) -> Json:
    return {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }


def _shown(item: Stored) -> Json:
    return item.answer | {"metadata": dict(item.metadata)}


def _message(completion_id: str, place: int, message: Json) -> Json:
    """A message as a list shows it; content in parts is shown as `content_parts`."""
    content = message.get("content")
    parts = content if isinstance(content, list) else None
    text = content if parts is None else "".join(part.get("text", "") for part in parts)
    return message | {"id": f"{completion_id}-{place}", "content": text, "content_parts": parts}


def _unknown(completion_id: str) -> NotFound:
    return NotFound(
        f"There is no stored completion {completion_id!r:.80}.",
        param="completion_id",
        code="completion_not_found",
    )
