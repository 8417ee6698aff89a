"""What keys and limits cost a request: CPU of the gateway's process, without them and with them.

Each side does for every request what the gateway does before and after the work: find the caller, count
the request of the key, look at its tokens, count the request of one of 10,000 users, charge the tokens. Eight
requests are under way at a time.

    open    no key file
    keys    a key, all limits switched off
    local   a key with a limit of each kind, counted in the process
    redis   the same, counted in a Redis on loopback (left out where redis-server is not installed)
"""

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import uvloop
from starlette.requests import Request

from bench._ports import free_port
from serve.auth.access import Access
from serve.auth.keyfile import edit_keys
from serve.auth.keys import make_key
from serve.auth.limits import NO_LIMITS, UNSET, Limits
from serve.auth.metering import Metering
from serve.auth.windows import LocalWindows, RedisWindows, Windows
from serve.metrics import Metrics
from serve.server.observing import Visit

AT_A_TIME = 8
USERS = 10_000
TOKENS = 200  # of a request: prompt and answer
NEVER_REACHED = Limits(
    requests_per_minute=10**9,
    tokens_per_minute=10**12,
    user_requests_per_minute=10**9,
    votes_per_minute=10**9,
    concurrent_requests=10**6,
)


def main(argv: list[str]) -> int:
    """Print CPU microseconds per request for each side; the last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m bench access", description=main.__doc__)
    parser.add_argument("--requests", type=int, default=20_000, help="of each side and round")
    parser.add_argument("--rounds", type=int, default=3, help="the best one counts")
    arguments = parser.parse_args(argv)
    print(f"$ python -m bench access --requests {arguments.requests} --rounds {arguments.rounds}")
    with tempfile.TemporaryDirectory() as folder, redis_url() as url:
        sides = ["open", "keys", "local", *(["redis"] if url else [])]
        best = dict.fromkeys(sides, float("inf"))
        for _ in range(arguments.rounds):
            for side in sides:
                spent = uvloop.run(cost(side, Path(folder), url, arguments.requests))
                print(f"  {side:<6} {spent:7.1f} us of CPU per request", flush=True)
                best[side] = min(best[side], spent)
    shown = {f"{side}_us": round(spent, 1) for side, spent in best.items()}
    print(json.dumps(shown | {"limits_local_us": round(best["local"] - best["open"], 1)}))
    return 0


async def cost(side: str, folder: Path, url: str | None, requests: int) -> float:
    """CPU microseconds of one request."""
    metrics = Metrics()
    key, secret = make_key("bench", ["chat"], datetime.now(UTC))
    path = folder / f"{key.id}.json"
    if side != "open":
        edit_keys(path, lambda _: [key])
    access = Access(path, False, {"open": UNSET, "keys": NO_LIMITS}.get(side, NEVER_REACHED), metrics)
    windows: Windows = LocalWindows()
    if side == "redis":
        assert url is not None
        windows = RedisWindows(url, metrics.limits_alone)
    metering = Metering(windows, metrics)
    settling = asyncio.create_task(metering.settle())
    draw = random.Random(0)

    async def ask(n: int) -> None:
        for _ in range(n):
            header = (b"authorization", f"Bearer {secret}".encode())
            request = Request({"type": "http", "method": "POST", "headers": [header]})
            visit = Visit()
            caller = access.caller(request, "chat")
            if caller.limits is not NO_LIMITS:
                await metering.admit(caller, "chat", visit)
                await metering.admit_user(caller, f"user-{draw.randrange(USERS)}")
            metering.charge(caller, TOKENS)
            for call in visit.at_end:
                call()

    await ask(100)
    before = time.process_time()
    await asyncio.gather(*(ask(requests // AT_A_TIME) for _ in range(AT_A_TIME)))
    spent = time.process_time() - before
    settling.cancel()
    return spent / (requests // AT_A_TIME * AT_A_TIME) * 1e6


@contextmanager
def redis_url() -> Iterator[str | None]:
    """A Redis of our own on loopback while the block lasts; None where there is none to start."""
    if shutil.which("redis-server") is None:
        yield None
        return
    port = free_port()
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
    )
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait()
