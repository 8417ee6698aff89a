"""Anthropic's Messages API."""

from collections.abc import Callable

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from feedback.core.ids import MESSAGE_PREFIX
from serve.apis.messages_door import MessageDoor
from serve.apis.messages_request import parse_count, parse_message, to_chat
from serve.completions.answering import Answering
from serve.completions.tokenizing import question_of
from serve.generation.doors import Json
from serve.generation.requests import ChatRequest
from serve.http.bodies import json_response
from serve.http.routes import at


class MessagesRoutes:
    """POST of messages, and of messages whose tokens are counted. `check`: of the chat that they become."""

    def __init__(self, answering: Answering, check: Callable[[Json], ChatRequest], model_name: str) -> None:
        self._answering = answering
        self._check = check
        self._model_name = model_name

    @property
    def routes(self) -> list[Route]:
        return [
            at("/v1/messages", self.message, "POST"),
            at("/v1/messages/count_tokens", self.count_tokens, "POST"),
        ]

    async def message(self, request: Request) -> Response:
        """POST /v1/messages."""
        incoming = await self._answering.begin(request)
        body = parse_message(incoming.raw, self._model_name)
        asked = replace(self._check(to_chat(body)), id_prefix=MESSAGE_PREFIX)
        return await self._answering.answer(incoming, asked, MessageDoor)

    async def count_tokens(self, request: Request) -> Response:
        """POST /v1/messages/count_tokens."""
        incoming = await self._answering.begin(request)
        asked = self._check(to_chat(parse_count(incoming.raw, self._model_name)))
        told = await self._answering.tokenized(incoming, question_of(asked), asked)
        return json_response({"input_tokens": told["count"]})
