"""OpenAI's Responses API."""

from collections.abc import Callable
from functools import partial

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from feedback.core.ids import RESPONSE_PREFIX
from serve.apis.responses_door import ResponseDoor
from serve.apis.responses_request import echo_of, parse_response, to_chat
from serve.apis.responses_stored import StoredResponses, check_length, kept_with
from serve.auth.entrance import Entrance
from serve.completions.answering import Answering, Incoming
from serve.generation.doors import Json
from serve.generation.generation import consents
from serve.generation.requests import ChatRequest, user_of
from serve.http.bodies import json_response
from serve.http.routes import READ, at


class ResponsesRoutes:
    """POST of requests, GET and DELETE of stored responses. `check`: of the chat that a request becomes."""

    def __init__(
        self,
        answering: Answering,
        entrance: Entrance,
        stored: StoredResponses,
        check: Callable[[Json], ChatRequest],
        model_name: str,
        max_body_bytes: int,
    ) -> None:
        self._answering = answering
        self._entrance = entrance
        self._stored = stored
        self._check = check
        self._model_name = model_name
        self._max_body_bytes = max_body_bytes

    @property
    def routes(self) -> list[Route]:
        one = "/v1/responses/{response_id}"
        return [
            at("/v1/responses", self.respond, "POST"),
            at(one, self.read, *READ),
            at(one, self.delete, "DELETE"),
        ]

    async def respond(self, request: Request) -> Response:
        """POST /v1/responses."""
        incoming = await self._answering.begin(request)
        body = parse_response(incoming.raw, self._model_name)
        asked = self._check(to_chat(body, await self._history(incoming, body)))
        echo = echo_of(body, asked.wants_storing and consents(asked, incoming.caller))
        kept = kept_with(echo, user_of(body) is not None)
        asked = replace(asked, id_prefix=RESPONSE_PREFIX, kept_with=kept)
        return await self._answering.answer(incoming, asked, partial(ResponseDoor, echo))

    async def _history(self, incoming: Incoming, body: Json) -> list[Json]:
        """The conversation that a request goes on with. Raises NotFound, BodyTooLarge, Unavailable."""
        previous, name = body.get("previous_response_id"), user_of(body)
        if previous is None:
            return []
        user = self._entrance.pseudonym(incoming.request, incoming.caller, name)
        history = await self._stored.history(previous, incoming.caller, user, name is not None)
        check_length(history, len(incoming.raw), self._max_body_bytes)
        return history

    async def read(self, request: Request) -> Response:
        """GET /v1/responses/{response_id}."""
        caller = await self._entrance.enter(request, "chat")
        return json_response(await self._stored.read(caller.tenant, request.path_params["response_id"]))

    async def delete(self, request: Request) -> Response:
        """DELETE /v1/responses/{response_id}."""
        caller = await self._entrance.enter(request, "chat")
        return json_response(await self._stored.delete(caller.tenant, request.path_params["response_id"]))
