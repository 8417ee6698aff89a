"""Which engines a gateway has: those that are listed, and those behind names, which come and go."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial

from deploy.engines.discovery import LOOKUP_SECONDS, Discovery
from serve.engines.watching import BREAKER_NUMBERS, Engine
from serve.metrics import Metrics

log = logging.getLogger(__name__)


class Roster:
    """`engines` are those that may have requests, some of which may be leaving: what they work on goes on.

    watch: looks at one engine for ever, in a task of its own.
    """

    def __init__(
        self, discovery: Discovery, metrics: Metrics, watch: Callable[[Engine], Coroutine[None, None, None]]
    ) -> None:
        self.engines: list[Engine] = []
        self._discovery = discovery
        self._metrics = metrics
        self._watch = watch
        self._meet(discovery.urls)

    @property
    def lookup_problems(self) -> Mapping[str, str]:
        """The names that cannot be looked up, each with why."""
        return self._discovery.problems

    async def follow(self) -> None:
        """Watch every engine, and look up names, for ever."""
        async with asyncio.TaskGroup() as tasks:
            watching: dict[Engine, asyncio.Task[None]] = {}
            while True:
                if self._discovery.names:
                    await asyncio.to_thread(self._discovery.look)
                    self._metrics.lookups.show(self._discovery)
                    self._meet(self._discovery.urls)
                for engine in self.engines:
                    if engine not in watching:
                        watching[engine] = tasks.create_task(self._watch(engine))
                for engine in [engine for engine in watching if engine not in self.engines]:
                    watching.pop(engine).cancel()
                if not self._discovery.names:
                    return  # those that are listed stay, and the group waits for their tasks
                await asyncio.sleep(LOOKUP_SECONDS)

    def _meet(self, urls: Sequence[str]) -> None:
        """Have these engines. Others leave, and are forgotten when nobody waits for them any more."""
        known = {engine.url: engine for engine in self.engines}
        for url in urls:
            if url not in known:
                self._show(known.setdefault(url, Engine(url)))
        for engine in known.values():
            leaves = engine.url not in urls
            if leaves != engine.leaves:
                engine.leaves = leaves
                self._metrics.engine_up.labels(engine.url).set(engine.usable)
                words = "leaves; it works on" if leaves else "is back; it still works on"
                log.info("engine %s %s %d requests", engine.url, words, engine.in_flight)
        self.engines = [engine for engine in known.values() if not _is_gone(engine)]
        self._hide(engine for engine in known.values() if _is_gone(engine))

    def _show(self, engine: Engine) -> None:
        self._metrics.engine_in_flight.labels(engine.url).set_function(partial(_in_flight, engine))
        self._metrics.engine_breaker.labels(engine.url).set(BREAKER_NUMBERS[engine.breaker.state])

    def _hide(self, engines: Iterable[Engine]) -> None:
        """No series of an engine that is gone: every new pod has another address."""
        metrics = self._metrics
        for engine in engines:
            for gauge in (metrics.engine_in_flight, metrics.engine_breaker, metrics.engine_up):
                gauge.remove(engine.url)


def _is_gone(engine: Engine) -> bool:
    return engine.leaves and not engine.in_flight and not engine.doubts


def _in_flight(engine: Engine) -> float:
    return engine.in_flight
