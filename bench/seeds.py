"""Requests with seeds on a CPU engine whose steps have few tokens, so that prompts are computed in parts.

Long and short prompts, many at a time, all with a seed; then some of them again, one at a time and twice. It
is counted how many are answered, and how many of the answers alone are those of the crowd, and of each other.
An engine that died is not started again.
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from bench._servers import engine, split_cores
from deploy.engines.client import EngineClient, EngineError, Sample
from hearken.machine.engine import context_length, resolve_model
from hearken.models.tiny import ensure_tiny

SHORT, LONG = (4, 40), 0.75  # tokens of a short prompt; a long one's, as a share of the context


def draw_prompts(count: int, context: int, vocabulary: int, draw: random.Random) -> list[list[int]]:
    """Prompts of random tokens, every third of them long, no two alike."""
    longest = round(LONG * context)
    lengths = [
        draw.randint(longest // 3, longest) if i % 3 == 0 else draw.randint(*SHORT) for i in range(count)
    ]
    return [[draw.randrange(8, vocabulary) for _ in range(length)] for length in lengths]


def alone(
    client: EngineClient, prompts: list[list[int]], seeds: Sequence[int], max_tokens: int
) -> list[Sample]:
    """An answer to each prompt, each asked for when the one before is there."""
    return [
        client.sample("base", [prompt], max_tokens=max_tokens, seeds=[seed])[0]
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]


def equal(some: Sequence[Sample], others: Sequence[Sample]) -> int:
    """How many answers are the same, token by token."""
    return sum(one.token_ids == other.token_ids for one, other in zip(some, others, strict=True))


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; its last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m bench seeds", description=__doc__)
    parser.add_argument("--model", help="folder of the base model (default: the tiny one)")
    parser.add_argument("--requests", type=int, default=1000, help="requests, 64 at a time (default: 1000)")
    parser.add_argument("--again", type=int, default=100, help="of which alone (default: 100)")
    parser.add_argument("--max-tokens", type=int, default=32, help="of an answer (default: 32)")
    parser.add_argument("--context", type=int, help="tokens that prompts are made for (default: the model's)")
    parser.add_argument(
        "--budget", type=int, default=256, help="tokens of a step of the engine (default: 256)"
    )
    parser.add_argument("--dtype", default="float32", help="of the engine's weights (default: float32)")
    arguments = parser.parse_args(argv)
    model = ensure_tiny() if arguments.model is None else resolve_model(arguments.model)
    context = arguments.context or context_length(model)
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    draw = random.Random(0)
    prompts = draw_prompts(arguments.requests, context, vocabulary, draw)
    seeds = [draw.randrange(2**31) for _ in prompts]
    engine_cores, our_cores = split_cores()
    flags = ["--max-num-batched-tokens", str(arguments.budget), "--max-num-seqs", "64"]
    flags += ["--dtype", arguments.dtype]
    with (
        tempfile.TemporaryDirectory(prefix="hearken-bench-") as scratch,
        engine(Path(scratch), "engine", cores=engine_cores, extra=flags, model=model) as server,
        closing(EngineClient(server.url)) as client,
    ):
        os.sched_setaffinity(0, our_cores)
        started = time.monotonic()
        try:
            crowd = client.sample("base", prompts, max_tokens=arguments.max_tokens, seeds=seeds)
        except EngineError as error:
            print((Path(scratch) / "engine.log").read_text()[-3000:])
            print(json.dumps({"requests": len(prompts), "error": str(error)}))
            return 1
        seconds = time.monotonic() - started
        print(f"# {len(crowd)} answers in {seconds:.1f} s", flush=True)
        few = draw.sample(range(len(prompts)), arguments.again)
        asked = [prompts[i] for i in few], [seeds[i] for i in few], arguments.max_tokens
        once, twice = alone(client, *asked), alone(client, *asked)
    found = {
        "requests": len(prompts),
        "answered": len(crowd),
        "prompt_tokens": sum(map(len, prompts)),
        "in_parts": sum(len(prompt) > arguments.budget for prompt in prompts),  # at the least
        "seconds": round(seconds, 1),
        "again": len(few),
        "as_in_the_crowd": equal([crowd[i] for i in few], once),
        "as_alone_before": equal(once, twice),
    }
    print(json.dumps(found))
    return 0
