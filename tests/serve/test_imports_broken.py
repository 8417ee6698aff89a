"""POST /v1/imports: everything is written once, whatever breaks on the way."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.datastructures import Headers, QueryParams

from feedback.core.ids import Signer
from feedback.core.log import LogUnavailable
from feedback.shared import SharedStore
from feedback.sqlite.log import SqliteLog
from serve.auth.caller import OPEN
from serve.http.errors import Unavailable
from serve.imports.api import MOST_BODIES, Imports
from tests.serve.conftest import SECRET, Gateway, Start, eventually
from tests.serve.imports import LINES, Row, counted, imported, lines, refusal, rows, send


def test_an_upload_that_breaks_off_has_done_nothing(importer: Gateway) -> None:
    body, before, place = lines(rows("upload", 500)), counted(importer), urlsplit(importer.url)
    head = f"POST /v1/imports HTTP/1.1\r\nhost: localhost\r\ncontent-type: {LINES}\r\n"
    with socket.create_connection((place.hostname, place.port)) as plain:
        plain.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[: len(body) // 2])
    left = 'hearken_requests_total{code="499",route="/v1/imports"}'
    eventually(lambda: importer.metric(left) == 1, "the gateway knows that the client has left")
    assert counted(importer) == before
    assert send(importer, body).json()["written"] == 500
    assert set((counted(importer) - before).values()) == {1}
    assert len(counted(importer)) == len(before) + 1000


class Held:
    """A log whose appends wait until `go` is set, from the second one on; then it fails if it is `broken`."""

    def __init__(self, log: SqliteLog, broken: bool = False) -> None:
        self._log, self.broken = log, broken
        self.go, self.reached, self._appends = Event(), Event(), 0

    def append(self, entries: Any) -> "Future[None]":
        self._appends += 1
        if self._appends > 1:
            self.reached.set()
            self.go.wait(60)
            if self.broken:
                raise LogUnavailable("a test has broken it")
        return self._log.append(entries)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


def test_a_log_that_fails_in_the_middle_is_told_and_the_rest_follows(
    start: Start, log: SqliteLog, command: tuple[str, ...]
) -> None:
    held = Held(log, broken=True)
    held.go.set()
    gateway, body = start(events=held, import_command=command), lines(rows("broken", 500))
    answer = send(gateway, body)
    assert refusal(answer, 503) == "log_unavailable"
    assert "100 examples are written" in answer.text
    assert len(counted(gateway)) == 200
    held.broken = False
    told = send(gateway, body).json()
    assert (told["written"], told["written_before"], told["imported"]) == (400, 100, {"thumbs": 500})
    assert len(counted(gateway)) == 1000
    assert set(counted(gateway).values()) == {1}
    assert len({vote.at for vote in gateway.votes()}) == 1  # what is sent again is the same import


def test_others_are_answered_while_an_import_runs(
    start: Start, log: SqliteLog, command: tuple[str, ...]
) -> None:
    held = Held(log)
    gateway = start(events=held, import_command=command)
    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(send, gateway, lines(rows("held", 500)))
        assert held.reached.wait(60)
        second = threads.submit(send, gateway, lines(rows("second")))
        assert gateway.http.get("/v1/models").status_code == 200
        assert not running.done()
        held.go.set()
        assert imported(running.result()) == {"thumbs": 500}
        assert imported(second.result()) == {"thumbs": 3}


def test_bodies_at_the_same_time_are_bounded(tmp_path: Path, log: SqliteLog, shared: SharedStore) -> None:
    imports = Imports(("false",), tmp_path, Signer(SECRET), log, shared, "none", 1000)
    headers = Headers({"content-type": LINES})

    async def story() -> None:
        begun: asyncio.Queue[None] = asyncio.Queue()

        async def never_ends() -> AsyncIterator[bytes]:
            begun.put_nowait(None)
            await asyncio.Event().wait()
            yield b""

        def post() -> Coroutine[Any, Any, Row]:
            return imports.post(headers, QueryParams(), never_ends(), OPEN)

        tasks = [asyncio.create_task(post()) for _ in range(MOST_BODIES)]
        for _ in tasks:
            await begun.get()
        with pytest.raises(Unavailable, match="Too many imports"):
            await asyncio.wait_for(post(), 10)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        more = asyncio.create_task(post())
        await asyncio.wait_for(begun.get(), 10)  # there is room again
        more.cancel()

    asyncio.run(story())


DIES = """
import os, pickle, sys
from hearken.data import import_worker
class Once:
    def write(self, data): sys.stdout.buffer.write(data)
    def flush(self): sys.stdout.buffer.flush(); os._exit(9)
import_worker.serve(sys.argv[1], sys.stdin.buffer, Once())
"""


def test_a_process_that_dies_ends_no_import(
    start: Start, tmp_path: Path, shared: SharedStore, command: tuple[str, ...]
) -> None:
    body = lines(rows("dies", 500))
    first = start(import_command=(sys.executable, "-c", DIES, command[-1]))
    answer = send(first, body)
    assert refusal(answer, 503) == "import_broken"
    assert "100 examples are written" in answer.text
    second = start(import_command=command)
    assert send(second, body).json()["written"] == 400
    assert set(counted(second).values()) == {1}
    assert len(counted(second)) == 1000


LITTLE = """
from hearken.data import import_worker
import_worker.MEMORY_BYTES = 50_000_000
import_worker.main()
"""


def test_a_body_that_takes_too_much_memory_is_refused_and_ends_nothing_else(start: Start) -> None:
    gateway = start(import_command=(sys.executable, "-c", LITTLE, "/nowhere"))
    small_objects = b"[" + b"[]," * 3_000_000 + b"[]]"
    assert refusal(send(gateway, small_objects, "application/json"), 413) == "import_too_large"
    assert refusal(send(gateway, lines([{"prompt": "x"}])), 400) == "nothing_imported"
