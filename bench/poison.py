"""What bodies that make engines fail do to others: two real engines, a victim, and an attacker with a key.

    alone     a tenant's chats, two at a time, before and after the attack
    attacked  the same while another tenant's key sends 50 bodies a second that engines fail, or work on for
              long (bench/_poisons.py), each written a little differently, so that no cache knows it; with
              `--wishes WORDS` a chat of a new user each, whose list of preferences leaves out so many words
    killed    one engine is killed; how long until the gateway counts it out, and what the tenant notices

`--draw N` looks for such bodies instead: it sends N that are drawn, by a key without limits, and prints those
that were not answered as a chat is.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import string
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from bench._keys import Holder, hand_out
from bench._poisons import FOUND, KNOWN, Body, again, drawn
from bench._servers import Server, engine, gateway
from bench._streams import percentile
from serve.auth.limits import Limits

SLOW_SECONDS = 1.0
_STREAMS = 2
_TOKENS = 24
_BODIES = [*KNOWN.values(), *FOUND.values()]
_PATIENCE_SECONDS = 60.0
_BREAKER = re.compile(r'^hearken_engine_breaker\{engine="(\S+)"\} (\S+)$', re.MULTILINE)


@dataclass(slots=True)
class Heard:
    """What one caller was answered: statuses with their error codes, and the seconds of each."""

    answers: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def unavailable(self) -> int:
        """How many answers were a 503."""
        return sum(count for answer, count in self.answers.items() if answer.startswith("503"))


@dataclass(slots=True)
class Caller:
    """Somebody with a key."""

    http: aiohttp.ClientSession
    url: str
    key: str

    async def chat(self, content: str, fields: Body, heard: Heard) -> tuple[str, float]:
        """Ask, and note what came and how long it took."""
        message = {"role": "user", "content": content}
        body = {"model": "hearken", "messages": [message], "max_tokens": _TOKENS, **fields}
        started = time.perf_counter()
        try:
            async with self.http.post(
                self.url + "/v1/chat/completions",
                json=body,
                headers={"authorization": f"Bearer {self.key}"},
                timeout=aiohttp.ClientTimeout(_PATIENCE_SECONDS),
            ) as response:
                raw = await response.read()
                code = "" if response.status == 200 else f" {json.loads(raw)['error']['code']}"
                answer = f"{response.status}{code}"
        except (TimeoutError, aiohttp.ClientError) as error:
            answer = type(error).__name__
        took = time.perf_counter() - started
        heard.answers[answer] += 1
        heard.seconds.append(took)
        return answer, took

    async def poison(self, number: int, heard: Heard) -> None:
        """Send one of the bodies."""
        await self.chat(f"x {number}", again(_BODIES[number % len(_BODIES)], number), heard)

    async def wish_and_chat(self, words: int, number: int, heard: Heard) -> None:
        """Chat as a user of its own who leaves out so many words, which nobody else does."""
        user, draw = f"u{number}", random.Random(number)
        entries = ["Write exactly 20 sentences."]
        if words:
            left_out = ("".join(draw.choices(string.ascii_lowercase, k=8)) for _ in range(words))
            entries.append("Never say " + ", ".join(f"'{word}'" for word in left_out))
        headers = {"authorization": f"Bearer {self.key}"}
        url = f"{self.url}/v1/users/{user}/preferences"
        async with self.http.put(url, json={"entries": entries}, headers=headers) as response:
            if response.status == 200:
                await self.chat(f"x {number}", {"user": user}, heard)
            else:
                heard.answers[f"{response.status} to the list"] += 1

    async def breakers(self) -> dict[str, float]:
        """The state of each engine's breaker: 0 closed, 2 open."""
        headers = {"authorization": f"Bearer {self.key}"}
        async with self.http.get(self.url + "/metrics", headers=headers) as response:
            text = await response.text()
        return {url: float(state) for url, state in _BREAKER.findall(text)}


async def chats(caller: Caller, heard: Heard, stop: asyncio.Event) -> None:
    """A tenant's chats, some at a time, until told to stop."""

    async def one_after_the_other(name: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await caller.chat(f"Where is my parcel {name}/{number}?", {"ignore_eos": True}, heard)

    await asyncio.gather(*map(one_after_the_other, range(_STREAMS)))


async def for_seconds(caller: Caller, seconds: float) -> Heard:
    """What a tenant hears who chats for so long."""
    heard, stop = Heard(), asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, stop.set)
    await chats(caller, heard, stop)
    return heard


async def attack(
    send: Callable[[int, Heard], Coroutine[Any, Any, None]], per_second: float, seconds: float
) -> Heard:
    """Send one numbered request after the other at a fixed rate, whatever comes back."""
    heard, started = Heard(), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(per_second * seconds)):
            await asyncio.sleep(max(0.0, started + number / per_second - time.perf_counter()))
            group.create_task(send(number, heard))
    return heard


async def worst_breakers(operator: Caller, stop: asyncio.Event) -> float:
    """The worst state of any breaker until told to stop."""
    worst = 0.0
    while not stop.is_set():
        worst = max([worst, *(await operator.breakers()).values()])
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.25)
    return worst


async def all_closed(operator: Caller) -> None:
    """Return when all engines are in use. Raises RuntimeError when they never are."""
    for _ in range(600):
        if set((await operator.breakers()).values()) == {0.0}:
            return
        await asyncio.sleep(0.1)
    raise RuntimeError("an engine is not in use")


