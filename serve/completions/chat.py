"""Chats and completions: pick the user's arm, let vLLM answer, log exactly what was sampled."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace

import orjson

from deploy.engines.thoughts import PROMPT_END, is_closed
from feedback.core.ids import Signer
from serve.auth.caller import Caller
from serve.completions.conversations import Conversations
from serve.completions.shadowing import Shadowing
from serve.completions.text import TextGeneration, TextRequest
from serve.completions.tokenizing import PATH as TOKENIZE_PATH
from serve.engines.attempts import Want
from serve.engines.failing import failure_of
from serve.engines.pool import Fleet
from serve.engines.upstream import CHAT_PATH, Upstream, UpstreamError
from serve.engines.watching import Engine
from serve.generation.answers import lacks_answer, take_as_answered
from serve.generation.blame import Blame
from serve.generation.cut_calls import take_cut_calls
from serve.generation.doors import Door
from serve.generation.generation import Generation, Json, Route, consents
from serve.generation.requests import ChatRequest
from serve.metrics import Metrics
from serve.routing.following import TableFollower
from serve.routing.leases import Leases
from serve.storage.answers import StoredAnswers
from serve.storage.keeping import KeptGeneration
from serve.storage.recording import Recorder


class Chat:
    """Answers chats and completions, streamed or whole."""

    def __init__(
        self,
        model_name: str,
        signer: Signer,
        follower: TableFollower,
        fleet: Fleet,
        upstream: Upstream,
        blame: Blame,
        recorder: Recorder,
        leases: Leases,
        stored: StoredAnswers,
        conversations: Conversations,
        metrics: Metrics,
    ) -> None:
        self._model_name = model_name
        self._signer = signer
        self._follower = follower
        self._fleet = fleet
        self._upstream = upstream
        self._blame = blame
        self._recorder = recorder
        self._leases = leases
        self._stored = stored
        self._conversations = conversations
        self._metrics = metrics
        self._shadowing = Shadowing(follower, fleet, upstream, recorder, leases, metrics)

    async def close(self) -> None:
        """Give up what no client waits for."""
        await self._shadowing.close()

    async def route(self, asked: ChatRequest, user: str, caller: Caller, since: int) -> Route:
        """Where a request goes: as its conversation did, or under the table in force.

        user: whose it is (a pseudonym), by which it is logged. since: when it began, as erasures count time.
        """
        place = await self._conversations.place(caller.tenant, user, asked)
        return Route(
            self._signer.new_completion_id(asked.id_prefix),
            user,
            place.arm,
            place.version,
            place.epoch,
            place,
            caller=caller,
            since=since,
        )

    def reference_of(self, route: Route) -> Route:
        """The route to the live policy, whatever the user's arm: the other side of a comparison."""
        table = self._follower.table
        return replace(
            route,
            completion_id=self._signer.new_completion_id(),
            arm="live",
            version=table.live,
            epoch=table.epoch,
            role="reference",
        )

    async def whole(self, asked: ChatRequest, route: Route) -> Json:
        """A whole answer for the client; its event is durable, or counted as unlogged. Raises ApiError."""
        return (await self.generated(asked, route))[0]

    async def generated(self, asked: ChatRequest, route: Route) -> tuple[Json, Generation]:
        """The same with what it came of."""
        generation = await self._begin(asked, route)
        with self._telling_failures(generation):
            answer = await self._first_answer(asked, route, generation.request(), asked.path)
            if asked.path == CHAT_PATH and lacks_answer(answer):
                end = await self._detokenized(answer["prompt_token_ids"][-PROMPT_END:], asked, route)
                if is_closed(end):
                    take_as_answered(answer)
            if asked.path == CHAT_PATH:
                take_cut_calls(answer, asked.body)
            shown = generation.take_whole(answer)
        if generation.is_worth_logging:
            await self._recorder.completion(generation)
            await self._conversations.note(generation)
            self._shadowing.consider(generation)
        if isinstance(generation, KeptGeneration):
            await self._stored.keep(generation)
        return shown, generation

    @contextmanager
    def _telling_failures(self, generation: Generation) -> Iterator[None]:
        """Log a request that ends in the block without an answer."""
        try:
            yield
        except BaseException as error:
            self._tell_failure(generation, failure_of(error))
            raise

    def _tell_failure(self, generation: Generation, failure: str | None) -> None:
        # One side of a comparison that fails cancels the other, which nobody abandoned.
        cancelled = failure == "abandoned" and generation.route.comparison_id is not None
        if failure is not None and not cancelled and generation.is_worth_logging:
            self._recorder.failed(generation, failure)

    async def _begin(self, asked: ChatRequest, route: Route) -> Generation:
        route = replace(route, cache_salt=self._cache_salt(route.caller, asked))
        if asked.wants_storing and consents(asked, route.caller):
            return KeptGeneration(asked, route, self._model_name)
        if not isinstance(asked, TextRequest):
            return Generation.of_chat(asked, route, self._model_name)
        prompts = asked.prompts if asked.echo else ()
        echoed = [p if isinstance(p, str) else await self._detokenized(p, asked, route) for p in prompts]
        return TextGeneration(asked, route, self._model_name, echoed)

    def _cache_salt(self, caller: Caller, asked: ChatRequest) -> str:
        """What keeps a tenant's prompts apart from others' in an engine's prefix cache (CVE-2025-46570).

        A client's own salt tells its users apart within the tenant; it can be no other tenant's.
        """
        return self._signer.sign("cache salt", f"{caller.tenant}\0{asked.body.get('cache_salt') or ''}")

    async def tokenized(self, question: Json, asked: ChatRequest, route: Route) -> Json:
        """What an engine says of the tokens of a prompt: vLLM's answer to /tokenize. Raises ApiError."""
        body = orjson.dumps({**question, "model": route.version})
        return await self._first_answer(asked, route, body, TOKENIZE_PATH)

    async def _detokenized(self, token_ids: list[int], asked: ChatRequest, route: Route) -> str:
        body = orjson.dumps({"model": route.version, "tokens": token_ids})
        answer = await self._first_answer(asked, route, body, "/detokenize")
        return str(answer["prompt"])

    async def _first_answer(self, asked: ChatRequest, route: Route, body: bytes, path: str) -> Json:
        """The answer of the first engine that gives one. Raises ApiError."""
        want = _want(asked, route)
        while True:
            try:
                with self._leases.using(want.version):
                    async with self._fleet.slot(want) as engine, engine.unanswered():
                        return await self._upstream.complete(engine.url, body, path)
            except UpstreamError as failure:
                if not want.may_try_again(failure):
                    raise await self._blame.told(failure, asked, route) from failure

    async def stream(self, asked: ChatRequest, route: Route, door: Door) -> AsyncGenerator[bytes, None]:
        """Server-sent events for the client, as they come; those that arrived together leave together.

        Raises ApiError before the first event; after it, an error is the last event. The completion is
        durable before the stream's end. A stream that either side cuts short is logged as far as it came.
        """
        generation = await self._begin(asked, route)
        with self._telling_failures(generation):
            answering = await self._first_to_begin(generation)
        begun = time.perf_counter()
        try:
            async with answering.held:
                batch = answering.first
                while batch is not None:
                    answering.engine.heard = time.monotonic()
                    shown = [door.chunk(seen) for chunk in batch if (seen := generation.take_chunk(chunk))]
                    if shown:
                        yield shown[0] if len(shown) == 1 else b"".join(shown)
                    batch = await anext(answering.rest, None)
            generation.finish()
            answering.engine.pace.note(generation.transcript.longest, time.perf_counter() - begun)
            end = door.end()
        except UpstreamError as failure:
            generation.unfinished = "error"
            if not generation.transcript.has_tokens:
                self._tell_failure(generation, failure_of(failure))
            end = door.broken(await self._blame.told(failure, asked, route))
        finally:
            tokens = generation.is_worth_logging and generation.transcript.has_tokens
            if tokens and generation.unfinished == "abort":
                # The client left. A cancelled task cannot wait, but the log takes the event at once.
                self._recorder.hand_over(generation)
            elif generation.unfinished == "abort" and not generation.transcript.has_tokens:
                self._tell_failure(generation, "abandoned")
        if tokens and generation.ttft_seconds is not None:
            self._metrics.ttft_seconds.labels(route.arm).observe(generation.ttft_seconds)
            await self._recorder.completion(generation)
            await self._conversations.note(generation)
            self._shadowing.consider(generation)
        if isinstance(generation, KeptGeneration) and generation.unfinished is None:
            await self._stored.keep(generation)
        yield end

    async def _first_to_begin(self, generation: Generation) -> "_Answering":
        """The stream of the first engine that begins one. Raises ApiError."""
        asked, route = generation.asked, generation.route
        want = _want(asked, route)
        while True:
            try:
                async with AsyncExitStack() as attempt:
                    attempt.enter_context(self._leases.using(want.version))
                    engine = await attempt.enter_async_context(self._fleet.slot(want))
                    body = generation.request(engine.pace.tokens_per_event(engine.in_flight))
                    async with engine.unanswered():
                        stream = self._upstream.stream(engine.url, body, asked.path)
                        rest = await attempt.enter_async_context(stream)
                        first = await anext(rest, None)
                    return _Answering(engine, first, rest, attempt.pop_all())
            except UpstreamError as failure:
                if not want.may_try_again(failure):
                    raise await self._blame.told(failure, asked, route) from failure


def _want(asked: ChatRequest, route: Route) -> Want:
    return Want(route.version, route.caller.key_id, asked.conversation)


@dataclass(frozen=True, slots=True)
class _Answering:
    """A stream that has begun: its first batch of chunks and the rest; leaving `held` lets go
    of its engine."""

    engine: Engine
    first: list[Json] | None
    rest: AsyncIterator[list[Json]]
    held: AsyncExitStack
