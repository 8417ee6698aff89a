"""POST /v1/comparisons: two answers to one question, shown blind, for the voter to choose from."""

import asyncio
import hashlib
import secrets
from dataclasses import replace

from serve.chat import Chat
from serve.errors import BadRequest
from serve.generation import Json, Route
from serve.requests import ChatRequest


class Comparisons:
    """Asks the user's arm and the live policy at the same time and hides which is which."""

    def __init__(self, chat: Chat, model_name: str) -> None:
        self._chat = chat
        self._model_name = model_name

    async def compare(self, asked: ChatRequest, user: str) -> Json:
        """Both answers, sides drawn at random; each is logged as a completion. Raises ApiError."""
        check_comparable(asked)
        comparison_id = "cmp-" + secrets.token_hex(16)
        routes = [self._chat.route(user), self._chat.reference_route(user)]
        seed = asked.sampling.seed
        sides = await self._both(
            asked,
            [replace(r, comparison_id=comparison_id, seed=_seed_of_role(seed, r)) for r in routes],
        )
        if secrets.randbits(1):
            sides.reverse()
        return {
            "id": comparison_id,
            "object": "comparison",
            "created": sides[0]["created"],
            "model": self._model_name,
            "a": sides[0],
            "b": sides[1],
        }

    async def _both(self, asked: ChatRequest, routes: list[Route]) -> list[Json]:
        """All answers, or the first error; an error cancels the other request."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._chat.whole(asked, route)) for route in routes]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]


def check_comparable(asked: ChatRequest) -> None:
    """Raises BadRequest for what a comparison cannot do."""
    if asked.stream:
        raise BadRequest("A comparison cannot be streamed.", param="stream", code="unsupported_value")
    if asked.n != 1:
        raise BadRequest("A comparison has one answer on each side: leave n at 1.", param="n")


def _seed_of_role(seed: int | None, route: Route) -> int | None:
    """Each side its own seed, or equal policies would give equal answers; repeatable from the client's."""
    if seed is None:
        return None
    digest = hashlib.sha256(f"{seed}/{route.role}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
