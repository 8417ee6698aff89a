"""What a gateway does from its start to its end, besides answering requests."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI

from serve.gateway.health import HealthApi
from serve.gateway.wiring import Gate, Model, Records
from serve.imports.api import Imports
from serve.server.background import Background


def lifespan_of(
    background: Background, gate: Gate, records: Records, model: Model, imports: Imports, health: HealthApi
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """The application's lifespan: runs background tasks while it serves, then closes services."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await model.upstream.open()
        await asyncio.to_thread(health.look_at_vault)
        try:
            async with background.running(_work(gate, records, model)):
                yield
        finally:
            await model.chat.close()
            records.receipts.close()
            model.conversations.close()
            await asyncio.to_thread(imports.close)
            await asyncio.to_thread(records.sealer.close)  # what waits for a key is in the log then
            await model.upstream.close()

    return lifespan


def _work(gate: Gate, records: Records, model: Model) -> Iterator[Coroutine[None, None, None]]:
    yield model.follower.follow()
    yield model.leases.renew()
    yield model.hints.follow()
    yield gate.access.follow()
    yield gate.metering.settle()
    yield records.receipts.follow()
    yield model.fleet.watch()
