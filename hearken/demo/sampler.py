"""The demo's samples: the same question, asked of the base and of the live policy now and then."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from deploy.engines.client import EngineClient, EngineError
from feedback.core.events import BASE
from hearken.base.conversation import Conversation, shown
from hearken.demo.evaluate import sample, tokenize
from hearken.demo.worlds import World

SAMPLE_SECONDS = 20.0


class Sampler:
    """Asks base and live the same question now and then, in the background."""

    def __init__(self, client: EngineClient, world: World, seed: int) -> None:
        self.newest: tuple[str, str, str] | None = None
        self._engine = client
        self._max_tokens = world.longest_answer
        self._conversations = world.prompts(1000, seed + 3, held_out=True)
        self._pool = ThreadPoolExecutor(1)
        self._asked: Future[tuple[str, str, str]] | None = None
        self._next_at = 0.0

    def refresh(self, version: str) -> None:
        """Take the answers that are there, and ask again when it is time."""
        if self._asked is not None and self._asked.done():
            with suppress(EngineError, OSError):  # an engine that restarts has nothing to say
                self.newest = self._asked.result()
            self._asked = None
        if self._asked is None and time.monotonic() >= self._next_at and self._conversations:
            self._next_at = time.monotonic() + SAMPLE_SECONDS
            self._asked = self._pool.submit(self._ask, version, self._conversations.pop())

    def close(self) -> None:
        """Ask no more; an answer that is still to come interests nobody."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, version: str, conversation: Conversation) -> tuple[str, str, str]:
        ids = tokenize(self._engine.url, [conversation])
        base = sample(self._engine, BASE, ids, self._max_tokens)[0].text
        live = base if version == BASE else sample(self._engine, version, ids, self._max_tokens)[0].text
        return shown(conversation), base, live
