"""The order in which things happened to a vote: an older word that comes late says nothing any more."""

import asyncio

from feedback.shared import SharedStore, SharedUnavailable
from serve.http.errors import Unavailable

KEEP_SECONDS = 7 * 24 * 3600.0
"""How long a word about a vote is remembered; senders try for hours or days."""

_STORE_SECONDS = 1.0


class Order:
    """Remembers in the shared store when the newest thing that is known happened to each vote."""

    def __init__(self, store: SharedStore) -> None:
        self._store = store

    async def is_newest(self, vote: str, at: float) -> bool:
        """Whether nothing newer than `at` (Unix seconds) is known of a vote, by its id; from now on it is.

        What happened at the same instant is as new. Raises Unavailable: without the store an old webhook
        could undo a newer one, and its sender can try again.
        """
        try:
            async with asyncio.timeout(_STORE_SECONDS):
                return await asyncio.to_thread(self._take, f"webhook:{vote}", at)
        except (SharedUnavailable, TimeoutError) as error:
            raise Unavailable(
                "What came before cannot be looked up at the moment.", code="store_unavailable"
            ) from error

    def _take(self, key: str, at: float) -> bool:
        while True:
            known = self._store.get(key)
            if known is not None and float(known) > at:
                return False
            if self._store.swap(key, known, repr(at).encode(), KEEP_SECONDS):
                return True
