"""Two answers to one question, shown blind, for the voter to choose from.

POST /v1/comparisons gives them as `a` and `b`. A chat with `n: 2` and `hearken: {"compare": true}` gives them
as its two choices, which any OpenAI client can show, with the ids to vote on in the answer's `hearken`. With
`"compare_sparingly"` in its place few chats do (`serve.completions.sparing`), and the others get one choice.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import TypeVar

import msgspec

from feedback.core.ids import Signer
from serve.auth.caller import Caller
from serve.auth.feedback_tokens import EXTENSION
from serve.completions.chat import Chat
from serve.completions.side_by_side import side_by_side
from serve.completions.sparing import HintReader, Sparing
from serve.generation.generation import Generation, Json, Route
from serve.generation.requests import ChatRequest
from serve.http.errors import BadRequest
from serve.metrics import Metrics

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two whole answers, as clients see them, on sides drawn at random."""

    comparison_id: str
    a: Json
    b: Json

    def as_sides(self) -> Json:
        """The answer to POST /v1/comparisons."""
        return {
            "id": self.comparison_id,
            "object": "comparison",
            "created": self.a["created"],
            "model": self.a["model"],
            "a": self.a,
            "b": self.b,
        }

    def as_choices(self) -> Json:
        """The answer to a chat: a completion whose choices are the sides. Its id is that of side a."""
        choices = [answer["choices"][0] | {"index": i} for i, answer in enumerate((self.a, self.b))]
        ids = {"comparison_id": self.comparison_id, "a": self.a["id"], "b": self.b["id"]}
        return self.a | {
            "choices": choices,
            "usage": _sum(self.a["usage"], self.b["usage"]),
            "hearken": {"comparison": ids},
        }


class Comparisons:
    """Asks the user's arm and the live policy at the same time and hides which is which."""

    def __init__(
        self, chat: Chat, signer: Signer, sparing: Sparing, hints: HintReader, metrics: Metrics
    ) -> None:
        self._chat = chat
        self._signer = signer
        self._sparing = sparing
        self._hints = hints
        self._shown = metrics.sparing

    async def compare(self, asked: ChatRequest, user: str, caller: Caller, since: int) -> Comparison:
        """Both answers, sides drawn at random; each is logged as a completion. Raises ApiError."""
        answer = await self._chat.route(asked, user, caller, since)
        return self._blind(await self._compared(asked, answer))

    async def spare(self, asked: ChatRequest, user: str, caller: Caller, since: int) -> Comparison | Json:
        """Both answers where a vote is to be asked for, as `compare` does, else the user's own alone."""
        self._hints.want()
        route = await self._chat.route(asked, user, caller, since)
        plan = self._sparing.plan(route.arm)
        if plan == "alone":
            answer = await self._chat.whole(asked, route)
            self._shown.labels("one").inc()
            return answer
        answers = await self._compared(asked, replace(route, selected=plan == "by gain"))
        if plan == "by gain" and not self._sparing.shows(*(_said(made) for _, made in answers)):
            self._shown.labels("one").inc()
            return answers[0][0]
        self._shown.labels(plan).inc()
        return self._blind(answers)

    async def sides(self, asked: ChatRequest, user: str, caller: Caller, since: int) -> dict[str, Route]:
        """Where both answers will come from, as sides drawn at random. Raises ApiError."""
        routes = self._routes(asked, await self._chat.route(asked, user, caller, since))
        return dict(zip(("a", "b"), _on_sides(routes), strict=True))

    def stream(self, asked: ChatRequest, sides: dict[str, Route], token: Json) -> AsyncGenerator[bytes, None]:
        """Both answers while they are written (`serve.completions.side_by_side`). token: to vote with."""
        head = {"id": sides["a"].comparison_id, "model": asked.body["model"], EXTENSION: token}
        return side_by_side(self._chat, asked, sides, head)

    async def _compared(self, asked: ChatRequest, answer: Route) -> list[tuple[Json, Generation]]:
        """The answer of a user's arm and that of live. Raises ApiError."""
        return await self._both(asked, self._routes(asked, answer))

    def _routes(self, asked: ChatRequest, answer: Route) -> list[Route]:
        """The route of a user's arm and that of live, of one comparison."""
        comparison_id = "cmp-" + secrets.token_hex(16)
        routes = [answer, self._chat.reference_of(answer)]
        seed = asked.sampling.seed
        seeds = [None if seed is None else self._seed_of_role(seed, route) for route in routes]
        return [
            replace(route, comparison_id=comparison_id, seed=seed)
            for route, seed in zip(routes, seeds, strict=True)
        ]

    def _blind(self, answers: list[tuple[Json, Generation]]) -> Comparison:
        """The answers of a comparison, on sides drawn at random."""
        comparison_id = answers[0][1].route.comparison_id
        assert comparison_id is not None
        return Comparison(comparison_id, *_on_sides([shown for shown, _ in answers]))

    def _seed_of_role(self, seed: int, route: Route) -> int:
        """Each side its own seed, or equal policies would give equal answers; repeatable from the client's.

        Without the secret nobody can ask for a side's answer again by a chat, and so tell whose it is.
        """
        said = f"{route.caller.tenant}\0{seed}/{route.role}"
        return int(self._signer.sign("comparison seed", said)[:8], 16) >> 1

    async def _both(self, asked: ChatRequest, routes: list[Route]) -> list[tuple[Json, Generation]]:
        """All answers, or the first error; an error cancels the other request."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._chat.generated(asked, route)) for route in routes]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]


def _said(generation: Generation) -> list[int]:
    """The token ids of an answer, without its thought."""
    [choice] = generation.transcript.choices()
    return choice.token_ids[choice.answer_start :]


def _on_sides(both: list[T]) -> list[T]:
    """Both, on sides drawn at random."""
    return both[::-1] if secrets.randbits(1) else both


def comparable(asked: ChatRequest) -> ChatRequest:
    """The request for one side of POST /v1/comparisons. Raises BadRequest for what a comparison cannot do."""
    _check_kept(asked)
    if asked.is_sparing:
        raise BadRequest(
            "This route always gives two answers; a chat with n: 2 can have them sparingly.",
            param="hearken.compare_sparingly",
        )
    if asked.n != 1:
        raise BadRequest("A comparison has one answer on each side: leave n at 1.", param="n")
    return asked


def one_of_two(asked: ChatRequest) -> ChatRequest:
    """The request for one side of a chat that wants a comparison. Raises BadRequest likewise."""
    if asked.stream:
        raise BadRequest(
            "Two answers as choices cannot be streamed; POST /v1/comparisons streams both.",
            param="stream",
            code="unsupported_value",
        )
    _check_kept(asked)
    if asked.n != 2:
        raise BadRequest("A comparison has two answers: it needs n: 2.", param="n")
    return msgspec.structs.replace(asked, n=1, body=asked.body | {"n": 1})


def _check_kept(asked: ChatRequest) -> None:
    if asked.wants_storing:
        raise BadRequest("A comparison cannot be stored.", param="store", code="unsupported_value")


def _sum(one: Json, other: Json) -> Json:
    """The usage of both: the prompt was read twice."""
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    summed = {name: one[name] + other[name] for name in names}
    details = [usage["prompt_tokens_details"] for usage in (one, other) if "prompt_tokens_details" in usage]
    if details:
        summed["prompt_tokens_details"] = {"cached_tokens": sum(each["cached_tokens"] for each in details)}
    return summed