async def kill(victim: Caller, operator: Caller, doomed: Server) -> tuple[float, Heard]:
    """Kill an engine while a tenant chats; the seconds until its breaker is open, and what was heard."""
    heard, stop = Heard(), asyncio.Event()
    chatting = asyncio.create_task(chats(victim, heard, stop))
    await asyncio.sleep(1)
    os.killpg(doomed.pid, signal.SIGKILL)
    died = time.perf_counter()
    while (await operator.breakers())[doomed.url] != 2:
        if time.perf_counter() - died > _PATIENCE_SECONDS:
            break
        await asyncio.sleep(0.01)
    took = time.perf_counter() - died
    await asyncio.sleep(2)
    stop.set()
    await chatting
    return took, heard


async def look(caller: Caller, count: int, seed: int) -> dict[str, Any]:
    """Send drawn bodies; print the shortest that failed or took long."""
    draw, heard = random.Random(seed), Heard()
    found: dict[str, list[tuple[int, str]]] = {}
    for number in range(count):
        fields = drawn(draw)
        answer, took = await caller.chat(f"y {number}", fields, heard)
        usual = answer == "200" or (answer.startswith("4") and "unprocessable" not in answer)
        if not usual or took > SLOW_SECONDS:
            text = json.dumps(fields)
            kind = f"{answer} {'slow' if took > SLOW_SECONDS else ''}"
            found.setdefault(kind, []).append((len(text), f"{took:.1f} s {text}"))
    for kind, bodies in found.items():
        for _, line in sorted(bodies)[:20]:
            print(kind, line)
    return {"sent": count, **heard.answers}


async def measure(
    front: Server, engines: Sequence[Server], keys: dict[str, str], options: Any
) -> dict[str, Any]:
    """All phases, one after the other."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        victim, attacker, operator = (
            Caller(http, front.url, keys[name]) for name in ("victim", "attacker", "operator")
        )
        await all_closed(operator)
        if options.draw:
            return await look(Caller(http, front.url, keys["unlimited"]), options.draw, options.seed)
        await for_seconds(victim, 3)  # warm
        before = await for_seconds(victim, options.seconds / 2)
        stop = asyncio.Event()
        watching = asyncio.create_task(worst_breakers(operator, stop))
        chatting = asyncio.create_task(for_seconds(victim, options.seconds))
        send = attacker.poison
        if options.wishes is not None:
            send = partial(attacker.wish_and_chat, options.wishes)
        sent = await attack(send, options.rate, options.seconds)
        during = await chatting
        stop.set()
        worst = await watching
        after = await for_seconds(victim, options.seconds / 2)
        killed_seconds, at_kill = await kill(victim, operator, engines[0])
    alone = before.seconds + after.seconds
    print(f"attacker: {dict(sent.answers)}")
    for name, heard in (("before", before), ("attacked", during), ("after", after), ("killed", at_kill)):
        p50, p99 = (f"{1e3 * percentile(heard.seconds, share):.0f}" for share in (0.5, 0.99))
        print(f"victim {name}: {dict(heard.answers)}, p50 {p50} ms, p99 {p99} ms")
    return {
        "bodies": len(_BODIES) if options.wishes is None else 0,
        "p99_ratio": round(percentile(during.seconds, 0.99) / percentile(alone, 0.99), 2),
        "p50_ratio": round(percentile(during.seconds, 0.5) / percentile(alone, 0.5), 2),
        "victim_503": sum(heard.unavailable() for heard in (before, during, after)),
        "victim_failed": sum(sum(h.answers.values()) - h.answers["200"] for h in (before, during, after)),
        "attacker_503": sent.unavailable(),
        "worst_breaker": worst,
        "killed_open_s": round(killed_seconds, 3),
        "killed_victim_failed": sum(at_kill.answers.values()) - at_kill.answers["200"],
    }


def keys_of(data: Path) -> dict[str, str]:
    """Keys for all who call: two tenants, an operator, and one without limits."""
    return hand_out(
        data,
        [
            Holder("victim", "victim", limits=Limits()),
            Holder("attacker", "attacker", limits=Limits()),
            Holder("operator", "operator", ("operate",), Limits()),
            Holder("unlimited", "unlimited"),
        ],
    )


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; its last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m bench poison", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="of the attack (default: 60)")
    parser.add_argument("--rate", type=float, default=50, help="bodies a second (default: 50)")
    parser.add_argument(
        "--wishes",
        type=int,
        metavar="WORDS",
        help="attack by lists of preferences that leave out so many words each (a line has room for 15)",
    )
    parser.add_argument("--draw", type=int, default=0, help="look for bodies among so many")
    parser.add_argument("--seed", type=int, default=0, help="what is drawn (default: 0)")
    options = parser.parse_args(argv)
    cores = os.sched_getaffinity(0)
    with (
        tempfile.TemporaryDirectory(prefix="hearken-bench-") as scratch,
        engine(Path(scratch), "one", cores=cores) as one,
        engine(Path(scratch), "two", cores=cores) as two,
        gateway(Path(scratch), one.url, cores=cores, flags=("--engine", two.url)) as front,
    ):
        keys = keys_of(Path(scratch) / "data")
        time.sleep(3)  # until the gateway has seen them
        found = asyncio.run(measure(front, (one, two), keys, options))
    print(json.dumps(found))
    return 0
