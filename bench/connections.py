"""What clients that misuse their connections cost the others, at a real gateway in a process of its own.

    header    one sends a header of 100 MB: after how much it is cut, and what /livez takes meanwhile
    half      5,000 connections that begin a request and say no more: how long until all of them are gone
    readers   128 clients ask for long streams and read nothing, which holds every place: what a chat waits;
              the first one takes places from those who have stopped for a second

Behind the gateway is the tests' engine, which costs next to nothing. Each part is measured beside the same
without the misuse.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from bench._servers import Server, fake_engine, gateway
from bench._streams import percentile

_PAUSE_SECONDS = 0.005
_BEGINS = (b"", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nx-a: b\r\n")
_LARGE = "large"  # 5 MB of stream: tests/serve/fake_vllm.py
_STOPPED_SECONDS = 20.0
_LOOK_SECONDS, _QUIET_SHARE, _MOST_SECONDS = 3.0, 0.02, 180.0
_PATIENT = ("--set", "gateway.bounds.write_seconds=600")  # none is cut before a chat needs its place


def send_header(port: int, megabytes: int, told: Any) -> None:
    """Send one header of so many megabytes; tell what was answered, and how many bytes went out."""
    sent = 0
    with socket.create_connection(("127.0.0.1", port)) as plain:
        plain.sendall(b"GET /livez HTTP/1.1\r\nx-long: ")
        with contextlib.suppress(OSError):
            while sent < megabytes * 10**6:
                sent += plain.send(b"a" * 65536)
        plain.settimeout(5)
        answer = b""
        with contextlib.suppress(OSError):
            answer = plain.recv(65536)
    told.put((answer[9:12].decode(), sent))


async def waits(ask: Callable[[], Awaitable[object]], until: Callable[[], bool]) -> list[float]:
    """The seconds of requests, one after the other, until a condition holds."""
    found = []
    while not until():
        started = time.perf_counter()
        await ask()
        found.append(time.perf_counter() - started)
        await asyncio.sleep(_PAUSE_SECONDS)
    return found


def in_seconds(seconds: float) -> Callable[[], bool]:
    """A condition that holds after so long."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() >= end


def worst_ms(seconds: list[float]) -> float:
    """The longest of some waits, in milliseconds."""
    return round(1e3 * max(seconds), 1)


class Client:
    """A well-behaved client."""

    def __init__(self, http: aiohttp.ClientSession, front: Server) -> None:
        self._http = http
        self.front = front

    async def livez(self) -> None:
        """Raises ClientError when the gateway is not alive."""
        async with self._http.get(self.front.url + "/livez") as response:
            response.raise_for_status()

    async def chat(self) -> None:
        """Raises ClientError when it was not answered."""
        body = {"model": "hearken", "messages": [{"role": "user", "content": "hi"}]}
        async with self._http.post(self.front.url + "/v1/chat/completions", json=body) as response:
            await response.read()
            response.raise_for_status()


async def header(client: Client, megabytes: int) -> dict[str, Any]:
    """A long header, sent by a process of its own."""
    alone = await waits(client.livez, in_seconds(3))
    context = multiprocessing.get_context("spawn")
    told = context.SimpleQueue()
    sender = context.Process(target=send_header, args=(client.front.port, megabytes, told))
    sender.start()
    meanwhile = await waits(client.livez, lambda: not sender.is_alive())
    status, sent = told.get()
    return {
        "header_status": status,
        "header_bytes_sent": sent,
        "livez_alone_ms": worst_ms(alone),
        "livez_during_header_ms": worst_ms(meanwhile),
        "livez_during_header_p99_ms": round(1e3 * percentile(meanwhile, 0.99), 1),
    }


async def half_open(client: Client, count: int) -> dict[str, Any]:
    """Connections that never complete their request."""
    ages: list[float] = []

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.front.port)
        opened = time.perf_counter()
        writer.write(_BEGINS[number % len(_BEGINS)])
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass
        ages.append(time.perf_counter() - opened)
        writer.close()

    started = time.perf_counter()
    asking = asyncio.create_task(waits(client.livez, lambda: len(ages) == count))
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))
            if number % 100 == 99:
                await asyncio.sleep(0.01)  # the queue of connections to be accepted is short
    took = time.perf_counter() - started
    return {
        "half_open": len(ages),
        "half_open_gone_s": round(took, 1),
        "half_open_longest_s": round(max(ages), 1),
        "livez_during_half_open_ms": worst_ms(await asking),
    }


async def until_quiet(front: Server) -> float:
    """Return when a gateway has no work; the seconds until then. Buffers on the way to readers fill first."""
    started = time.perf_counter()
    spent = front.cpu_seconds()
    while time.perf_counter() - started < _MOST_SECONDS:
        await asyncio.sleep(_LOOK_SECONDS)
        before, spent = spent, front.cpu_seconds()
        if spent - before < _QUIET_SHARE * _LOOK_SECONDS:
            break
    return time.perf_counter() - started


async def readers(client: Client, count: int) -> dict[str, Any]:
    """Clients that stop reading."""
    alone = await waits(client.chat, in_seconds(3))
    body = {"model": "hearken", "messages": [{"role": "user", "content": _LARGE}], "stream": True}
    raw = json.dumps(body).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            plain = stack.enter_context(socket.socket())
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plain.connect(("127.0.0.1", client.front.port))
            plain.sendall(head + b"content-length: %d\r\n\r\n" % len(raw) + raw)
        settled = await until_quiet(client.front)
        meanwhile = await waits(client.chat, in_seconds(_STOPPED_SECONDS))
    return {
        "readers": count,
        "readers_stopped_after_s": round(settled, 1),
        "chats": len(meanwhile),
        "chat_alone_ms": worst_ms(alone),
        "chat_beside_readers_ms": worst_ms(meanwhile),
        "chat_beside_readers_p50_ms": round(1e3 * percentile(meanwhile, 0.5), 1),
    }


async def measure(front: Server, options: argparse.Namespace) -> dict[str, Any]:
    """All parts, one after the other."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        client = Client(http, front)
        await client.chat()
        found: dict[str, Any] = {}
        for part in (
            header(client, options.megabytes),
            half_open(client, options.half_open),
            readers(client, options.readers),
        ):
            seen = await part
            print(json.dumps(seen), flush=True)
            found |= seen
        return found


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; its last line is one JSON object."""
    parser = argparse.ArgumentParser(
        prog="python -m bench connections", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--megabytes", type=int, default=100, help="of the header (default: 100)")
    parser.add_argument("--half-open", type=int, default=5000, help="connections (default: 5000)")
    parser.add_argument("--readers", type=int, default=128, help="that stop (default: 128)")
    options = parser.parse_args(argv)
    cores = os.sched_getaffinity(0)
    with (
        tempfile.TemporaryDirectory(prefix="hearken-bench-") as scratch,
        fake_engine(Path(scratch), "engine", cores=cores) as fake,
        gateway(Path(scratch), fake.url, cores=cores, flags=_PATIENT) as front,
    ):
        found = asyncio.run(measure(front, options))
    print(json.dumps(found))
    return 0
