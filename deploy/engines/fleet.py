"""The engines of the service: which adapters they have, and bringing them the ones that they need."""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from deploy.engines.client import EngineClient
from deploy.engines.discovery import Discovery
from deploy.engines.fetcher import Fetcher
from deploy.engines.one_engine import OneEngine, Problem, Proof
from deploy.engines.parity import Parity, ParityLimits
from deploy.engines.quarantine import Standing
from deploy.registry.bucket import BucketRegistry
from deploy.registry.registry import Registry
from deploy.registry.versions import is_version

T = TypeVar("T")

PRIVATE = "probe-"
"""An adapter is probed under this, the controller's name and its version. No table names such a model."""

_PRIVATE = re.compile("^" + PRIVATE + "(?:[0-9a-f]{6}-)?")

ROUND_SECONDS = 2.0
"""How long a round waits for engines. One that needs longer goes on, and later rounds pass over it."""

BRING_SECONDS = 10.0
"""How long a table waits for an engine to have what it names, where one is at work on it."""


class _Worker:
    """An engine and what is done on it, by one thread at a time."""

    def __init__(self, engine: OneEngine) -> None:
        self.engine = engine
        self.threads = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self.job: Future[object] | None = None
        self.hangs = False  # a look at it took longer than a round waits, and none since then was quick
        self._took_seconds = 0.0  # the last job

    def timed(self, work: Callable[[OneEngine], T]) -> T:
        """Do a job, in its thread."""
        began = time.monotonic()
        try:
            return work(self.engine)
        finally:
            self._took_seconds = time.monotonic() - began

    def was_quick(self, seconds: float) -> bool:
        """Whether the last job took less."""
        return not self.is_busy and self._took_seconds < seconds

    @property
    def is_busy(self) -> bool:
        return self.job is not None and not self.job.done()

    def retire(self) -> None:
        """Close the engine's connections once what it was asked is done."""
        self.threads.submit(self.engine.client.close)
        self.threads.shutdown(wait=False)


