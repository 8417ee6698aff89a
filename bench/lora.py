"""What an adapter costs on a CPU engine: LoRA against base, with hearken's plugin and with stock vLLM.

Both engines run on one core and take turns in short rounds. The adapter is made as the learner makes one: of
rank 8, on all seven linear layers of every block. `prefill` is prompts of some 400 tokens and answers of one.
"""

import argparse
import asyncio
import json
import os
import random
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from bench._servers import Server, engine, split_cores
from bench._streams import ask_all
from deploy.engines.client import EngineClient
from hearken.models.tiny import ensure_tiny

SIDES = {"ours": {}, "stock": {"VLLM_PLUGINS": ""}}  # environment: stock vLLM loads no plugins
ADAPTER = "policy-1-bench"
MODELS = ("base", ADAPTER)
LOADS = {  # answers of one turn, streams, turns of a round
    "c1": (1, 1, 8),
    "c8": (16, 8, 1),
    "c32": (64, 32, 1),
    "prefill": (16, 4, 1),
}
_WORDS = ("parcel", "order", "refund", "invoice", "account", "address", "login", "password", "delivery")


@dataclass(slots=True)
class Tally:
    """Tokens and seconds of one side, model and load, over all rounds."""

    tokens: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


Tallies = dict[tuple[str, str, str], Tally]


def make_adapter(folder: Path) -> None:
    """An adapter that changes the model a little, in the learner's own format."""
    import torch

    from learner.model.shared import POLICY, SharedModel

    model = SharedModel(str(ensure_tiny()))
    draw = torch.Generator().manual_seed(0)
    model.load_adapter_state(
        POLICY,
        {
            name: value if ".lora_A." in name else 0.01 * torch.randn(value.shape, generator=draw)
            for name, value in model.adapter_state(POLICY).items()
        },
    )
    model.save_policy(folder)


def chat(words: int, max_tokens: int, draw: random.Random) -> dict[str, Any]:
    """A chat with a prompt of its own."""
    content = " ".join(draw.choices(_WORDS, k=words))
    return {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": max_tokens,
        "ignore_eos": True,
    }


async def measure(servers: dict[str, Server], rounds: int) -> Tallies:
    """Every side and model in turn, under every load; the first round only warms up."""
    draw = random.Random(0)
    tallies: Tallies = defaultdict(Tally)
    for number in range(rounds + 1):
        for load, (count, streams, turns) in LOADS.items():
            for turn in range(turns if number else 1):
                words, most = (200, 1) if load == "prefill" else (8, 64)
                chats = [chat(words, most, draw) for _ in range(count)]
                pairs = [(side, model) for side in SIDES for model in MODELS]
                start = (number + turn) % len(pairs)
                for side, model in pairs[start:] + pairs[:start]:
                    asked = [each | {"model": model} for each in chats]
                    answers, seconds = await ask_all(servers[side].port, asked, streams)
                    if number:
                        tally = tallies[side, model, load]
                        tally.tokens += sum(a.prompt_tokens if most == 1 else a.tokens for a in answers)
                        tally.seconds += seconds
    return tallies


def report(tallies: Tallies) -> dict[str, float]:
    """Print what was measured; the numbers that count."""
    found = {}
    print(f"{'load':8} {'engine':6} {'base tokens/s':>14} {'LoRA tokens/s':>14} {'ratio':>6}")
    for load in LOADS:
        for side in SIDES:
            base, lora = (tallies[side, model, load].rate for model in MODELS)
            print(f"{load:8} {side:6} {base:14.0f} {lora:14.0f} {lora / base:6.2f}")
            found[f"{'stock_' if side == 'stock' else ''}ratio_{load}"] = round(lora / base, 3)
    return found


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; its last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m bench lora", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="rounds of all sides (default: 2)")
    arguments = parser.parse_args(argv)
    engine_cores, our_cores = split_cores()
    with tempfile.TemporaryDirectory(prefix="hearken-bench-") as scratch, ExitStack() as running:
        folder = Path(scratch)
        make_adapter(folder / ADAPTER)
        servers = {}
        for side, environment in SIDES.items():
            print(f"# {side}: {environment or 'with the plugin'}")
            servers[side] = running.enter_context(
                engine(folder, side, cores=engine_cores, environment=environment)
            )
            with closing(EngineClient(servers[side].url)) as client:
                client.load(ADAPTER, str(folder / ADAPTER))
        os.sched_setaffinity(0, our_cores)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            tallies = runner.run(measure(servers, arguments.rounds))
    print(json.dumps(report(tallies)))
    return 0
