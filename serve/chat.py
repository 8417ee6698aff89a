"""Chats: pick the user's arm, let vLLM answer, log exactly what was sampled."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson

from deploy.table import assign
from feedback.ids import Signer
from serve.engines import Engine, Fleet
from serve.errors import ApiError, engine_unavailable, from_upstream
from serve.following import TableFollower
from serve.generation import TENANT, Generation, Json, Route
from serve.metrics import Metrics
from serve.recording import Recorder
from serve.requests import ChatRequest
from serve.upstream import Refused, Upstream, UpstreamError


class Chat:
    """Answers chats, streamed or whole."""

    def __init__(
        self,
        model_name: str,
        signer: Signer,
        follower: TableFollower,
        fleet: Fleet,
        upstream: Upstream,
        recorder: Recorder,
        metrics: Metrics,
    ) -> None:
        self._model_name = model_name
        self._signer = signer
        self._follower = follower
        self._fleet = fleet
        self._upstream = upstream
        self._recorder = recorder
        self._metrics = metrics

    def pseudonym(self, user: str | None, address: str) -> str:
        """The name under which a user is logged; users without a name are told apart by their address."""
        return self._signer.pseudonym(TENANT, user or f"anonymous-{address}")

    def route(self, user: str) -> Route:
        """The route of a user (a pseudonym) under the table in force."""
        table = self._follower.table
        arm = assign(user, table)
        return Route(self._signer.new_completion_id(), user, arm, table.version(arm), table.epoch)

    def reference_route(self, user: str) -> Route:
        """The route to the live policy, whatever the user's arm: the other side of a comparison."""
        table = self._follower.table
        completion_id = self._signer.new_completion_id()
        return Route(completion_id, user, "live", table.live, table.epoch, role="reference")

    async def whole(self, asked: ChatRequest, route: Route) -> Json:
        """A whole answer for the client; its event is durable, or counted as unlogged. Raises ApiError."""
        generation = Generation(asked, route, self._model_name)
        engine = self._fleet.choose(route.version)
        try:
            with self._fleet.at_work(engine):
                answer = await self._upstream.complete(engine.url, generation.request())
        except UpstreamError as failure:
            raise self._translated(failure, route) from failure
        shown = generation.take_whole(answer)
        await self._recorder.completion(generation)
        return shown

    async def stream(self, asked: ChatRequest, route: Route) -> AsyncGenerator[bytes, None]:
        """Server-sent events for the client, as they come.

        Raises ApiError before the first event; after it, an error is the last event. The completion is
        durable before `[DONE]`. A stream that either side cuts short is logged as far as it came.
        """
        generation = Generation(asked, route, self._model_name)
        engine = self._fleet.choose(route.version)
        begun = False
        try:
            async with aclosing(self._sampled(engine, generation)) as batches:
                async for batch in batches:
                    begun = True
                    yield batch
            generation.unfinished = None
            end = b"data: [DONE]\n\n"
        except UpstreamError as failure:
            generation.unfinished = "error"
            error = self._translated(failure, route)
            if not begun:
                raise error from failure
            end = _event(error.as_dict())
        finally:
            if generation.unfinished == "abort" and generation.transcript.has_tokens:
                # The client left. A cancelled task cannot wait, but the log takes the event at once.
                self._recorder.hand_over(generation)
        if generation.ttft_seconds is not None:
            self._metrics.ttft_seconds.labels(route.arm).observe(generation.ttft_seconds)
            await self._recorder.completion(generation)
        yield end

    async def _sampled(self, engine: Engine, generation: Generation) -> AsyncGenerator[bytes, None]:
        """The engine's chunks as the client sees them; those that arrived together leave together."""
        with self._fleet.at_work(engine):
            async with self._upstream.stream(engine.url, generation.request()) as batches:
                async for batch in batches:
                    shown = [generation.take_chunk(chunk) for chunk in batch]
                    events = b"".join(_event(chunk) for chunk in shown if chunk is not None)
                    if events:
                        yield events

    def _translated(self, failure: UpstreamError, route: Route) -> ApiError:
        if isinstance(failure, Refused):
            return from_upstream(failure.status, failure.body, route.version, self._model_name)
        return engine_unavailable()


def _event(content: Json) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"
