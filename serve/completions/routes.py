"""OpenAI's chats and completions, comparisons, and vLLM's /tokenize."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve.auth.feedback_tokens import EXTENSION
from serve.completions.answering import Answering, Incoming
from serve.completions.comparisons import Comparison, Comparisons, comparable, one_of_two
from serve.completions.side_by_side import SideDoor
from serve.completions.text import check_text
from serve.completions.tokenizing import PATH as TOKENIZE_PATH
from serve.completions.tokenizing import parse_tokenize
from serve.generation.doors import Json
from serve.generation.requests import ChatRequest
from serve.generation.streaming import while_present
from serve.http.bodies import json_response, parse_object
from serve.http.routes import at

CheckChat = Callable[[Json], ChatRequest]


class ChatRoutes:
    """POST of chats, texts, comparisons and prompts to tokenize. `check`: of a chat's body."""

    def __init__(
        self, answering: Answering, comparisons: Comparisons, check: CheckChat, model_name: str
    ) -> None:
        self._answering = answering
        self._comparisons = comparisons
        self._check = check
        self._model_name = model_name

    @property
    def routes(self) -> list[Route]:
        return [
            at("/v1/chat/completions", self.chat, "POST"),
            at("/v1/completions", self.text, "POST"),
            at("/v1/comparisons", self.comparison, "POST"),
            at(TOKENIZE_PATH, self.tokenize, "POST"),
        ]

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions, OpenAI's."""
        incoming = await self._answering.begin(request)
        asked = self._check(parse_object(incoming.raw))
        if not asked.wants_comparison:
            return await self._answering.answer(incoming, asked)
        compared, token = await self._compare(incoming, one_of_two(asked))
        answer = compared.as_choices() if isinstance(compared, Comparison) else compared
        return json_response(answer | {EXTENSION: answer.get(EXTENSION, {}) | token})

    async def text(self, request: Request) -> Response:
        """POST /v1/completions, OpenAI's older one."""
        incoming = await self._answering.begin(request)
        asked = check_text(parse_object(incoming.raw), self._model_name)
        return await self._answering.answer(incoming, asked)

    async def comparison(self, request: Request) -> Response:
        """POST /v1/comparisons: two answers to choose from, whole or streamed side by side."""
        incoming = await self._answering.begin(request)
        asked = comparable(self._check(parse_object(incoming.raw)))
        if asked.stream:
            return await self._side_by_side(incoming, asked)
        compared, token = await self._compare(incoming, asked)
        assert isinstance(compared, Comparison)  # `comparable` refuses what is sparing
        return json_response(compared.as_sides() | {EXTENSION: token})

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize, vLLM's."""
        incoming = await self._answering.begin(request)
        asked, question = parse_tokenize(incoming.raw, self._model_name)
        return json_response(await self._answering.tokenized(incoming, question, asked))

    async def _side_by_side(self, incoming: Incoming, asked: ChatRequest) -> Response:
        user, asked = await self._answering.for_user(incoming, asked)
        sides = await self._comparisons.sides(asked, user, incoming.caller, incoming.since)
        token = self._answering.token(incoming, user, *(route.completion_id for route in sides.values()))
        return self._answering.streamed(self._comparisons.stream(asked, sides, token), SideDoor("a"))

    async def _compare(
        self, incoming: Incoming, asked: ChatRequest
    ) -> tuple[Comparison | Json, dict[str, object]]:
        """Two answers, or one where they are wanted sparingly; and a token to vote with."""
        user, asked = await self._answering.for_user(incoming, asked)
        compare = self._comparisons.spare if asked.is_sparing else self._comparisons.compare
        async with while_present(incoming.request.receive):
            compared = await compare(asked, user, incoming.caller, incoming.since)
        sides = (compared.a, compared.b) if isinstance(compared, Comparison) else (compared,)
        return compared, self._answering.token(incoming, user, *(side["id"] for side in sides))
