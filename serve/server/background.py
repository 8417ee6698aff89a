"""Tasks that run as long as the application serves."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager

log = logging.getLogger(__name__)


class Background:
    """The tasks of one application."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def has_ended(self) -> bool:
        """Whether one of them is over, which none should ever be."""
        return any(task.done() for task in self._tasks)

    @asynccontextmanager
    async def running(self, work: Iterable[Coroutine[None, None, None]]) -> AsyncIterator[None]:
        """Run tasks while the block lasts."""
        self._tasks = [asyncio.create_task(each) for each in work]
        for task in self._tasks:
            task.add_done_callback(_report_end)
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)


def _report_end(task: asyncio.Task[None]) -> None:
    """A task that ends by itself is a bug, and must not go unseen."""
    if not task.cancelled():
        log.critical("a background task has ended", exc_info=task.exception())
