"""One engine of the service: what it has, and bringing it a version that it has to prove first."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from deploy.engines.client import EngineClient, EngineDown, EngineError
from deploy.engines.fetcher import Fetcher
from deploy.engines.parity import (
    FIRST,
    ROUNDS_ONCE,
    UNTOLD,
    Parity,
    ParityLimits,
    can_round,
    compare,
    exactly,
)
from deploy.history.states import Number
from deploy.registry.errors import RegistryAway, RegistryError
from deploy.registry.files import WEIGHTS
from deploy.registry.manifest import Manifest, Probe
from deploy.registry.registry import Registry
from feedback.core.events import BASE

logger = logging.getLogger(__name__)

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
    """Why a version does not serve on an engine.

    kind: "files" are the same for every engine; "parity" is what this one computes; "error" is that it did
    not do what it was asked, which may pass; "away" is that its files cannot be had now, which is nobody's
    fault.
    """

    engine: str  # its URL
    sentence: str
    numbers: dict[str, Number]
    kind: Literal["files", "parity", "error", "away"]


class OneEngine:
    """One engine as it was when it was last looked at. private: what its private names begin with.
    fetcher: what brings it files; None: it reads the registry's folder. loaded: called in its thread when a
    version was loaded and proven that it did not have, with the seconds that this took.

    One thread at a time works on it; others may read what it knows at any time, so sets and dicts are
    replaced and never changed.
    """

    def __init__(
        self,
        client: EngineClient,
        registry: Registry,
        limits: ParityLimits,
        private: str,
        fetcher: Fetcher | None = None,
        loaded: Callable[[float], object] = lambda seconds: None,
    ) -> None:
        self.client = client
        self.loaded: frozenset[str] | None = None  # None: it does not answer
        self.proofs: dict[str, Proof] = {}  # of the versions that it has, and was probed with
        self.refused: dict[str, tuple[Problem, float]] = {}  # and when
        self.away: dict[str, str] = {}  # versions whose files cannot be had now, and why
        self.rejections = 0
        self._registry = registry
        self._fetcher = fetcher
        self._tell_loaded = loaded
        self._limits = limits
        self._private = private
        self._base: dict[tuple[int, ...], list[float]] = {}  # its base's logprobs of probes

    @property
    def url(self) -> str:
        """Where it is."""
        return self.client.url

    def has(self, name: str) -> bool:
        """Whether it has a name loaded."""
        return name in (self.loaded or ())

    def look(self) -> None:
        """Ask it what it serves. One that was restarted has lost its adapters and shows so here."""
        try:
            self.loaded = frozenset(self.client.models())
        except EngineError as error:
            self._lost(error)
            return
        loaded = self.loaded
        self.proofs = {v: proof for v, proof in self.proofs.items() if v in loaded}

    def _lost(self, error: EngineError) -> None:
        """It does not answer: whatever it has when it is back is unknown."""
        if self.loaded is not None:
            logger.warning("engine away: %s", error)
        self.forget()

    def forget(self) -> None:
        """Know nothing of it any more."""
        self.loaded, self.proofs, self.refused, self.away, self._base = None, {}, {}, {}, {}

    def prepare(self, version: str, now: float, digest: str | None = None) -> Problem | None:
        """Load and prove a version where it is missing, and prove it again where that is long ago.

        Gives what is wrong with it; the engine does not have it then. now: seconds. digest: of its manifest.
        """
        if self.loaded is None:
            return None
        proof = self.proofs.get(version)
        if proof is not None and now - proof.at < PROOF_SECONDS:
            return None
        problem, since = self.refused.get(version, (None, now))
        if problem is not None and now - since < RETRY_SECONDS:
            return problem
        try:
            problem = self._install(version, now, digest)
        except EngineDown as error:
            self._lost(error)
            return None
        except RegistryAway as error:
            return self._without_files(version, error)
        except EngineError as error:
            if proof is not None and self.has(version):
                logger.warning("%s could not be proven anew: %s", version, error)
                return None  # an error is no other weights; the next look tries again
            problem = Problem(self.url, f"an engine refused it: {error}", {}, "error")
        self.away = {v: why for v, why in self.away.items() if v != version}
        self._note(version, problem, now)
        return problem

    def _without_files(self, version: str, why: RegistryAway) -> Problem | None:
        """What serves goes on without them; what does not waits for them. Told once."""
        if self.away.get(version) != str(why):
            logger.warning("%s waits on %s: %s", version, self.url, why)
        self.away = self.away | {version: str(why)}
        if version in self.proofs and self.has(version):
            return None
        return Problem(self.url, f"its files cannot be had now: {why}", {}, "away")

    def _note(self, version: str, problem: Problem | None, now: float) -> None:
        others = {v: known for v, known in self.refused.items() if v != version}
        if problem is None:
            self.refused = others
            return
        self.refused = others | {version: (problem, now)}
        self.rejections += 1
        logger.error("%s is not served by %s: %s", version, self.url, problem.sentence)

    def _install(self, version: str, now: float, digest: str | None) -> Problem | None:
        """Prove a version, loading it if need be; unload what is wrong.

        Raises `EngineError` and `RegistryAway`.
        """
        try:
            manifest, path = self._bring_files(version, digest)
        except RegistryError as error:
            self._unload_if_there(version)
            return Problem(self.url, str(error), {}, "files")
        if not any(probe.token_ids for probe in manifest.probes):
            self._unload_if_there(version)
            return Problem(self.url, "its manifest has no probes, so no engine can be checked", {}, "files")
        if not self.has(version):
            private = self._private + version
            self._unload_if_there(private)  # of a controller that died between the lines below
            started = time.monotonic()
            self._load(private, path)
            problem = self._probe(private, manifest, now)
            if problem is not None:
                return problem
            self._load_proven(version, path)
            self._unload(private)
            seconds = time.monotonic() - started
            self._tell_loaded(seconds)
            logger.info("loaded %s on %s in %.3f s", version, self.url, seconds)
        return self._probe(version, manifest, now)

    def _bring_files(self, version: str, digest: str | None) -> tuple[Manifest, str]:
        """A version's manifest, and where the engine finds its files.

        They are read before each load, for they may have changed since the last one.
        """
        if self._fetcher is None:
            manifest = self._registry.verify(version, digest)
            return manifest, str(self._registry.path(version).resolve())
        manifest = self._registry.manifest(version, digest)
        return manifest, self._fetcher.bring(version, digest or self._registry.manifest_digest(version))

    def _load_proven(self, version: str, path: str) -> None:
        """Load a proven version under its name, unless another controller was faster."""
        try:
            self._load(version, path)
        except EngineError:
            self.look()
            if not self.has(version):
                raise

    def _probe(self, name: str, manifest: Manifest, now: float) -> Problem | None:
        """Compare what the engine computes under a name with the manifest; unload the name if it differs."""
        parity = self._compare(name, manifest.probes)
        if parity.refusal is not None:
            self._unload_if_there(name)
            sentence = f"{self.url} does not compute what the trainer did: {parity.refusal}"
            numbers: dict[str, Number] = {
                "engine": self.url,
                "tolerance_nats": self._limits.tolerance_nats,
                **parity.numbers,
            }
            return Problem(self.url, sentence, numbers, "parity")
        if name == manifest.version:
            self.proofs = self.proofs | {name: Proof(parity, manifest.files[WEIGHTS], now)}
            if not parity.tells:
                logger.info("%s on %s: %s", name, self.url, UNTOLD)
        return None

    def _compare(self, name: str, probes: Sequence[Probe]) -> Parity:
        """What the engine computes under a name against the trainer. In float32 a few probes say all."""
        if not can_round(probes):
            return exactly(probes, self.client.probe(name, probes), self._limits)
        few = exactly(probes[:FIRST], self.client.probe(name, probes[:FIRST]), self._limits)
        if few.refusal is None:
            return few
        once = ROUNDS_ONCE in self.client.version()
        return compare(probes, self.client.probe(name, probes), self._of_base(probes), self._limits, once)

    def _of_base(self, probes: Sequence[Probe]) -> list[list[float]]:
        """The engine's own logprobs without an adapter. All versions have the same probes, and an engine
        computes them once in its life."""
        keys = [(len(p.prompt_token_ids), *p.prompt_token_ids, *p.token_ids) for p in probes]
        known = self._base
        new = [(key, probe) for key, probe in zip(keys, probes, strict=True) if key not in known]
        if new:
            found = self.client.probe(BASE, [probe for _, probe in new])
            known = known | {key: row for (key, _), row in zip(new, found, strict=True)}
            self._base = known
        return [known[key] for key in keys]

    def unload(self, versions: Iterable[str]) -> None:
        """Unload versions; what fails is left for another time."""
        for version in versions:
            try:
                if self.has(version):
                    self._unload(version)
                    logger.info("unloaded %s from %s", version, self.url)
            except EngineError as error:
                logger.warning("could not unload %s: %s", version, error)

    def _load(self, name: str, path: str) -> None:
        self.client.load(name, path)
        loaded = self.loaded
        if loaded is not None:
            self.loaded = loaded | {name}

    def _unload(self, name: str) -> None:
        self.client.unload(name)
        self.proofs = {v: proof for v, proof in self.proofs.items() if v != name}
        loaded = self.loaded
        if loaded is not None:
            self.loaded = loaded - {name}

    def _unload_if_there(self, name: str) -> None:
        if self.has(name):
            self._unload(name)
