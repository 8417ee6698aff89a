"""What people ask for once, by the prompt alone and held to by a grammar. `python -m bench wishes`.

Two gateways, one after the other, in front of one real engine, by default of SmolLM2-135M-Instruct where it
is set up: one with `preference_hold = never`, whose engine has the wish in the prompt and no more, one with
the default. Forty people each ask for one thing (`bench/_wishes.py`) and then three questions, greedily. Half
of the wishes are for choosing a way (`tuned`), half for measuring it, with other questions (`held_out`);
their readings were looked at, so for a blind test write new ones.
Printed for each: `obeyed_share`, of the answers that a check finds obeyed. The aim is .8.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench._servers import engine, gateway
from bench._wishes import HELD_OUT, TUNED, Wish
from bench.preferences import QUESTIONS, Service, chosen

OTHER_QUESTIONS = ("Why is the sky blue?", "How do I learn to swim?", "Tell me about London.")
HALVES = {"tuned": (TUNED, QUESTIONS), "held_out": (HELD_OUT, OTHER_QUESTIONS)}
WAYS = {"prompt": "never", "held": "without_system"}


def asked(service: Service, user: str, wish: Wish, questions: Sequence[str], temperature: float) -> list[str]:
    """What a person gets who asks for something once, and then questions."""
    service.wants(user, wish.text)
    return [
        service.ask(user, question, temperature=temperature, seed=i, max_tokens=96)
        for i, question in enumerate(questions)
    ]


def measured(service: Service, half: str, temperature: float, pool: ThreadPoolExecutor) -> float:
    """The share of answers that do what was asked for; each wish in a line."""
    wishes, questions = HALVES[half]
    told = [
        pool.submit(asked, service, f"{half}-{i}", wish, questions, temperature)
        for i, wish in enumerate(wishes)
    ]
    done = []
    for wish, answers in zip(wishes, told, strict=True):
        found = [wish.is_done(answer) for answer in answers.result()]
        done += found
        print(f"{sum(found)} of {len(found)}  {wish.text}  {answers.result()[0][:60]!r}", flush=True)
    return round(sum(done) / len(done), 3)


def main(argv: list[str]) -> int:
    """Run it and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m bench wishes", description=__doc__)
    parser.add_argument("--model", type=Path, help="a model's folder; SmolLM2, or the tiny model without it")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--at-once", type=int, default=12, help="people who ask at the same time")
    arguments = parser.parse_args(argv)
    model = chosen(arguments.model)
    cores = sorted(os.sched_getaffinity(0))
    shares: dict[str, dict[str, float]] = {}
    seconds: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory() as scratch,
        ThreadPoolExecutor(arguments.at_once) as pool,
        engine(Path(scratch), "engine", cores=cores, model=model, extra=("--dtype", "bfloat16")) as server,
    ):
        for way, hold in WAYS.items():
            folder = Path(scratch, way)
            folder.mkdir()
            flags = ("--preference-hold", hold)
            with gateway(folder, server.url, cores=cores, flags=flags) as front:
                began, service = time.perf_counter(), Service(front.url)
                shares[way] = {half: measured(service, half, arguments.temperature, pool) for half in HALVES}
                seconds[way] = round(time.perf_counter() - began, 1)
    figures = {"model": model.name, "temperature": arguments.temperature, "seconds": seconds}
    print(json.dumps({**figures, "obeyed_share": shares}))
    return 0
