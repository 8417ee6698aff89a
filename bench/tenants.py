"""What a caller can tell of others: of a tenant's prompts by the prefix cache, of the arm by anything.

cached   on a real engine, tenant B asks what tenant A has asked: how many tokens were cached for B, and
         for A a second time, beside the same asked of vLLM directly
time     B asks prompts of which A asked half a moment before, and guesses which by the time to the answer;
         beside it one with another key of A's own tenant, who may find them
arm      users of half canary and half control, whose answers are the same; a caller who may vote guesses
         the arm by all that an answer shows, after learning from as many whose arm was told. 10,000 chats on
         the tests' engine, and some hundred on a real one with two adapters
"""

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from safetensors.numpy import save_file

from bench._keys import Holder, hand_out
from bench._servers import Server, engine, fake_engine, gateway
from bench._telling import auc, guessed
from deploy.engines.client import EngineClient
from deploy.history.releases import Decision, entry
from deploy.history.states import ReleaseState
from deploy.history.table import RoutingTable
from feedback.core.events import COMPLETIONS, Completion
from feedback.core.replay import replay
from feedback.sqlite.log import SqliteLog
from hearken.models.tiny import ensure_tiny

CONTROL, CANARY = "policy-1-aaaaaaaa", "policy-2-bbbbbbbb"
_WORDS = 150  # of a prompt: some hundred tokens, of which the cache has blocks of 32
_VOCABULARY = (
    "parcel",
    "kettle",
    "refund",
    "invoice",
    "account",
    "monday",
    "street",
    "order",
    "please",
    "broken",
)
_IDS = 40  # characters of an answer's id that are looked at
_AT_A_TIME = 4


@dataclass(slots=True)
class Caller:
    """Somebody with a key; without one, somebody who asks the engine itself."""

    http: aiohttp.ClientSession
    url: str
    key: str | None = None

    async def ask(self, content: str, **fields: Any) -> tuple[aiohttp.ClientResponse, bytes, float]:
        """The answer, its body, and the seconds that it took. Raises RuntimeError for another status."""
        model = "base" if self.key is None else "hearken"
        body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 1, **fields}
        headers = {} if self.key is None else {"authorization": f"Bearer {self.key}"}
        started = time.perf_counter()
        async with self.http.post(self.url + "/v1/chat/completions", json=body, headers=headers) as response:
            raw = await response.read()
            if response.status != 200:
                raise RuntimeError(f"{response.status} {raw[:500]!r}")
            return response, raw, time.perf_counter() - started

    async def cached(self, content: str) -> tuple[int, int]:
        """How many tokens of a prompt were cached, and how many it has."""
        _, raw, _ = await self.ask(content)
        usage = json.loads(raw)["usage"]
        return (usage["prompt_tokens_details"] or {"cached_tokens": 0})["cached_tokens"], usage[
            "prompt_tokens"
        ]


def prompt(draw: random.Random) -> str:
    """Words that nobody has asked before."""
    return " ".join([f"{draw.randrange(10**9)}", *draw.choices(_VOCABULARY, k=_WORDS)])


async def cached(a: Caller, b: Caller, vllm: Caller, count: int) -> dict[str, float]:
    """What is cached for whom."""
    draw, found = random.Random(1), {"b": 0, "again": 0.0, "direct": 0.0}
    for _ in range(count):
        text, direct = prompt(draw), prompt(draw)
        await a.ask(text)
        found["b"] += (await b.cached(text))[0]
        for name, caller, asked in (("again", a, text), ("direct", vllm, direct)):
            if caller is vllm:
                await vllm.ask(asked)
            hit, of = await caller.cached(asked)
            found[name] += hit / of / count
    return {
        "cached_tokens_of_a_for_b": found["b"],
        "hit_rate_within_a_tenant": round(found["again"], 3),
        "hit_rate_of_vllm_directly": round(found["direct"], 3),
    }


async def told_by_time(asks: Caller, guesses: Caller, count: int) -> float:
    """The AUC by which one caller tells from the time whether the other one has asked a prompt."""
    draw = random.Random(2)
    seen: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(count):
        text, other = prompt(draw), prompt(draw)
        was_asked = draw.random() < 0.5
        await asks.ask(text if was_asked else other)
        _, _, seconds = await guesses.ask(text)
        seen[was_asked].append(-seconds)
    return auc(seen[True], seen[False])


async def arms(voter: Caller, data: Path, count: int, content: str) -> tuple[float, float]:
    """How often the arm is guessed rightly, and the AUC of the time alone."""
    rows: list[tuple[str, list[float]]] = []
    numbers = iter(range(count))

    async def one_after_the_other() -> None:
        for number in numbers:
            response, raw, seconds = await voter.ask(
                content, user=f"user-{number}", temperature=0, max_tokens=8, ignore_eos=True
            )
            rows.append(_seen(response, raw, seconds))

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_A_TIME):
            group.create_task(one_after_the_other())
    true = _true_arms(data)
    truth = np.array([float(true[completion_id] == "canary") for completion_id, _ in rows])
    features = np.array([numbers for _, numbers in rows])
    slow, quick = features[truth > 0.5, 0], features[truth < 0.5, 0]
    return guessed(features, truth), auc(slow.tolist(), quick.tolist())


