"""Watching one engine: its health, its policies, its trial, and the breaker that all of this steps."""

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson

from deploy.registry.versions import is_version
from feedback.core.events import BASE
from serve.engines.breaker import Breaker, Event, State
from serve.engines.pacing import Pace
from serve.engines.upstream import EngineLost, Refused, Upstream, UpstreamError
from serve.metrics import Metrics
from serve.settings import GatewaySettings

log = logging.getLogger(__name__)

_BURST_SECONDS = 0.02
_APART_SECONDS = 0.1  # between two looks at one engine, however often they are asked for
_POLICY_REST_SECONDS = 10.0  # before a policy that an engine lists, and failed with, is tried again
_QUESTION_SECONDS = 0.5  # between two questions to an engine that failed requests, however many those are
_TOKENS = re.compile(rb"^vllm:generation_tokens_total(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
BREAKER_NUMBERS: dict[State, int] = {"closed": 0, "half-open": 1, "open": 2}


@dataclass(slots=True, eq=False)
class Engine:
    """One vLLM server, as of the last look at it. `eq=False`: two are never the same."""

    url: str
    breaker: Breaker = field(default_factory=Breaker)
    leaves: bool = False  # its address is gone: what it works on ends, and nothing else begins
    problem: str | None = "not asked yet"  # why it is out of use, None when it is in use
    policies: frozenset[str] = frozenset()  # that it may be asked for: listed (so probed) and warmed up
    in_flight: int = 0
    held: Counter[str] = field(default_factory=Counter)  # of those, by API key
    tokens: float | None = None  # that it had sampled when it was last asked
    pace: Pace = field(default_factory=Pace)
    heard: float = 0.0  # when it last sent anything to a user (monotonic seconds)
    resting: dict[str, float] = field(default_factory=dict)  # policies that failed, and until when (s)
    ask_now: asyncio.Event = field(default_factory=asyncio.Event)
    looked: asyncio.Event = field(default_factory=asyncio.Event)  # set at the end of each look
    # By policy, since requests for it failed: becomes true when the engine fails our question as well.
    doubts: dict[str, asyncio.Future[bool]] = field(default_factory=dict)
    questioned: float = -_QUESTION_SECONDS  # when it was last asked for that (monotonic seconds)
    _unanswered: set[asyncio.Timeout] = field(default_factory=set)

    @property
    def usable(self) -> bool:
        return self.breaker.state == "closed" and not self.leaves

    @asynccontextmanager
    async def unanswered(self) -> AsyncIterator[None]:
        """Around the part of a request in which nothing has come back yet: raises EngineLost when the
        engine is found to hang, and another one could answer."""
        try:
            async with asyncio.timeout(None) as limit:
                self._unanswered.add(limit)
                try:
                    yield
                finally:
                    self._unanswered.discard(limit)
        except TimeoutError:
            raise EngineLost(f"{self.url}: hangs") from None

    def give_up(self) -> None:
        """End every request that nothing has come back for."""
        now = asyncio.get_running_loop().time()
        for limit in self._unanswered:
            limit.reschedule(now)


class Watch:
    """Looks at engines and steps their breakers.

    `more` is called when an engine may take requests that it could not take before; `lost(engine, policies)`
    when one goes out of use that served these policies.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        upstream: Upstream,
        metrics: Metrics,
        more: Callable[[], None],
        lost: Callable[[Engine, frozenset[str]], None],
    ) -> None:
        self._settings = settings
        self._upstream = upstream
        self._metrics = metrics
        self._more = more
        self._lost = lost

    async def run(self, engine: Engine) -> None:
        """Look at one engine again and again, at once after a request to it failed."""
        while True:
            engine.ask_now.clear()
            await self._look(engine)
            engine.looked.set()
            looked_at = time.monotonic()
            pause = self._settings.poll_seconds
            if engine.doubts:
                pause = min(pause, max(0.0, engine.questioned + _QUESTION_SECONDS - looked_at))
            try:
                await asyncio.wait_for(engine.ask_now.wait(), pause)
            except TimeoutError:
                continue
            # A burst of failures is one question, and requests that wait for a policy ask without end.
            await asyncio.sleep(max(_BURST_SECONDS, looked_at + _APART_SECONDS - time.monotonic()))

    async def _look(self, engine: Engine) -> None:
        try:
            listed = await self._listed(engine)
        except UpstreamError as error:  # refused as well: a model process that has ended makes health a 503
            self.note(engine, "LOST", error)
            return
        if not engine.usable:
            self.note(engine, "DUE")
        try:
            if engine.breaker.state == "half-open":
                await self._try(engine, listed)
            elif engine.breaker.state == "closed":
                await self._keep(engine, listed)
                if engine.doubts and time.monotonic() >= engine.questioned + _QUESTION_SECONDS:
                    await self._question(engine)
        except UpstreamError as error:
            self.note(engine, "LOST", error)
        self._more()

    def doubt(self, engine: Engine, policy: str) -> asyncio.Future[bool]:
        """A request for a policy failed: ask the engine a question of ours that begins after now.

        The future becomes true when the engine fails it as well, false when it answers: then the request
        was at fault, and nothing has moved. Many requests that fail together are one question.
        """
        fault = engine.doubts.get(policy)
        if fault is None:
            fault = asyncio.get_running_loop().create_future()
            engine.ask_now.set()
            if engine.breaker.state == "closed":
                engine.doubts[policy] = fault
            else:
                fault.set_result(True)  # it failed one already
        return fault

    async def _question(self, engine: Engine) -> None:
        """Ask for a token of the base, and of each policy that is in doubt. One task asks, so one at a time.

        A policy that fails on an engine that is well leaves it, and the others stay. Raises UpstreamError.
        """
        doubts, engine.doubts = engine.doubts, {}
        engine.questioned = time.monotonic()
        try:
            await self._has_token(engine, BASE)
            for policy, fault in doubts.items():
                try:
                    if policy != BASE:
                        await self._has_token(engine, policy)
                except Refused as refusal:
                    self._let_rest(engine, policy, refusal)
                else:
                    fault.set_result(False)
        finally:
            _convict(doubts)

    async def _has_token(self, engine: Engine, model: str) -> None:
        """Raises UpstreamError when an engine has no token of a model for us, nor any for others.

        Where users have filled it, our token may wait behind theirs for longer than `hang_seconds`.
        """
        try:
            await self._warm_up(engine, model, self._settings.hang_seconds)
        except EngineLost:
            tokens = await self._tokens(engine)
            if tokens is None or tokens == engine.tokens:
                raise
            engine.tokens = tokens

    async def _listed(self, engine: Engine) -> frozenset[str]:
        """What a healthy engine says that it serves. Raises UpstreamError."""
        limit = self._settings.hang_seconds
        await self._upstream.get(engine.url + "/health", limit)
        answer = await self._upstream.get(engine.url + "/v1/models", limit)
        try:
            return frozenset(model["id"] for model in orjson.loads(answer)["data"])
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise EngineLost(f"{engine.url}/v1/models: {error!r}") from error

    async def _try(self, engine: Engine, listed: frozenset[str]) -> None:
        """The trial of an engine that is new or was lost: one token of each policy, before users' requests.

        What it knew before it was lost does not count: it may be another process by now.
        """
        engine.problem, engine.policies = "warming up", frozenset()
        await self._warm_up(engine, BASE, None)  # the first request may compile for minutes
        await self._add(engine, listed)
        self.note(engine, "PASSED")
        log.info("engine %s is in use; it has %s", engine.url, ", ".join(sorted(engine.policies)))

    async def _keep(self, engine: Engine, listed: frozenset[str]) -> None:
        """Follow what an engine in use has, and notice when it is healthy and answers nobody."""
        engine.policies &= listed
        await self._add(engine, listed)
        silent = time.monotonic() - engine.heard
        if engine.in_flight and silent > self._settings.silent_seconds:
            await self._see_progress(engine)

    async def _see_progress(self, engine: Engine) -> None:
        """Whether a silent engine works at all: its own count of tokens grows, or it has one for us.

        Users whose answers are not streamed hear nothing for long from an engine that is only busy, and
        there our token would wait behind theirs. Raises EngineLost.
        """
        tokens = await self._tokens(engine)
        if tokens is None or tokens == engine.tokens:
            await self._warm_up(engine, BASE, self._settings.hang_seconds)
        engine.tokens = tokens
        engine.heard = time.monotonic()

    async def _tokens(self, engine: Engine) -> float | None:
        """How many tokens an engine has sampled since it started; None when it does not say."""
        try:
            metrics = await self._upstream.get(engine.url + "/metrics", self._settings.hang_seconds)
        except Refused:
            return None
        counts = _TOKENS.findall(metrics)
        return sum(map(float, counts)) if counts else None

    async def _add(self, engine: Engine, listed: frozenset[str]) -> None:
        """Warm up what is new. An engine lists a policy only after it was probed there
        (deploy/engines/fleet.py)."""
        for policy in sorted(listed - engine.policies):
            if policy == BASE or (is_version(policy) and await self._is_warm(engine, policy)):
                engine.policies |= {policy}
                self._more()

    async def _is_warm(self, engine: Engine, policy: str) -> bool:
        """Whether an engine has a token of a policy; raises EngineLost.

        A policy that fails on an engine that is well must not take the engine from the other policies.
        """
        if time.monotonic() < engine.resting.get(policy, 0.0):
            return False
        try:
            await self._warm_up(engine, policy, None)
        except Refused as refusal:
            self._let_rest(engine, policy, refusal)
            return False
        return True

    def _let_rest(self, engine: Engine, policy: str, refusal: Refused) -> None:
        log.warning("engine %s lists %s and has no token of it: %s", engine.url, policy, refusal)
        engine.policies -= {policy}
        engine.resting[policy] = time.monotonic() + _POLICY_REST_SECONDS

    async def _warm_up(self, engine: Engine, model: str, limit_seconds: float | None) -> None:
        try:
            async with asyncio.timeout(limit_seconds):
                await self._upstream.complete(engine.url, _one_token(model))
        except TimeoutError:
            raise EngineLost(f"{engine.url}: no token within {limit_seconds:g} s") from None

    def note(self, engine: Engine, event: Event, error: Exception | None = None) -> None:
        """Step the breaker, and do what its new state asks for."""
        before = engine.breaker
        engine.breaker = before.after(event, time.monotonic())
        if event == "ANSWERED":
            engine.heard = time.monotonic()
        if engine.breaker.state == "closed":
            engine.problem = None
        elif error is not None:
            engine.problem = f"refuses: {error}" if isinstance(error, Refused) else "does not answer"
        if before.state == engine.breaker.state:
            return
        self._metrics.engine_up.labels(engine.url).set(engine.usable)
        self._metrics.engine_breaker.labels(engine.url).set(BREAKER_NUMBERS[engine.breaker.state])
        if before.state == "closed":
            log.warning("engine %s is out of use: %s", engine.url, error)
            policies, engine.policies, engine.tokens = engine.policies, frozenset(), None
            engine.resting.clear()
            doubts, engine.doubts = engine.doubts, {}
            _convict(doubts)
            self._lost(engine, policies)


def _convict(doubts: dict[str, asyncio.Future[bool]]) -> None:
    """What was not answered is the engine's fault."""
    for fault in doubts.values():
        if not fault.done():
            fault.set_result(True)


def _one_token(model: str) -> bytes:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 1,
        "logprobs": True,
        "return_token_ids": True,
    }
    return orjson.dumps(body)
