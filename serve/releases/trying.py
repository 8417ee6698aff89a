"""POST /v1/releases/answers: one prompt, answered by the base, by live and by the version on trial.

For an operator's eyes. Nothing of it is logged, counted or learned from, and it waits its turn behind users.
"""

import asyncio
from collections.abc import Mapping

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deploy.history.table import RoutingTable
from feedback.core.events import BASE
from serve.engines.attempts import Want
from serve.engines.pool import Fleet
from serve.engines.upstream import PolicyMissing, Refused, Upstream, UpstreamError
from serve.generation.generation import Json
from serve.generation.streaming import while_present
from serve.http.bodies import json_response, parse_object, read_json
from serve.http.errors import ApiError, said_by_engine
from serve.http.routes import at
from serve.releases.openapi import PROMPT
from serve.releases.operators import Operators
from serve.routing.following import TableFollower
from serve.routing.leases import Leases
from serve.schemas.validator import check

MAX_TOKENS = 400
SEED = 1
"""The same for all: what differs is the version, and not chance."""


class Trying:
    """Asks versions for answers that are not logged."""

    def __init__(
        self,
        operators: Operators,
        follower: TableFollower,
        fleet: Fleet,
        upstream: Upstream,
        leases: Leases,
        max_body_bytes: int,
    ) -> None:
        self._operators = operators
        self._follower, self._fleet, self._upstream, self._leases = follower, fleet, upstream, leases
        self._max_body_bytes = max_body_bytes

    @property
    def routes(self) -> list[Route]:
        return [at("/v1/releases/answers", self.answer, "POST")]

    async def answer(self, request: Request) -> Response:
        """POST /v1/releases/answers. Raises BadRequest; why a version gave no answer stands in its place."""
        caller, _ = await self._operators.enter(request)
        body = parse_object(await read_json(request, self._max_body_bytes))
        check(body, PROMPT)
        named = versions(self._follower.table)
        wanted = dict.fromkeys(named.values())
        async with while_present(request.receive):
            told = await asyncio.gather(*(self._told(each, body["prompt"], caller.key_id) for each in wanted))
        by_version = dict(zip(wanted, told, strict=True))
        answers = [{"name": name, "version": each, **by_version[each]} for name, each in named.items()]
        return json_response({"object": "release.answers", "answers": answers})

    async def _told(self, version: str, prompt: str, key_id: str) -> Json:
        """`text`, and whether it ended by itself; or why there is none."""
        body = {
            "model": version,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": MAX_TOKENS,
            "seed": SEED,
        }
        try:
            with self._leases.using(version):
                async with self._fleet.slot(Want(version, key_id, b"")) as engine, engine.unanswered():
                    answer = await self._upstream.complete(engine.url, orjson.dumps(body))
            [choice] = answer["choices"]
            return {
                "text": choice["message"]["content"] or "",
                "ended": choice["finish_reason"] != "length",
                "error": None,
            }
        except (UpstreamError, ApiError) as error:
            known = self._fleet.has(version) and not isinstance(error, PolicyMissing)
            why = _why(error) if known else "No engine has this version at the moment."
            return {"text": None, "ended": False, "error": why}


def versions(table: RoutingTable) -> Mapping[str, str]:
    """Who is asked, by what they are: the base, live where that is another, and the version on trial."""
    named = {"base": BASE}
    if table.live != BASE:
        named["live"] = table.live
    if table.canary is not None and table.canary not in named.values():
        named["canary"] = table.canary
    return named


def _why(error: UpstreamError | ApiError) -> str:
    if isinstance(error, Refused):
        return said_by_engine(error.body)[0]
    return error.message if isinstance(error, ApiError) else "The engine gave no answer."
