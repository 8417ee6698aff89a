"""The engines of the service: which adapters they have, and bringing them the ones that they need."""

import logging
import math
from collections.abc import Iterable, Sequence

from deploy.engine import EngineClient, EngineDown, EngineError
from deploy.manifest import Manifest
from deploy.registry import Registry, RegistryError, seq_of

logger = logging.getLogger(__name__)


class _Engine:
    """One engine as it was when it was last looked at."""

    def __init__(self, client: EngineClient) -> None:
        self.client = client
        self.loaded: set[str] | None = None  # None: it does not answer
        self.parity_nats: dict[str, float] = {}  # of the adapters that were probed since they were loaded

    def look(self) -> None:
        try:
            self.loaded = set(self.client.models())
        except EngineError as error:
            if self.loaded is not None:
                logger.warning("engine away: %s", error)
            self.loaded = None
        self.parity_nats = {v: nats for v, nats in self.parity_nats.items() if v in (self.loaded or ())}

    def load(self, version: str, path: str) -> None:
        if self.loaded is not None and version not in self.loaded:
            self.client.load(version, path)
            self.loaded.add(version)
            logger.info("loaded %s on %s", version, self.client.url)


class Fleet:
    """All engines. An adapter is ready on one that loaded it and reproduces the trainer's logprobs.

    An engine that does not answer is passed over and tended when it is back; nothing here waits for it.
    """

    def __init__(self, engines: Sequence[EngineClient], registry: Registry, tolerance_nats: float) -> None:
        self._engines = [_Engine(client) for client in engines]
        self._registry = registry
        self._tolerance_nats = tolerance_nats
        self._unused_since: dict[str, float] = {}

    def look(self) -> None:
        """Ask every engine what it serves. A restarted one has lost its adapters and shows so here."""
        for engine in self._engines:
            engine.look()

    @property
    def is_up(self) -> bool:
        """Whether any engine answered."""
        return any(engine.loaded is not None for engine in self._engines)

    def adapters_loaded(self) -> dict[str, int]:
        """Per engine URL, how many of our adapters it has."""
        return {e.client.url: sum(map(bool, map(seq_of, e.loaded or ()))) for e in self._engines}

    def parity_nats(self) -> dict[str, float]:
        """Per engine URL, the largest difference of any adapter that it has."""
        return {e.client.url: max(e.parity_nats.values(), default=0.0) for e in self._engines}

    def prepare(self, version: str) -> str | None:
        """Load and probe a version wherever it is missing. Gives what is wrong with it, or None."""
        missing = [e for e in self._engines if e.loaded is not None and version not in e.parity_nats]
        if missing:
            try:
                manifest = self._registry.verify(version)
            except RegistryError as error:
                return str(error)
            if not any(probe.token_ids for probe in manifest.probes):
                return "its manifest has no probes, so no engine can be checked"
            for engine in missing:
                problem = self._install(engine, manifest)
                if problem is not None:
                    return problem
        return self._mismatch(version)

    def parity_of(self, version: str) -> float | None:
        """The largest difference (nats) of a version on any engine; None where it is ready on none."""
        return max((e.parity_nats[version] for e in self._engines if version in e.parity_nats), default=None)

    def _install(self, engine: _Engine, manifest: Manifest) -> str | None:
        version = manifest.version
        try:
            engine.load(version, str(self._registry.path(version).resolve()))
            engine.parity_nats[version] = engine.client.parity(version, manifest.probes)
        except EngineDown as error:
            logger.warning("engine away: %s", error)
            engine.loaded, engine.parity_nats = None, {}
        except EngineError as error:
            return f"an engine refused it: {error}"
        return None

    def _mismatch(self, version: str) -> str | None:
        for engine in self._engines:
            nats = engine.parity_nats.get(version, 0.0)
            if math.isnan(nats) or nats > self._tolerance_nats:
                return (
                    f"{engine.client.url} does not compute what the trainer did: logprobs differ by up to "
                    f"{nats:.4g} nats, {self._tolerance_nats:g} is allowed"
                )
        return None

    def unload_unused(self, used: Iterable[str], now: float, drain_seconds: float) -> None:
        """Unload our adapters that have been out of use for `drain_seconds`; their files stay."""
        spare = {v for e in self._engines for v in e.loaded or () if seq_of(v)} - set(used)
        self._unused_since = {v: self._unused_since.get(v, now) for v in spare}
        for version, since in self._unused_since.items():
            if now - since >= drain_seconds:
                self._each_unload(version)

    def _each_unload(self, version: str) -> None:
        for engine in self._engines:
            if version not in (engine.loaded or ()):
                continue
            try:
                engine.client.unload(version)
                logger.info("unloaded %s from %s", version, engine.client.url)
            except EngineError as error:
                logger.warning("could not unload %s: %s", version, error)
                continue
            if engine.loaded is not None:
                engine.loaded.discard(version)
            engine.parity_nats.pop(version, None)

    def close(self) -> None:
        """Close the connections."""
        for engine in self._engines:
            engine.client.close()
