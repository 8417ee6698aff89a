"""The engines of the service: which adapters they have, and bringing them the ones that they need."""

import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from deploy.engine import EngineClient, EngineDown, EngineError
from deploy.manifest import Manifest, Probe
from deploy.parity import FIRST, UNTOLD, Parity, ParityLimits, can_round, compare, exactly
from deploy.registry import WEIGHTS, Registry, RegistryError, is_version
from deploy.stages import Number
from feedback.events import BASE

T = TypeVar("T")

logger = logging.getLogger(__name__)

PRIVATE = "probe-"
"""An adapter is probed under this, the controller's name and its version. No table names such a model."""

_PRIVATE = re.compile("^" + PRIVATE + "(?:[0-9a-f]{6}-)?")

PROOF_SECONDS = 600.0
"""How long a probe counts. An engine re-reads an adapter that it evicted, so what was right may change."""

RETRY_SECONDS = 60.0
"""How long an engine is left alone with a version that it was refused for."""


class Proof(NamedTuple):
    """An engine computed with an adapter what the trainer had computed."""

    parity: Parity
    digest: str  # sha256 of the weights, as in the manifest
    at: float  # when, in seconds


class Problem(NamedTuple):
    """Why a version does not serve on an engine."""

    engine: str  # its URL
    sentence: str
    numbers: dict[str, Number]


class _Engine:
    """One engine as it was when it was last looked at."""

    def __init__(self, client: EngineClient) -> None:
        self.client = client
        self.loaded: set[str] | None = None  # None: it does not answer
        self.proofs: dict[str, Proof] = {}  # of the versions that it has, and was probed with
        self.refused: dict[str, tuple[Problem, float]] = {}  # and when
        self.rejections = 0
        self._base: dict[tuple[int, ...], list[float]] = {}  # its base's logprobs of probes

    def look(self) -> None:
        try:
            self.loaded = set(self.client.models())
        except EngineError as error:
            self.lost(error)
            return
        self.proofs = {v: proof for v, proof in self.proofs.items() if v in self.loaded}

    def lost(self, error: EngineError) -> None:
        """It does not answer: whatever it has when it is back is unknown."""
        if self.loaded is not None:
            logger.warning("engine away: %s", error)
        self.forget()

    def forget(self) -> None:
        """Know nothing of it any more."""
        self.loaded, self.proofs, self.refused, self._base = None, {}, {}, {}

    def compare(self, name: str, probes: Sequence[Probe], limits: ParityLimits) -> Parity:
        """What the engine computes under a name against the trainer. In float32 a few probes say all."""
        if not can_round(probes):
            return exactly(probes, self.client.probe(name, probes), limits)
        few = exactly(probes[:FIRST], self.client.probe(name, probes[:FIRST]), limits)
        if few.refusal is None:
            return few
        return compare(probes, self.client.probe(name, probes), self._of_base(probes), limits)

    def _of_base(self, probes: Sequence[Probe]) -> list[list[float]]:
        """The engine's own logprobs without an adapter. All versions have the same probes, and an engine
        computes them once in its life."""
        keys = [(len(p.prompt_token_ids), *p.prompt_token_ids, *p.token_ids) for p in probes]
        new = [(key, probe) for key, probe in zip(keys, probes, strict=True) if key not in self._base]
        if new:
            found = self.client.probe(BASE, [probe for _, probe in new])
            self._base |= {key: row for (key, _), row in zip(new, found, strict=True)}
        return [self._base[key] for key in keys]

    def has(self, name: str) -> bool:
        return name in (self.loaded or ())

    def load(self, name: str, path: str) -> None:
        self.client.load(name, path)
        if self.loaded is not None:
            self.loaded.add(name)

    def unload(self, name: str) -> None:
        self.client.unload(name)
        self.proofs.pop(name, None)
        if self.loaded is not None:
            self.loaded.discard(name)


