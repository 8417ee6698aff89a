"""POST of votes, in this service's own shape and in TensorZero's."""

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve.auth.entrance import Entrance
from serve.auth.feedback_tokens import found
from serve.http.bodies import json_response, media_type, parse_object, read_body, read_json
from serve.http.idempotency import KEY_HEADER
from serve.http.routes import at
from serve.server.addresses import Addresses
from serve.storage.privacy import Privacy
from serve.votes.api import FeedbackApi, Posted
from serve.votes.common import PRAISE
from serve.votes.tensorzero import translate
from serve.votes.voters import Sender, Senders

REASONS_PATH = "/v1/feedback-reasons"
_FOR_EVERY_PAGE = {
    "access-control-allow-origin": "*",
    "cross-origin-resource-policy": "cross-origin",
    "cache-control": "public, max-age=300",
}


class FeedbackRoutes:
    """Takes votes. max_body_bytes: of who has a key; token_vote_bytes: of who has none."""

    def __init__(
        self,
        senders: Senders,
        entrance: Entrance,
        addresses: Addresses,
        privacy: Privacy,
        feedback: FeedbackApi,
        max_body_bytes: int,
        token_vote_bytes: int,
    ) -> None:
        self._senders = senders
        self._entrance = entrance
        self._addresses = addresses
        self._privacy = privacy
        self._feedback = feedback
        self._max_body_bytes = max_body_bytes
        self._token_vote_bytes = token_vote_bytes

    @property
    def routes(self) -> list[Route]:
        return [
            at("/v1/feedback", self.post, "POST"),
            at(REASONS_PATH, self.reasons, "GET"),
            at("/feedback", self.post_tensorzero, "POST"),
        ]

    async def reasons(self, _: Request) -> Response:
        """GET /v1/feedback-reasons: what a page may offer after a thumb. No secret, and needs no key."""
        known = self._feedback.reasons
        told = {
            "object": "feedback.reasons",
            "down": [reason for reason in known if reason not in PRAISE],
            "up": [reason for reason in known if reason in PRAISE],
        }
        return json_response(told, headers=_FOR_EVERY_PAGE)

    async def post(self, request: Request) -> Response:
        """POST /v1/feedback: a vote (202) or a batch of them (207), answered when it is durable."""
        since = self._privacy.instant()
        sender = await self._senders.known(request, since)
        by_key = sender is not None and sender.grant is None
        raw = await read_body(request, self._max_body_bytes if by_key else self._token_vote_bytes)
        if sender is None:
            sender = await self._senders.granted(request, found(raw), since)
        posted = Posted(raw, media_type(request.headers), request.headers.get(KEY_HEADER), sender)
        reply = await self._feedback.post(posted)
        return json_response(reply.body, reply.status)

    async def post_tensorzero(self, request: Request) -> Response:
        """POST /feedback, in the shape of TensorZero's API."""
        since = self._privacy.instant()
        caller = await self._entrance.enter(request, "feedback")
        vote = orjson.dumps(translate(parse_object(await read_json(request, self._max_body_bytes))))
        sender = Sender(self._addresses.of(request), caller, since=since)
        posted = Posted(vote, "application/json", request.headers.get(KEY_HEADER), sender)
        reply = await self._feedback.post(posted)
        return json_response({"feedback_id": reply.body["id"]})
