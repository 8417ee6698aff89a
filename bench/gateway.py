"""What the gateway costs: chats streamed through it against the same vLLM asked directly.

The engine has one core; the gateway (a real process with its log on disk) and the load generator share
another. Four sides take turns in short rounds, so that a machine that drifts drifts for all of them:

    direct   a plain client of vLLM: what the gateway's user would have without it
    exact    vLLM asked for what the gateway asks it for: ids and logprobs of every sampled token
    single   a client of the gateway that wants every token in an event of its own (`stream_interval: 1`)
    gateway  the same plain client, through the gateway

A ratio of throughputs is the median over the turns, each of which asks all sides for the same chats, so that
something else which the machine does for a few seconds spoils one turn and not the result.

`exact` tells apart what the log's exactness costs the engine from what the gateway costs, `single` what the
gateway wins back by asking a busy engine for several tokens an event. The ratio that counts is
gateway / direct: what users get with the gateway, over what they would get without it.

With `--before CHECKOUT`, a folder with another commit, there is a fifth side, that commit's gateway on the
same core before the same engine: what a change costs, with both sides in one run.
"""

import argparse
import asyncio
import json
import os
import random
import tempfile
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from bench._servers import Server, engine, gateway, split_cores
from bench._streams import Answer, ask_all, percentile

SIDES = ("direct", "exact", "single", "gateway", "before")
THROUGH_GATEWAY = ("single", "gateway", "before")
LOADS = {  # streams: answers of one turn, tokens of an answer, turns of a round
    1: (4, (8, 24), 30),  # what is added to a first token is a small difference: many short turns
    8: (24, (128, 384), 3),
    32: (96, (128, 384), 3),
}
_QUESTIONS = (
    "Where is my parcel?",
    "I cannot log in to my account.",
    "How do I get a refund for my order?",
    "My invoice shows the wrong address.",
    "Can you cancel my subscription today?",
)
_EXTRA: dict[str, dict[str, Any]] = {
    "exact": {"logprobs": True, "return_token_ids": True},
    "single": {"stream_interval": 1},
}


@dataclass(slots=True)
class Tally:
    """What one side did at one number of streams, over all rounds."""

    answers: list[Answer] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of the gateway
    rates: list[float] = field(default_factory=list)  # tokens per second of each turn

    @property
    def tokens(self) -> int:
        return sum(answer.tokens for answer in self.answers)

    @property
    def events(self) -> int:
        return sum(answer.events for answer in self.answers)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    def ttft_ms(self, share: float) -> float:
        return 1e3 * percentile([answer.ttft_seconds for answer in self.answers], share)


Tallies = dict[tuple[int, str], Tally]


def chats(count: int, draw: random.Random, tokens: tuple[int, int]) -> list[dict[str, Any]]:
    """Chats with answers of so many tokens, least to most, drawn: streams do not start and end together."""
    return [
        {
            "messages": [{"role": "user", "content": f"{draw.choice(_QUESTIONS)} {draw.randrange(10**6)}"}],
            "max_tokens": draw.randint(*tokens),
            "ignore_eos": True,
        }
        for _ in range(count)
    ]


def sides_of(streams: int, measured: Collection[str]) -> tuple[str, ...]:
    """The sides of those measured that are asked with so many streams.

    With one stream the gateway sends every token by itself anyway.
    """
    return tuple(side for side in SIDES if side in measured and (streams > 1 or side != "single"))


def as_sent(side: str, chat: dict[str, Any]) -> dict[str, Any]:
    """A chat as a side sends it."""
    return chat | {"model": "hearken" if side in THROUGH_GATEWAY else "base"} | _EXTRA.get(side, {})


