"""When an adapter that is out of use may be unloaded: nobody may still want it."""

from collections.abc import Collection

from deploy.history.leases import LEASE_SECONDS


class Drain:
    """Remembers since when each loaded version is out of use, and since when no gateway holds it.

    A version is due when tables and history have not needed it for `drain_seconds` and no lease has named
    it for `LEASE_SECONDS`: as long as a lease counts, so that a store that lost its memory has heard of
    every living gateway again. While leases are not known (see `deploy.history.leases.held`) it is due when
    it has not been needed for `blind_seconds`, which has to be more than the longest request takes.
    """

    def __init__(self, drain_seconds: float, blind_seconds: float) -> None:
        self._drain_seconds = drain_seconds
        self._blind_seconds = max(drain_seconds, blind_seconds)
        self._unused_since: dict[str, float] = {}
        self._unheld_since: dict[str, float] = {}

    def due(
        self, loaded: Collection[str], used: Collection[str], held: Collection[str] | None, now: float
    ) -> list[str]:
        """The versions to unload now. loaded: on any engine; used: by tables and history; now: seconds."""
        spare = set(loaded) - set(used)
        self._unused_since = {v: self._unused_since.get(v, now) for v in spare}
        free = spare - set(held) if held is not None else set()
        self._unheld_since = {v: self._unheld_since.get(v, now) for v in free}
        return sorted(v for v in spare if self._is_due(v, held is None, now))

    def _is_due(self, version: str, blind: bool, now: float) -> bool:
        unused_seconds = now - self._unused_since[version]
        if blind:
            return unused_seconds >= self._blind_seconds
        unheld_seconds = now - self._unheld_since.get(version, now)
        return unused_seconds >= self._drain_seconds and unheld_seconds >= LEASE_SECONDS