def _seen(response: aiohttp.ClientResponse, raw: bytes, seconds: float) -> tuple[str, list[float]]:
    """An answer's id, and all that it shows as numbers: time, sizes, headers, the id, and its words."""
    body = json.loads(raw)
    completion_id = str(body["id"])
    headers = {name.lower(): value for name, value in response.headers.items()}
    token = body["hearken"]["feedback_token"]
    shown = json.dumps({**body, "id": "", "created": 0, "hearken": ""}, sort_keys=True)
    numbers = [seconds, len(raw), len(headers), sum(map(len, headers.values())), len(token)]
    numbers += [float(sum(map(ord, shown)) % 997), float(len(shown))]
    numbers += [float(ord(letter)) for letter in completion_id.rjust(_IDS)[-_IDS:]]
    numbers += [float(ord(letter)) for letter in token.rjust(2 * _IDS)[: 2 * _IDS]]
    numbers += [float(ord(letter)) for letter in headers.get("x-request-id", "").rjust(_IDS)[:_IDS]]
    return completion_id, numbers


def _true_arms(data: Path) -> dict[str, str]:
    log = SqliteLog(data / "log.db")
    found: dict[str, str] = {}
    for records, _ in replay(log, [COMPLETIONS], {}):
        for record in records:
            event = Completion.model_validate_json(record.value)
            found[event.completion_id] = event.arm
    log.close()
    return found


def send_half_to_the_canary(data: Path) -> None:
    """Put a table in force, as the controller does: half of the users canary, half control."""
    table = RoutingTable(epoch=1, salt="s", live=CONTROL, control=CONTROL, canary=CANARY, weight=0.5)
    log = SqliteLog(data / "log.db")
    decision = Decision(
        event_id="bench",
        at=time.time(),
        number=1,
        fence=0,
        outcome="started",
        stage_before="idle",
        stage_after="canary",
        table=table,
        sentence="A benchmark decided.",
        state=ReleaseState(table=table, lives=("base",)),
    )
    log.append([entry(decision)]).result()
    log.close()


def adapter(folder: Path, model: Path) -> Path:
    """An adapter that changes nothing: its answers are the base's, whatever its name."""
    shape = json.loads((model / "config.json").read_text())
    width, modules = shape["hidden_size"], ("q_proj", "o_proj")
    tensors: dict[str, Any] = {}
    for layer in range(shape["num_hidden_layers"]):
        for module in modules:
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{name}.lora_A.weight"] = np.ones((8, width), np.float32)
            tensors[f"{name}.lora_B.weight"] = np.zeros((width, 8), np.float32)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": modules, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder


def keys_of(data: Path) -> dict[str, str]:
    """Keys of tenants a and b that may only chat, another one of a, and one of a voter."""
    chatting = [Holder("a", "a"), Holder("a2", "a"), Holder("b", "b")]
    return hand_out(data, [*chatting, Holder("voter", "c", ("chat", "feedback"))])


async def _until_known(caller: Caller) -> None:
    """The gateway looks at its files every second or two."""
    for _ in range(100):
        try:
            await caller.ask("hi")
        except RuntimeError:
            await asyncio.sleep(0.2)
        else:
            return
    raise RuntimeError("the gateway does not know its keys and its table")


async def on_the_real_one(front: Server, vllm: Server, folder: Path, options: Any) -> dict[str, float]:
    """The parts that need a real engine."""
    data = folder / "real" / "data"
    keys = keys_of(data)
    async with aiohttp.ClientSession() as http:
        a, a2, b, voter = (Caller(http, front.url, keys[name]) for name in ("a", "a2", "b", "voter"))
        await _until_known(voter)
        found = await cached(a, b, Caller(http, vllm.url), options.prompts)
        found["auc_other_tenant"] = round(await told_by_time(a, b, options.trials), 3)
        found["auc_same_tenant"] = round(await told_by_time(a, a2, options.trials), 3)
        same = adapter(folder / "adapter", ensure_tiny())
        client = EngineClient(vllm.url)
        for version in (CONTROL, CANARY):
            client.load(version, str(same))
        client.close()
        send_half_to_the_canary(data)
        await asyncio.sleep(3)
        await _until_known(voter)
        right, by_time = await arms(voter, data, options.real_chats, "Where is my parcel?")
    return found | {"arm_guessed_real": round(right, 3), "arm_auc_of_time_real": round(by_time, 3)}


async def on_the_fake_one(front: Server, data: Path, options: Any) -> dict[str, float]:
    """The part that needs many chats."""
    keys = keys_of(data)
    send_half_to_the_canary(data)
    await asyncio.sleep(3)
    async with aiohttp.ClientSession() as http:
        voter = Caller(http, front.url, keys["voter"])
        await _until_known(voter)
        right, by_time = await arms(voter, data, options.chats, "say:It is on its way.")
    return {"chats": options.chats, "arm_guessed": round(right, 3), "arm_auc_of_time": round(by_time, 3)}


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; its last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m bench tenants", description=__doc__.partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=50, help="that both tenants ask (default: 50)")
    parser.add_argument("--trials", type=int, default=300, help="of guesses by time (default: 300)")
    parser.add_argument("--chats", type=int, default=10_000, help="on the tests' engine (default: 10000)")
    parser.add_argument("--real-chats", type=int, default=600, help="on the real engine (default: 600)")
    options = parser.parse_args(argv)
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory(prefix="hearken-bench-") as scratch:
        folder = Path(scratch)
        (folder / "real").mkdir()
        (folder / "fake").mkdir()
        with (
            fake_engine(folder, "fake-engine", CONTROL, CANARY, cores=cores) as fake,
            gateway(folder / "fake", fake.url, cores=cores) as front,
        ):
            found = asyncio.run(on_the_fake_one(front, folder / "fake" / "data", options))
        print(json.dumps(found), flush=True)
        if options.trials:
            with (
                engine(folder, "engine", cores=cores) as vllm,
                gateway(folder / "real", vllm.url, cores=cores) as front,
            ):
                found |= asyncio.run(on_the_real_one(front, vllm, folder, options))
    print(json.dumps(found))
    return 0
