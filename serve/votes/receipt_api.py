"""GET and DELETE /v1/feedback/{id}, and the votes behind a policy version."""

import time

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from feedback.core.events import FEEDBACK
from feedback.core.ids import Signer
from feedback.core.log import Entry, LogUnavailable
from serve.auth.access import Access
from serve.auth.caller import Caller
from serve.http.bodies import json_response
from serve.http.errors import ApiError, BadRequest, Forbidden, NotFound, Unavailable
from serve.http.routes import at
from serve.receipts.folding import Row
from serve.receipts.reader import Receipts
from serve.storage.recording import Recorder
from serve.votes.voters import Sender, Senders

MAX_PAGE = 1000


class ReceiptApi:
    """Says what became of votes, and takes them back."""

    def __init__(
        self, receipts: Receipts, recorder: Recorder, signer: Signer, senders: Senders, access: Access
    ) -> None:
        self._signer = signer
        self._receipts = receipts
        self._recorder = recorder
        self._senders = senders
        self._access = access

    @property
    def routes(self) -> list[Route]:
        one = "/v1/feedback/{feedback_id}"
        return [
            at(one, self.read, "GET"),
            at(one, self.retract, "DELETE"),
            at("/v1/policies/{version}/feedback", self.shaped, "GET"),
        ]

    async def read(self, request: Request) -> Response:
        """GET /v1/feedback/{id}: what became of a vote. Raises NotFound when the sender has no such vote."""
        sender = await self._sender(request)
        vote = await self._vote(request.path_params["feedback_id"], sender)
        operator = sender.grant is None and sender.caller.is_operator
        return json_response(await self._receipts.receipt(vote, operator=operator))

    async def retract(self, request: Request) -> Response:
        """DELETE /v1/feedback/{id}: take a vote back, durably; once more does nothing.

        Raises as `read`, Unavailable as a vote, and Forbidden for a vote that came by another key: unless the
        sender names its `user`, in whose name it could vote as well, or is an operator.
        """
        sender = await self._sender(request)
        await self._senders.take_votes(sender, 1)
        event_id, user = request.path_params["feedback_id"], request.query_params.get("user")
        vote = await self._vote(event_id, sender)
        if sender.grant is None and not self._may_retract(vote, sender.caller, user):
            raise Forbidden(
                "This vote came by another API key. Take it back with that key or with its feedback token, "
                "name the user who voted (?user=..), or use a key with the scope operate.",
                param="user",
                code="feedback_of_another_key",
            )
        await take_back(vote, self._recorder, self._receipts)
        told = {"id": event_id, "object": "feedback", "status": "retracted", "deleted": True}
        return json_response(told)

    async def shaped(self, request: Request) -> Response:
        """GET /v1/policies/{version}/feedback: a page of the votes that shaped a version, in the order of
        their ids."""
        tenant = self._access.caller(request, "operate").tenant
        version, query = request.path_params["version"], request.query_params
        limit, after = query.get("limit"), query.get("after")
        size = 100 if limit is None else int(limit) if limit.isdecimal() and limit.isascii() else 0
        if not 1 <= size <= MAX_PAGE:
            raise BadRequest(f"limit must be an integer from 1 to {MAX_PAGE}.", param="limit")
        try:
            page = await self._receipts.shaped(version, tenant, after or "", size)
        except LogUnavailable as error:
            raise _unavailable("The log cannot be read at the moment.") from error
        if page is None:
            raise NotFound(
                f"No policy version {version[:100]!r} was offered.", param="version", code="version_not_found"
            )
        return json_response(page)

    async def _sender(self, request: Request) -> Sender:
        return await self._senders.known(request) or await self._senders.granted(request, None)

    def _may_retract(self, vote: Row, caller: Caller, user: str | None) -> bool:
        if not caller.key_id or caller.is_operator or vote["key_id"] == caller.key_id:
            return True
        return user is not None and bool(self._signer.pseudonym(caller.tenant, user) == vote["rater"])

    async def _vote(self, event_id: str, sender: Sender) -> Row:
        """The sender's own vote."""
        try:
            vote = await self._receipts.find(event_id)
        except LogUnavailable as error:
            raise _unavailable("The log cannot be read at the moment.") from error
        if vote is None or not _may_see(vote, sender):
            raise NotFound(f"There is no feedback {event_id[:100]!r}.", param="id", code="feedback_not_found")
        return vote


def _may_see(vote: Row, sender: Sender) -> bool:
    """With a key: the tenant's votes. With a token: the rater's own, on the answers that it is for."""
    if sender.grant is not None:
        named = {target.completion_id for target in vote["targets"]}
        mine = (vote["tenant"], vote["rater"]) == (sender.grant.tenant, sender.grant.rater)
        return mine and named <= sender.grant.completion_ids
    return bool(vote["tenant"] == sender.caller.tenant)


def _unavailable(message: str) -> ApiError:
    return Unavailable(message, code="log_unavailable")


async def take_back(vote: Row, recorder: Recorder, receipts: Receipts) -> None:
    """Take a vote back, durably; once more does nothing. Raises Unavailable."""
    if vote["retracted"]:
        return
    value, key = retraction(vote, recorder.stamp(), time.time())
    entry = Entry(FEEDBACK, key, value)
    try:
        await recorder.retraction(entry)
    except LogUnavailable as error:
        raise _unavailable("Feedback cannot be stored at the moment.") from error
    receipts.took([entry])


def retraction(vote: Row, revision: int, at: float) -> tuple[bytes, str]:
    """The event that takes a vote back, and the key under which the vote lies in the log."""
    event = {
        "schema_version": 1,
        "event_id": vote["id"],
        "at": at,
        "tenant": vote["tenant"],
        "revision": max(revision, vote["revision"] + 1),
        "rater": vote["rater"],
        "key_id": vote["key_id"],
        "kind": "retraction",
        "retracts": vote["kind"],
        "targets": [target.model_dump(exclude_none=True) for target in vote["targets"]],
        "value": 0.5,
        "label": "retracted",
        "source": vote["source"],
        "metadata": {},
    }
    return orjson.dumps(event), vote["rater"]