async def measure(servers: Mapping[str, Server], rounds: int) -> Tallies:
    """All sides in turn, at each number of streams; each is asked of its server."""
    draw = random.Random(0)
    tallies: Tallies = defaultdict(Tally)
    for side, server in servers.items():
        await ask_all(server.port, [as_sent(side, chat) for chat in chats(32, draw, (64, 64))], 32)  # warm
    for number in range(rounds):
        for streams, (count, tokens, turns) in LOADS.items():
            for turn in range(turns):
                asked = chats(count, draw, tokens)
                sides = sides_of(streams, servers)
                start = (number + turn) % len(sides)
                order = sides[start:] + sides[:start]
                for side in order:
                    tally = tallies[streams, side]
                    server = servers[side]
                    cpu = server.cpu_seconds()
                    sent = [as_sent(side, chat) for chat in asked]
                    answers, seconds = await ask_all(server.port, sent, streams)
                    tally.answers += answers
                    tally.seconds += seconds
                    tally.rates.append(sum(answer.tokens for answer in answers) / seconds)
                    tally.cpu_seconds += server.cpu_seconds() - cpu
            rates = ", ".join(f"{s} {tallies[streams, s].tokens_per_second:.0f}" for s in sides)
            print(f"after round {number + 1}, tokens/s at {streams} streams: {rates}", flush=True)
    return tallies


def paired_ratio(tallies: Tallies, streams: int, side: str, other: str) -> float:
    """Throughput of a side over another's: the median of the turns, which ask both for the same chats."""
    paired = zip(tallies[streams, side].rates, tallies[streams, other].rates, strict=True)
    return median(ours / theirs for ours, theirs in paired)


def report(tallies: Tallies) -> dict[str, float]:
    """Print what was measured; the numbers that count."""
    print(
        f"{'streams':>7} {'side':8} {'tokens/s':>9} {'ttft p50':>9} {'p99 ms':>8} {'tokens/event':>13} "
        f"{'gateway us/token':>17}"
    )
    for (streams, side), tally in sorted(
        tallies.items(), key=lambda item: (item[0][0], SIDES.index(item[0][1]))
    ):
        cpu = f"{1e6 * tally.cpu_seconds / tally.tokens:17.1f}" if side in THROUGH_GATEWAY else ""
        print(
            f"{streams:7} {side:8} {tally.tokens_per_second:9.0f} {tally.ttft_ms(0.5):9.2f} "
            f"{tally.ttft_ms(0.99):8.2f} {tally.tokens / tally.events:13.2f} {cpu}"
        )
    found = {}
    measured = {side for _, side in tallies}
    for streams in LOADS:
        for side in sides_of(streams, measured)[1:]:
            name = "throughput" if side == "gateway" else side
            found[f"{name}_ratio_c{streams}"] = paired_ratio(tallies, streams, side, "direct")
        if "before" in measured:
            found[f"now_to_before_c{streams}"] = paired_ratio(tallies, streams, "gateway", "before")
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        added = tallies[1, "gateway"].ttft_ms(share) - tallies[1, "direct"].ttft_ms(share)
        found[f"added_ttft_{name}_ms"] = added
    busiest = tallies[32, "gateway"]
    found["gateway_cpu_us_per_token"] = 1e6 * busiest.cpu_seconds / busiest.tokens
    return {name: round(value, 3) for name, value in found.items()}


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; its last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m bench gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="rounds of all sides (default: 2)")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="another commit, measured beside")
    arguments = parser.parse_args(argv)
    engine_cores, our_cores = split_cores()
    with ExitStack() as running:
        scratch = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="hearken-bench-")))
        vllm = running.enter_context(engine(scratch, "engine", cores=engine_cores))
        front = running.enter_context(gateway(scratch / "now", vllm.url, cores=our_cores))
        servers = {"direct": vllm, "exact": vllm, "single": front, "gateway": front}
        if arguments.before is not None:
            servers["before"] = running.enter_context(
                gateway(scratch / "before", vllm.url, cores=our_cores, checkout=arguments.before.resolve())
            )
        os.sched_setaffinity(0, our_cores)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            tallies = runner.run(measure(servers, arguments.rounds))
    print(json.dumps(report(tallies)))
    return 0