class Fleet:
    """All engines. This is the only place that loads a version, and an engine that lists one was probed.

    An engine is given an adapter under a private name first. Only when its logprobs there are the trainer's
    is the adapter loaded under the version's name (and probed once more). So gateways need no other proof
    than an engine's list of models, and a version that is not right never appears in one.

    An engine that does not answer is passed over and tended when it is back; nothing here waits for it.
    Engines are spoken to in parallel, each by one thread at a time. owner: six hexadecimal digits that tell
    this controller's private names from another's, so that two of them do not refuse each other's candidates.
    """

    def __init__(
        self, engines: Sequence[EngineClient], registry: Registry, limits: ParityLimits, owner: str = ""
    ) -> None:
        self._private = f"{PRIVATE}{owner}-" if owner else PRIVATE
        self._engines = [_Engine(client) for client in engines]
        self._registry = registry
        self._limits = limits
        self._threads = ThreadPoolExecutor(len(self._engines), thread_name_prefix="engine")

    def look(self) -> None:
        """Ask every engine what it serves. A restarted one has lost its adapters and shows so here."""
        self._each(lambda engine: engine.look())

    def forget(self) -> None:
        """Know nothing of the engines any more, because another controller tends them now."""
        for engine in self._engines:
            engine.forget()

    @property
    def is_up(self) -> bool:
        """Whether any engine answered."""
        return any(engine.loaded is not None for engine in self._engines)

    @property
    def versions(self) -> set[str]:
        """All versions that any engine has, and private names that a controller died with."""
        return {v for e in self._engines for v in e.loaded or () if is_version(_PRIVATE.sub("", v))}

    def adapters_loaded(self) -> dict[str, int]:
        """Per engine URL, how many of our adapters it has."""
        return {e.client.url: sum(map(is_version, e.loaded or ())) for e in self._engines}

    def proofs(self) -> dict[tuple[str, str], Proof]:
        """By engine URL and version."""
        return {(e.client.url, v): proof for e in self._engines for v, proof in e.proofs.items()}

    def rejections(self) -> dict[str, int]:
        """Per engine URL, how often an adapter was not right for it or on it."""
        return {e.client.url: e.rejections for e in self._engines}

    def parity_of(self, version: str) -> Parity | None:
        """A version's comparison on the engine where it came nearest to a limit; None where it is ready on
        none."""
        found = [e.proofs[version].parity for e in self._engines if version in e.proofs]
        return max(found, key=lambda parity: parity.ratio, default=None)

    # -- loading ----------------------------------------------------------------------------------------

    def prepare(self, version: str, now: float) -> list[Problem]:
        """Load and probe a version on every engine that lacks it, and probe again where that is long ago.

        Gives what is wrong with it, per engine; the engine does not have it then.
        """
        found = self._each(lambda engine: self._prepare_on(engine, version, now))
        return [problem for problem in found if problem is not None]

    def _prepare_on(self, engine: _Engine, version: str, now: float) -> Problem | None:
        if engine.loaded is None:
            return None
        proof = engine.proofs.get(version)
        if proof is not None and now - proof.at < PROOF_SECONDS:
            return None
        problem, since = engine.refused.get(version, (None, now))
        if problem is not None and now - since < RETRY_SECONDS:
            return problem
        try:
            problem = self._install(engine, version, now)
        except EngineDown as error:
            engine.lost(error)
            return None
        except EngineError as error:
            if proof is not None and engine.has(version):
                logger.warning("%s could not be proven anew: %s", version, error)
                return None  # an error is no other weights; the next look tries again
            problem = Problem(engine.client.url, f"an engine refused it: {error}", {})
        if problem is None:
            engine.refused.pop(version, None)
        else:
            engine.refused[version] = (problem, now)
            engine.rejections += 1
            logger.error("%s is not served by %s: %s", version, engine.client.url, problem.sentence)
        return problem

    def _install(self, engine: _Engine, version: str, now: float) -> Problem | None:
        """Prove a version on an engine, loading it if need be; unload what is wrong. Raises `EngineError`."""
        try:
            manifest = self._registry.verify(version)  # before each load: the files may have changed since
            path = str(self._registry.path(version).resolve())
        except RegistryError as error:
            self._forget(engine, version)
            return Problem(engine.client.url, str(error), {})
        if not any(probe.token_ids for probe in manifest.probes):
            self._forget(engine, version)
            return Problem(engine.client.url, "its manifest has no probes, so no engine can be checked", {})
        if not engine.has(version):
            private = self._private + version
            self._forget(engine, private)  # of a controller that died between the lines below
            started = time.monotonic()
            engine.load(private, path)
            problem = self._probe(engine, private, manifest, now)
            if problem is not None:
                return problem
            self._load(engine, version, path)
            engine.unload(private)
            logger.info("loaded %s on %s in %.3f s", version, engine.client.url, time.monotonic() - started)
        return self._probe(engine, version, manifest, now)

    def _load(self, engine: _Engine, version: str, path: str) -> None:
        """Load a proven version under its name, unless another controller was faster."""
        try:
            engine.load(version, path)
        except EngineError:
            engine.look()
            if not engine.has(version):
                raise

    def _probe(self, engine: _Engine, name: str, manifest: Manifest, now: float) -> Problem | None:
        """Compare what an engine computes under a name with the manifest; unload the name if it differs."""
        parity = engine.compare(name, manifest.probes, self._limits)
        if parity.refusal is not None:
            self._forget(engine, name)
            sentence = f"{engine.client.url} does not compute what the trainer did: {parity.refusal}"
            numbers: dict[str, Number] = {
                "engine": engine.client.url,
                "tolerance_nats": self._limits.tolerance_nats,
                **parity.numbers,
            }
            return Problem(engine.client.url, sentence, numbers)
        if name == manifest.version:
            engine.proofs[name] = Proof(parity, manifest.files[WEIGHTS], now)
            if not parity.tells:
                logger.info("%s on %s: %s", name, engine.client.url, UNTOLD)
        return None

    def _forget(self, engine: _Engine, name: str) -> None:
        if engine.has(name):
            engine.unload(name)

    # -- unloading --------------------------------------------------------------------------------------

    def unload(self, versions: Iterable[str]) -> None:
        """Unload versions wherever they are; their files stay. What fails is tried again by the caller."""
        gone = list(versions)
        if gone:
            self._each(lambda engine: self._unload_from(engine, gone))

    def _unload_from(self, engine: _Engine, versions: list[str]) -> None:
        for version in versions:
            try:
                if engine.has(version):
                    engine.unload(version)
                    logger.info("unloaded %s from %s", version, engine.client.url)
            except EngineError as error:
                logger.warning("could not unload %s: %s", version, error)

    def _each(self, work: Callable[[_Engine], T]) -> list[T]:
        """Do something with every engine at once; the answers in their order."""
        if len(self._engines) == 1:
            return [work(self._engines[0])]
        return list(self._threads.map(work, self._engines))

    def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown()
        for engine in self._engines:
            engine.client.close()
