"""Reading, changing and deleting stored completions: GET, POST and DELETE below /v1/chat/completions."""

import re
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from feedback.core.ids import PREFIX
from serve.auth.caller import Caller
from serve.auth.entrance import Entrance
from serve.generation.request_schemas import LIST_QUERY, METADATA_CHANGE
from serve.http.bodies import json_response, parse_object, read_json
from serve.http.errors import BadRequest, NotFound
from serve.http.routes import READ, at
from serve.schemas.validator import check
from serve.storage.answers import StoredAnswers
from serve.storage.stored import Query, Stored

Json = dict[str, Any]

METADATA_KEY = re.compile(r"metadata\[([^\[\]]{1,64})\]")


class StoredApi:
    """The operations on what a tenant has stored. max_body_bytes: of a change."""

    def __init__(self, answers: StoredAnswers, entrance: Entrance, max_body_bytes: int) -> None:
        self._answers = answers
        self._entrance = entrance
        self._max_body_bytes = max_body_bytes

    @property
    def routes(self) -> list[Route]:
        one = "/v1/chat/completions/{completion_id}"
        return [
            at("/v1/chat/completions", self.page, *READ),
            at(one, self.read, *READ),
            at(one, self.change, "POST"),
            at(one, self.delete, "DELETE"),
            at(one + "/messages", self.messages, *READ),
        ]

    async def page(self, request: Request) -> Response:
        """A page of stored completions. Raises BadRequest, Unavailable."""
        caller = await self._entrance.enter(request, "chat")
        query = parse_query(request.query_params)
        page = await self._answers.page(caller.tenant, query)
        if page is None:
            raise BadRequest(f"There is no stored completion {query.after!r:.60}.", param="after")
        return _listed([_shown(item) for item in page.items], page.has_more)

    async def read(self, request: Request) -> Response:
        """One stored completion. Raises NotFound, Unavailable."""
        caller = await self._entrance.enter(request, "chat")
        return json_response(_shown(await self._one(caller, _id(request))))

    async def messages(self, request: Request) -> Response:
        """A page of the messages that one answers. Raises BadRequest, NotFound, Unavailable."""
        caller = await self._entrance.enter(request, "chat")
        query, completion_id = parse_query(request.query_params), _id(request)
        item = await self._one(caller, completion_id)
        messages = [_message(completion_id, i, message) for i, message in enumerate(item.messages)]
        if query.order == "desc":
            messages.reverse()
        if query.after is not None:
            ids = [message["id"] for message in messages]
            if query.after not in ids:
                raise BadRequest(f"There is no message {query.after!r:.60}.", param="after")
            messages = messages[ids.index(query.after) + 1 :]
        return _listed(messages[: query.limit], len(messages) > query.limit)

    async def change(self, request: Request) -> Response:
        """Replace the metadata of one. Raises BadRequest, NotFound, Unavailable."""
        caller = await self._entrance.enter(request, "chat")
        body, completion_id = parse_object(await read_json(request, self._max_body_bytes)), _id(request)
        check(body, METADATA_CHANGE)
        await self._one(caller, completion_id)
        metadata = body["metadata"] or {}
        changed = await self._answers.set_metadata(caller.tenant, completion_id, metadata)
        if changed is None:
            raise _unknown(completion_id)
        return json_response(_shown(changed))

    async def delete(self, request: Request) -> Response:
        """Delete one. Raises NotFound, Unavailable."""
        caller = await self._entrance.enter(request, "chat")
        completion_id = _id(request)
        if not await self._answers.forget(caller.tenant, completion_id, PREFIX):
            raise _unknown(completion_id)
        return json_response({"object": "chat.completion.deleted", "id": completion_id, "deleted": True})

    async def _one(self, caller: Caller, completion_id: str) -> Stored:
        item = await self._answers.find(caller.tenant, completion_id, PREFIX)
        if item is None:
            raise _unknown(completion_id)
        return item


def _id(request: Request) -> str:
    completion_id: str = request.path_params["completion_id"]
    return completion_id


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


def _listed(items: list[Json], has_more: bool) -> Response:
    body = {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }
    return json_response(body)


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
