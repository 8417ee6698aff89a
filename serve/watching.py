"""Watching one engine: its health, its policies, its trial, and the breaker that all of this steps."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson

from deploy.registry import is_version
from feedback.events import BASE
from serve.breaker import Breaker, Event, State
from serve.metrics import Metrics
from serve.pacing import Pace
from serve.settings import GatewaySettings
from serve.upstream import EngineLost, Refused, Upstream, UpstreamError

log = logging.getLogger(__name__)

_BURST_SECONDS = 0.02
_APART_SECONDS = 0.1  # between two looks at one engine, however often they are asked for
_POLICY_REST_SECONDS = 10.0  # before a policy that an engine lists, and failed with, is tried again
_TOKENS = re.compile(rb"^vllm:generation_tokens_total(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
BREAKER_NUMBERS: dict[State, int] = {"closed": 0, "half-open": 1, "open": 2}


@dataclass(slots=True, eq=False)
class Engine:
    """One vLLM server, as of the last look at it. `eq=False`: two are never the same."""

    url: str
    breaker: Breaker = field(default_factory=Breaker)
    problem: str | None = "not asked yet"  # why it is out of use, None when it is in use
    policies: frozenset[str] = frozenset()  # that it may be asked for: listed (so probed) and warmed up
    in_flight: int = 0
    tokens: float | None = None  # that it had sampled when it was last asked
    pace: Pace = field(default_factory=Pace)
    heard: float = 0.0  # when it last sent anything to a user (monotonic seconds)
    resting: dict[str, float] = field(default_factory=dict)  # policies that failed, and until when (s)
    ask_now: asyncio.Event = field(default_factory=asyncio.Event)
    looked: asyncio.Event = field(default_factory=asyncio.Event)  # set at the end of each look
    _unanswered: set[asyncio.Timeout] = field(default_factory=set)

    @property
    def usable(self) -> bool:
        return self.breaker.state == "closed"

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
            try:
                await asyncio.wait_for(engine.ask_now.wait(), self._settings.poll_seconds)
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
            elif engine.usable:
                await self._keep(engine, listed)
        except UpstreamError as error:
            self.note(engine, "FAILED" if isinstance(error, Refused) else "LOST", error)
        self._more()

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
        """Warm up what is new. An engine lists a policy only after it was probed there (deploy/fleet.py)."""
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
            log.warning("engine %s lists %s and has no token of it: %s", engine.url, policy, refusal)
            engine.resting[policy] = time.monotonic() + _POLICY_REST_SECONDS
            return False
        return True

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
            self._lost(engine, policies)


def _one_token(model: str) -> bytes:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 1,
        "logprobs": True,
        "return_token_ids": True,
    }
    return orjson.dumps(body)