class Fleet:
    """All engines. This is the only place that loads a version, and an engine that lists one was probed.

    An engine is given an adapter under a private name first. Only when its logprobs there are the trainer's
    is the adapter loaded under the version's name (and probed once more). So gateways need no other proof
    than an engine's list of models, and a version that is not right never appears in one.

    An engine that does not answer is passed over and tended when it is back; nothing here waits for it.
    Engines are spoken to in parallel, each by one thread at a time, and `round_seconds` is all that a call
    waits for them: an engine that hangs holds up no other. What it was asked goes on until its client gives
    up, and until then it is asked nothing else. owner: six hexadecimal digits that tell this controller's
    private names from another's, so that two of them do not refuse each other's candidates. fetch_port: of
    the `hearken fetch` on each engine's host, where the registry is a bucket; None: engines see this
    machine's folders. discovery: says which engines there are; None: always those in `engines`. connect:
    makes the client of an engine that is new. loaded: see `OneEngine`.
    """

    def __init__(
        self,
        engines: Sequence[EngineClient],
        registry: Registry,
        limits: ParityLimits,
        owner: str = "",
        round_seconds: float = ROUND_SECONDS,
        fetch_port: int | None = None,
        discovery: Discovery | None = None,
        connect: Callable[[str], EngineClient] = EngineClient,
        loaded: Callable[[float], object] = lambda seconds: None,
    ) -> None:
        self._registry, self._limits, self._loaded = registry, limits, loaded
        self._private = f"{PRIVATE}{owner}-" if owner else PRIVATE
        self._fetch_port = fetch_port if isinstance(registry, BucketRegistry) else None
        self._workers = [self._worker(client) for client in engines]
        self.discovery, self._connect = discovery, connect
        if discovery is not None:
            self._meet(discovery.urls)
        self.manifests: Mapping[str, str] = {}  # version -> sha256 that its manifest must have, where known
        self._round_seconds = round_seconds

    def _worker(self, client: EngineClient) -> _Worker:
        port = self._fetch_port
        fetcher = Fetcher(client.url, port) if port else None
        return _Worker(OneEngine(client, self._registry, self._limits, self._private, fetcher, self._loaded))

    @property
    def _engines(self) -> list[OneEngine]:
        return [worker.engine for worker in self._workers]

    def _meet(self, urls: Sequence[str]) -> None:
        """Have these engines and no others. One that is new has shown nothing yet."""
        known = {worker.engine.url: worker for worker in self._workers}
        self._workers = [known.pop(url) if url in known else self._worker(self._connect(url)) for url in urls]
        for gone in known.values():
            gone.retire()

    def look(self) -> None:
        """Ask every engine what it serves. A restarted one has lost its adapters and shows so here.

        One that hung when it was last asked is asked again, and not waited for.
        """
        if self.discovery is not None:
            self._meet(self.discovery.urls)
        for worker in self._workers:
            worker.hangs = worker.hangs and not worker.was_quick(self._round_seconds)
        asked = self._begin(OneEngine.look)
        wait([job for worker, job in asked if not worker.hangs], self._round_seconds)
        for worker, job in asked:
            worker.hangs = not job.done()

    def forget(self) -> None:
        """Know nothing of the engines any more, because another controller tends them now."""
        for engine in self._engines:
            engine.forget()

    @property
    def versions(self) -> set[str]:
        """All versions that any engine has, and private names that a controller died with."""
        return {v for e in self._engines for v in e.loaded or () if is_version(_PRIVATE.sub("", v))}

    def adapters_loaded(self) -> dict[str, int]:
        """Per engine URL, how many of our adapters it has."""
        return {e.url: sum(map(is_version, e.loaded or ())) for e in self._engines}

    def proofs(self) -> dict[tuple[str, str], Proof]:
        """By engine URL and version."""
        return {(e.url, v): proof for e in self._engines for v, proof in e.proofs.items()}

    def rejections(self) -> dict[str, int]:
        """Per engine URL, how often an adapter was not right for it or on it."""
        return {e.url: e.rejections for e in self._engines}

    def parity_of(self, version: str) -> Parity | None:
        """A version's comparison on the engine where it came nearest to a limit; None where it is ready on
        none."""
        engines = [worker.engine for worker in self._workers if not worker.hangs]
        found = [proofs[version].parity for e in engines if version in (proofs := e.proofs)]
        return max(found, key=lambda parity: parity.ratio, default=None)

    def standing(self, version: str, problems: Sequence[Problem]) -> Standing:
        """How engines stand to a version after `prepare` gave these problems."""
        return Standing(
            problems=problems,
            proven=self.parity_of(version) is not None,
            at_work=self.is_at_work,
            all_answer=all(w.engine.loaded is not None and not w.hangs for w in self._workers),
        )

    def proves(self, url: str, versions: Iterable[str]) -> bool:
        """Whether an engine has proven all of these. One that is not of this fleet has nothing to prove."""
        found = next((worker for worker in self._workers if worker.engine.url == url), None)
        if found is None:
            return True
        answers = found.engine.loaded is not None and not found.hangs
        return answers and all(version in found.engine.proofs for version in versions)

    @property
    def is_at_work(self) -> bool:
        """Whether an engine that answers is still busy with something, a large adapter for example."""
        return any(worker.is_busy and not worker.hangs for worker in self._workers)

    @property
    def waits_for_files(self) -> bool:
        """Whether an engine lacks a version, or cannot prove it anew, because its files cannot be had now."""
        return any(engine.away for engine in self._engines)

    # -- loading ----------------------------------------------------------------------------------------

    def prepare(self, version: str, now: float) -> list[Problem]:
        """Load and probe a version on every engine that lacks it, and probe again where that is long ago.

        Gives what is wrong with it, per engine; the engine does not have it then. An engine that is not done
        within a round goes on, and tells at a later call.
        """
        digest = self.manifests.get(version)
        jobs = self._begin(lambda engine: engine.prepare(version, now, digest))
        wait([job for _, job in jobs], self._round_seconds)
        found = [job.result() for _, job in jobs if job.done()]
        return [problem for problem in found if problem is not None]

    def bring(self, version: str, now: float) -> bool:
        """The same for a table that is about to name a version: waits until one engine has it, as long as
        one is at work and `BRING_SECONDS` at most. Says whether one has it."""
        deadline = time.monotonic() + BRING_SECONDS
        self.prepare(version, now)
        while self.parity_of(version) is None:
            jobs = [worker.job for worker in self._workers if worker.is_busy and not worker.hangs]
            left = deadline - time.monotonic()
            if not jobs or left <= 0:
                return False
            wait([job for job in jobs if job is not None], left, FIRST_COMPLETED)
            self.prepare(version, now)
        return True

    def unload(self, versions: Iterable[str]) -> None:
        """Unload versions wherever they are; their files stay. What fails is tried again by the caller."""
        gone = list(versions)
        if gone:
            jobs = self._begin(lambda engine: engine.unload(gone))
            wait([job for _, job in jobs], self._round_seconds)

    def _begin(self, work: Callable[[OneEngine], T]) -> "list[tuple[_Worker, Future[T]]]":
        """Begin something on every engine that is not busy, on all at once."""
        begun = []
        for worker in self._workers:
            if not worker.is_busy:
                if worker.job is not None:
                    worker.job.result()  # raises: a mistake of ours must not hide in a thread
                job = worker.threads.submit(worker.timed, work)
                worker.job = job  # type: ignore[assignment]
                begun.append((worker, job))
        return begun

    def close(self) -> None:
        """Close the connections. What an engine that hangs was asked ends with its client's patience."""
        for worker in self._workers:
            worker.threads.shutdown(wait=False, cancel_futures=True)
            worker.engine.client.close()
