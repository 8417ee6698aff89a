"""POST /v1/webhooks/{sender}: votes that another service pushes, and their changes and removals.

A webhook is taken once: its id is an idempotency key, and each vote has one place however often it is said.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from feedback.core.log import LogUnavailable
from serve.http.bodies import json_response, read_json
from serve.http.errors import BadRequest, NotFound, Unavailable
from serve.http.idempotency import Idempotency, Reply
from serve.http.routes import at
from serve.receipts.reader import Receipts
from serve.server.addresses import Addresses
from serve.storage.privacy import Privacy
from serve.storage.recording import Recorder
from serve.votes.api import FeedbackApi, Posted
from serve.votes.receipt_api import take_back
from serve.votes.voters import Sender
from serve.webhooks.delivery import Happened, check_signed, parse
from serve.webhooks.order import Order
from serve.webhooks.senders import WebhookSender

Json = dict[str, Any]


class WebhookRoutes:
    """Takes webhooks. most_bytes: of a body; take_votes: counts votes against a sender's limit, or raises."""

    def __init__(
        self,
        senders: Mapping[str, WebhookSender],
        addresses: Addresses,
        privacy: Privacy,
        feedback: FeedbackApi,
        recorder: Recorder,
        receipts: Receipts,
        idempotency: Idempotency,
        order: Order,
        take_votes: Callable[[Sender, int], Awaitable[None]],
        most_bytes: int,
    ) -> None:
        self._senders = senders
        self._addresses = addresses
        self._privacy = privacy
        self._feedback = feedback
        self._recorder = recorder
        self._receipts = receipts
        self._idempotency = idempotency
        self._order = order
        self._take_votes = take_votes
        self._most_bytes = most_bytes
        self._at_work: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def routes(self) -> list[Route]:
        return [at("/v1/webhooks/{sender}", self.take, "POST")]

    async def take(self, request: Request) -> Response:
        """POST: one webhook, answered when what it says is durable.

        Raises NotFound for an unknown sender, Unauthorized for a signature that is not good, BadRequest,
        Unavailable.
        """
        since = self._privacy.instant()
        hook = self._find(request.path_params["sender"])
        raw = await read_json(request, self._most_bytes)
        now = time.time()
        event_id = check_signed(request.headers, raw, hook.secrets, now)
        happened = parse(raw, now)
        if happened is None:
            return json_response(_said("ignored", reason="Its type is about no vote."))
        sender = Sender(self._addresses.of(request), hook.caller, since=since)
        work = partial(self._work, happened, hook, sender)
        reply = await self._idempotency.once(f"webhook/{hook.name}", event_id, raw, work)
        return json_response(reply.body, reply.status)

    def _find(self, name: str) -> WebhookSender:
        hook = self._senders.get(name)
        if hook is None:
            raise NotFound(
                f"There is no sender of webhooks {name[:100]!r}; they stand in the file of "
                "gateway.webhook_senders.",
                param="sender",
                code="webhook_sender_not_found",
            )
        return hook

    async def _work(self, happened: Happened, hook: WebhookSender, sender: Sender) -> Reply:
        vote = {**happened.vote, "source": happened.vote.get("source") or hook.source}
        if happened.is_removal:
            vote.pop("occurred_at", None)  # it may be long ago
        elif vote.get("occurred_at") is None:
            vote["occurred_at"] = happened.at
        try:
            vote_id = self._feedback.id_of(vote, sender)
            async with self._at_work.setdefault(vote_id, asyncio.Lock()):
                return await self._in_order(happened, vote_id, vote, sender)
        except BadRequest as error:
            error.param = f"data.{error.param}" if error.param else "data"
            raise

    async def _in_order(self, happened: Happened, vote_id: str, vote: Json, sender: Sender) -> Reply:
        """Alone with this vote: two words about it must not pass each other on the way to the log."""
        if not await self._order.is_newest(vote_id, happened.at):
            return Reply(200, _said("outdated", vote_id, "Something newer is known of this vote."))
        if happened.is_removal:
            return await self._take_back(vote_id, sender)
        await self._feedback.post(Posted(orjson.dumps(vote), "application/json", None, sender))
        return Reply(200, _said("accepted", vote_id))

    async def _take_back(self, vote_id: str, sender: Sender) -> Reply:
        await self._take_votes(sender, 1)
        try:
            found = await self._receipts.find(vote_id)
        except LogUnavailable as error:
            raise Unavailable("The log cannot be read at the moment.", code="log_unavailable") from error
        if found is None:
            return Reply(200, _said("unknown", vote_id, "There is no such vote, so nothing is taken back."))
        await take_back(found, self._recorder, self._receipts)
        return Reply(200, _said("retracted", vote_id))


def _said(status: str, vote_id: str | None = None, reason: str | None = None) -> Json:
    told = {"object": "feedback.webhook", "status": status, "id": vote_id, "reason": reason}
    return {name: value for name, value in told.items() if value is not None}
