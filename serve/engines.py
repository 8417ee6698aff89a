"""The engines as the gateway knows them: which answer, which adapters each has, how busy each is."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import orjson

from deploy.table import RoutingTable
from feedback.events import BASE
from serve.errors import engine_unavailable
from serve.metrics import Metrics
from serve.upstream import EngineLost, Refused, Upstream, UpstreamError

log = logging.getLogger(__name__)

_POLL_TIMEOUT_SECONDS = 10.0  # an engine that compiles or prefills can be slow to answer, and is not dead
_BURST_SECONDS = 0.05
_WARM_UP = {
    "model": BASE,
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 1,
    "logprobs": True,
    "return_token_ids": True,
}


@dataclass(slots=True)
class Engine:
    """One vLLM server, as of the last poll."""

    url: str
    models: frozenset[str] = frozenset()  # what it lists: "base" and its adapters
    warm: bool = False  # has answered a request with logprobs since it came up
    problem: str | None = "not asked yet"  # why it cannot be used, None when it can
    in_flight: int = 0
    ask_now: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def usable(self) -> bool:
        return self.problem is None


class Fleet:
    """Polls the engines and chooses one for each request. One task per engine runs `watch`."""

    def __init__(
        self, urls: Sequence[str], upstream: Upstream, metrics: Metrics, poll_seconds: float
    ) -> None:
        self.engines = [Engine(url.rstrip("/")) for url in urls]
        self._upstream = upstream
        self._metrics = metrics
        self._poll_seconds = poll_seconds

    def choose(self, version: str) -> Engine:
        """The least busy engine that has the version. Raises Unavailable: never another version instead."""
        having = [e for e in self.engines if e.usable and version in e.models]
        if not having:
            raise engine_unavailable()
        return min(having, key=lambda engine: engine.in_flight)

    @contextmanager
    def at_work(self, engine: Engine) -> Iterator[None]:
        """Count a request against the engine while it runs; when it fails, look at the engine at once."""
        engine.in_flight += 1
        try:
            yield
        except EngineLost:
            engine.ask_now.set()
            raise
        except Refused as refusal:
            if refusal.status == 404 or refusal.status >= 500:
                engine.ask_now.set()
            raise
        finally:
            engine.in_flight -= 1

    def problems(self, table: RoutingTable) -> list[str]:
        """Why no single engine can serve the whole table; empty when one can."""
        problems = []
        for engine in self.engines:
            missing = sorted((table.adapters | {table.live}) - engine.models)
            if engine.problem is not None:
                problems.append(f"{engine.url}: {engine.problem}")
            elif missing:
                problems.append(f"{engine.url}: {len(missing)} of the table's policies not loaded yet")
            else:
                return []
        return problems

    async def watch(self, engine: Engine) -> None:
        """Ask one engine for its state again and again, at once after a request to it failed."""
        while True:
            engine.ask_now.clear()
            await self._ask(engine)
            try:
                await asyncio.wait_for(engine.ask_now.wait(), self._poll_seconds)
                await asyncio.sleep(_BURST_SECONDS)  # a burst of failures is one question
            except TimeoutError:
                pass

    async def _ask(self, engine: Engine) -> None:
        try:
            await self._upstream.get(engine.url + "/health", _POLL_TIMEOUT_SECONDS)
            listed = orjson.loads(await self._upstream.get(engine.url + "/v1/models", _POLL_TIMEOUT_SECONDS))
            models = frozenset(model["id"] for model in listed["data"])
            if not engine.warm:
                engine.problem = "warming up"
                await self._upstream.complete(engine.url, orjson.dumps(_WARM_UP))
                engine.warm = True
        except (UpstreamError, orjson.JSONDecodeError, KeyError, TypeError) as error:
            self._lost(engine, error)
            return
        if not engine.usable:
            log.info("engine %s can be used; it has %s", engine.url, ", ".join(sorted(models)))
        engine.models = models
        engine.problem = None
        self._metrics.engine_up.labels(engine.url).set(1)

    def _lost(self, engine: Engine, error: Exception) -> None:
        if engine.usable:
            log.warning("engine %s cannot be used: %s", engine.url, error)
        engine.problem = f"refuses: {error}" if isinstance(error, Refused) else "does not answer"
        engine.models = frozenset()
        engine.warm = False
        self._metrics.engine_up.labels(engine.url).set(0)
