"""Stored responses: the conversation that `previous_response_id` goes on with, and GET and DELETE of one.

They are kept like stored chats (serve/storage/stored.py), as a chat completion with what the response said of
its request beside it; its instructions are the first message and nowhere else.
"""

from typing import Any

import orjson

from feedback.core.ids import RESPONSE_PREFIX
from serve.apis.responses_door import response_of
from serve.auth.caller import Caller
from serve.http.errors import BodyTooLarge, NotFound
from serve.storage.answers import StoredAnswers
from serve.storage.stored import Stored

Json = dict[str, Any]

_FIELD = "response"  # of a stored answer


def kept_with(echo: Json, is_named: bool) -> Json:
    """What is kept beside the answer. is_named: whether the request named its user."""
    has_instructions = echo["instructions"] is not None
    said = {name: value for name, value in echo.items() if name not in ("instructions", "metadata")}
    return {_FIELD: said, "has_instructions": has_instructions, "is_named": is_named}


def check_length(history: list[Json], new_bytes: int, limit: int) -> None:
    """Raises BodyTooLarge for a conversation that exceeds `limit` bytes with what is new, as JSON.

    Whole in one body it would be refused likewise, and the log keeps it as one entry.
    """
    if len(orjson.dumps(history)) + new_bytes > limit:
        raise BodyTooLarge(
            f"The conversation exceeds {limit} bytes; send the part of it that counts as input, without "
            "previous_response_id.",
            param="previous_response_id",
            code="request_too_large",
        )


class StoredResponses:
    """What a tenant has stored of its responses."""

    def __init__(self, stored: StoredAnswers) -> None:
        self._stored = stored

    async def history(self, response_id: str, caller: Caller, user: str, is_named: bool) -> list[Json]:
        """The messages of a conversation up to a response and with it, without instructions.

        A response is its user's. `user` (a pseudonym) is the one who goes on, `is_named` whether the request
        names them: without a name the pseudonym is of the caller's address, and behind a key that may change.
        Raises NotFound, Unavailable.
        """
        item = await self._stored.find(caller.tenant, response_id, RESPONSE_PREFIX)
        if item is None:
            raise _unknown(response_id, "previous_response_id")
        nameless = not is_named and not item.answer["is_named"] and bool(caller.key_id)
        if item.user != user and not nameless:
            raise _unknown(response_id, "previous_response_id")
        return _history(item)

    async def read(self, tenant: str, response_id: str) -> Json:
        """One stored response. Raises NotFound, Unavailable."""
        item = await self._stored.find(tenant, response_id, RESPONSE_PREFIX)
        if item is None:
            raise _unknown(response_id, "response_id")
        instructions = item.messages[0]["content"] if item.answer["has_instructions"] else None
        told = {"instructions": instructions, "metadata": dict(item.metadata)}
        return response_of(item.answer, item.answer[_FIELD] | told)

    async def delete(self, tenant: str, response_id: str) -> Json:
        """Delete one. Raises NotFound, Unavailable."""
        if not await self._stored.forget(tenant, response_id, RESPONSE_PREFIX):
            raise _unknown(response_id, "response_id")
        return {"object": "response", "id": response_id, "deleted": True}


def _history(item: Stored) -> list[Json]:
    before = item.messages[1:] if item.answer["has_instructions"] else item.messages
    message = item.answer["choices"][0]["message"]
    names = ("role", "content", "reasoning", "tool_calls")
    return [*before, {name: message[name] for name in names if message.get(name) is not None}]


def _unknown(response_id: str, param: str) -> NotFound:
    return NotFound(
        f"There is no response {response_id!r:.80} of this user: it was not stored, was deleted, or its time "
        "is over. Send the whole conversation as input.",
        param=param,
        code="response_not_found",
    )
