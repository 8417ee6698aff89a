"""What all routes that answer with generated text share: the way in, the answer, its feedback token."""

import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from serve.auth.caller import Caller
from serve.auth.entrance import Entrance
from serve.auth.feedback_tokens import HEADER, Tokens
from serve.completions.chat import Chat
from serve.generation.doors import ChatDoor, Door, Json
from serve.generation.held import Holding
from serve.generation.requests import ChatRequest
from serve.generation.streaming import EventStream, while_present
from serve.http.bodies import json_response, read_json
from serve.http.errors import BadRequest
from serve.preferences.api import Preferences
from serve.server.observing import visit_of
from serve.storage.privacy import Privacy

_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request that was let in. since: the instant at which it began, as erasures count time."""

    request: Request
    caller: Caller
    since: int
    raw: bytes  # its body


class Answering:
    """Lets requests in and answers them, each in the shape of its door.

    holding: puts requests under their user's preferences.
    """

    def __init__(
        self,
        entrance: Entrance,
        privacy: Privacy,
        preferences: Preferences,
        chat: Chat,
        tokens: Tokens,
        max_body_bytes: int,
        keep_alive_seconds: float,
        holding: Holding,
    ) -> None:
        self._entrance = entrance
        self._privacy = privacy
        self._preferences = preferences
        self._chat = chat
        self._tokens = tokens
        self._max_body_bytes = max_body_bytes
        self._keep_alive_seconds = keep_alive_seconds
        self._holding = holding

    async def begin(self, request: Request) -> Incoming:
        """Let a request in and read its body. Raises ApiError."""
        since = self._privacy.instant()
        caller = await self._entrance.enter(request, "chat")
        return Incoming(request, caller, since, await read_json(request, self._max_body_bytes))

    async def answer(
        self, incoming: Incoming, asked: ChatRequest, make_door: Callable[[str, Json], Door] = ChatDoor
    ) -> Response:
        """The answer, streamed or whole. `make_door`: of the completion's id and its feedback token."""
        user, asked = await self.for_user(incoming, asked)
        route = await self._chat.route(asked, user, incoming.caller, incoming.since)
        if incoming.caller.is_operator:  # for nobody else, so that voters stay blind
            headers = visit_of(incoming.request.scope).headers
            headers["x-hearken-arm"], headers["x-hearken-policy-version"] = route.arm, route.version
        door = make_door(route.completion_id, self.token(incoming, route.user, route.completion_id))
        if asked.stream:
            return self.streamed(self._chat.stream(asked, route, door), door)
        async with while_present(incoming.request.receive):
            return json_response(door.whole(await self._chat.whole(asked, route)))

    def streamed(self, events: AsyncGenerator[bytes, None], door: Door) -> Response:
        """A stream of events; `door` says what is sent where nothing comes, and where it breaks off."""
        return EventStream(events, _STREAM_HEADERS, door, self._keep_alive_seconds)

    async def tokenized(self, incoming: Incoming, question: Json, asked: ChatRequest) -> Json:
        """What an engine says of the tokens of a prompt (`Chat.tokenized`)."""
        user = await self._entrance.user(incoming.request, incoming.caller, asked.user)
        route = await self._chat.route(asked, user, incoming.caller, incoming.since)
        async with while_present(incoming.request.receive):
            return await self._chat.tokenized(question, asked, route)

    async def for_user(self, incoming: Incoming, asked: ChatRequest) -> tuple[str, ChatRequest]:
        """The pseudonym of the user to be answered, and the request under what that user asked for; one that
        names no user is as it was. Raises BadRequest for what they may not see, 429."""
        _check_blind(asked, incoming.caller)
        user = await self._entrance.user(incoming.request, incoming.caller, asked.user)
        if not (asked.user and asked.wants_preferences):
            return user, asked
        entries = await self._preferences.of(incoming.caller.tenant, user)
        if entries:
            asked = await self._holding.under(asked, entries, incoming.caller.tenant)
        return user, asked

    def token(self, incoming: Incoming, user: str, *ids: str) -> dict[str, object]:
        """The token to vote on answers with: in a header of the answer, and for its body."""
        token, expires_at = self._tokens.issue(incoming.caller, user, list(ids), time.time(), incoming.since)
        visit_of(incoming.request.scope).headers[HEADER] = token
        return {"feedback_token": token, "feedback_token_expires_at": expires_at}


def _check_blind(asked: ChatRequest, caller: Caller) -> None:
    """Raises BadRequest for a request for logprobs of a caller who may vote.

    Exact ones differ by policy for the same text, and so name the arm. Rounded ones would too, only after
    more tokens: two policies that differ by .05 nats a token fall on two sides of a rounding to 1 nat in one
    token of twenty. Counts of cached tokens are kept back for a like reason, see
    serve/generation/generation.py. What the texts themselves give away stays, and how long they take.
    """
    if caller.is_blind and asked.wants_logprobs:
        raise BadRequest(
            "logprobs are not for those who may vote, because they tell policies apart: leave them out, use "
            "a key without the scope feedback, or let the operator set gateway.blind_voters = false.",
            param="logprobs",
            code="unsupported_parameter",
        )
