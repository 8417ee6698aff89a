"""How far an import has come, in the shared store: sent again, the same body goes on from there.

The record has the time of the first try, from which ids and revisions follow. So what was written but not
noted any more is written again as the very same events, and counts once.
"""

import hashlib
import logging
import time
from dataclasses import dataclass

import orjson

from feedback.shared import SharedStore, SharedUnavailable

log = logging.getLogger(__name__)

KEEP_SECONDS = 24 * 3600


def import_id(tenant: str, digest: str, asked: object) -> str:
    """Names an import: the same contents with the same options for the same tenant."""
    said = orjson.dumps([tenant, digest, asked], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(said).hexdigest()


@dataclass(slots=True)
class Progress:
    """An import on its way. now: Unix time in seconds of its first try. written: examples in the log."""

    store: SharedStore
    key: str
    now: float
    written: int = 0

    @classmethod
    def begin(cls, store: SharedStore, import_id: str) -> "Progress":
        """Find how far an import has come, or note that it begins. Waits.

        A store that is away knows of nothing: what is written twice then counts once by its ids.
        """
        progress = cls(store, f"import:{import_id}", time.time())
        try:
            known = store.put_if_absent(progress.key, progress._entry(), KEEP_SECONDS)
        except SharedUnavailable as error:
            log.warning("the shared store is away, an import goes on without it: %s", error)
            return progress
        if known is not None:
            progress.now, progress.written = orjson.loads(known)
        return progress

    def note(self, written: int) -> None:
        """So many examples are durable. Waits."""
        self.written = written
        try:
            self.store.put(self.key, self._entry(), KEEP_SECONDS)
        except SharedUnavailable as error:
            log.warning("the shared store is away, an import goes on without it: %s", error)

    def _entry(self) -> bytes:
        return orjson.dumps([self.now, self.written])
