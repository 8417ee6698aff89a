"""The whole loop on one GPU: `python -m bench gpu_loop`.

A model of the shape of Qwen2.5-0.5B with random weights (`--model FOLDER` takes a real one), and everything
that hearken does with one: an engine (vLLM) and a learner (`learner.loop.learner.Learner`) that share the GPU
as `hearken up` lays it out; simulated raters compare answers; the reward model learns from that; PPO steps
with rollouts from the engine; the candidate is published with its probes; the engine loads it and is asked
for the probes' logprobs; and it goes live while chats are running. Gate and KL limits are open, so that a
candidate always comes about: this measures how fast, not how well.

Printed, the last line as JSON: tokens that the engine samples a second, seconds of a PPO step and its parts,
of a reward update and of the swap; chats that failed meanwhile; how far the engine's logprobs of the adapter
are from the trainer's (nats per token: mean, standard deviation, largest); memory as planned and as it was.

`--cpu-shape tiny` tries every line out on a CPU, with a model of 0.4 million parameters. `--engine URL` takes
an engine that is running already, with `--model` its model.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GIB = 1 << 30
CHATTERS = 4
CHAT_TOKENS = 24
OPEN_NATS = 1e9


@dataclass(slots=True)
class Clock:
    """Seconds that calls took, by what was called, and the tokens that were sampled."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Time every call of a method of one object from now on; it does what it did."""
        called = getattr(owner, method)

        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            found = called(*arguments, **named)
            self.seconds.setdefault(name, []).append(time.perf_counter() - started)
            if name == "rollout":
                self.tokens.append(sum(len(answer.token_ids) for answer in found))
            return found

        setattr(owner, method, timed)

    def median(self, name: str) -> float:
        """The median of a call's seconds, without the first, which warms up, if there are more."""
        taken = self.seconds[name]
        return statistics.median(taken[1:] or taken)


class Chats:
    """People who chat all the time with whatever is live; what fails is counted."""

    def __init__(self, url: str, prompts: Sequence[list[int]]) -> None:
        self.live = "base"
        self.failed: list[str] = []
        self.seconds: list[float] = []
        self._url, self._prompts = url, prompts
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._chat, args=(i,)) for i in range(CHATTERS)]

    def _chat(self, number: int) -> None:
        from deploy.engines.client import EngineClient, EngineError

        with closing(EngineClient(self._url)) as client:
            while not self._stop.is_set():
                started, prompt = time.perf_counter(), self._prompts[number % len(self._prompts)]
                number += CHATTERS
                try:
                    client.sample(self.live, [prompt], max_tokens=CHAT_TOKENS, priority=0)
                except EngineError as error:
                    self.failed.append(str(error))
                self.seconds.append(time.perf_counter() - started)

    def __enter__(self) -> "Chats":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, count: int) -> None:
        """Return when so many more chats are over."""
        wanted = len(self.seconds) + count
        while len(self.seconds) < wanted:
            time.sleep(0.01)


def run(
    url: str, model: Path, folder: Path, arguments: argparse.Namespace, memory: Callable[[], int]
) -> dict[str, float]:
    """Votes, a reward update, PPO steps, a candidate, its proof and the swap; what they took."""
    import torch

    from bench._raters import School, noisy_persona
    from deploy.decide.gate import GateLimits
    from deploy.registry.registry import Registry
    from hearken.base.conversation import asked
    from hearken.demo.evaluate import tokenize
    from hearken.models.support_desk import prompts
    from learner.model.machine import keep_freed_memory
    from learner.settings import LearnerSettings

    keep_freed_memory()
    folder.mkdir(parents=True)
    on_gpu = arguments.cpu_shape is None and torch.cuda.is_available()
    settings = LearnerSettings(
        data=folder,
        model=str(model),
        engine=url,
        min_labels=1,
        labels_per_update=1,
        rollouts_per_step=arguments.batch,
        steps_per_candidate=arguments.steps,
        max_tokens=arguments.max_tokens,
        gate_prompts=arguments.batch,
        kl_budget_nats=OPEN_NATS,
        kl_publish_nats=OPEN_NATS,
        gate=GateLimits(win_rate_low=0.0, prompts=1, length_ratio_low=1e-6, length_ratio_high=1e6),
        self_check=None,
    )
    clock, started = Clock(), time.perf_counter()
    with closing(School(settings, noisy_persona("friendly", 0.1))) as school:
        result = {"load_seconds": time.perf_counter() - started}
        learner = school.learner
        clock.watch(learner.sampler, "sample", "rollout")
        clock.watch(learner.optimiser, "measure", "measure")
        clock.watch(learner.optimiser, "step", "ppo")
        clock.watch(learner.scoring, "update", "reward_update")
        school.compare(prompts(arguments.votes, seed=1))
        for _ in range(3 * arguments.steps + 20):
            if learner.state.trial is not None:
                break
            if on_gpu:
                torch.cuda.synchronize()
            before, started = learner.place.steps, time.perf_counter()
            learner.turn(0.0)
            if learner.place.steps > before:
                clock.seconds.setdefault("step", []).append(time.perf_counter() - started)
            print(f"  {learner.place.steps} steps, {learner.state.updates} reward updates", flush=True)
        version = learner.state.trial
        if version is None:
            raise RuntimeError(f"no candidate came about: {learner.state}")
        chats = Chats(url, tokenize(url, [asked(question) for question in prompts(64, seed=2)]))
        with chats:
            chats.wait_for(CHATTERS)
            started = time.perf_counter()
            school.engine.load(version, str(Registry(folder / "adapters").path(version)))
            loaded = time.perf_counter()
            probes = Registry(folder / "adapters").manifest(version).probes
            differences = [
                ours - theirs
                for probe in probes
                for ours, theirs in zip(
                    school.engine.logprobs(version, list(probe.prompt_token_ids), list(probe.token_ids)),
                    probe.logprobs,
                    strict=True,
                )
            ]
            school.promote(version)
            chats.live = version
            swapped = time.perf_counter()
            chats.wait_for(4 * CHATTERS)
        learner.turn(0.0)  # the learner hears that its candidate is live
    for name in ("step", "rollout", "measure", "ppo", "reward_update"):
        result[f"{name}_seconds"] = clock.median(name)
    for failure in chats.failed[:3]:
        print(failure, file=sys.stderr)
    return result | {
        "rollout_tokens_per_s": sum(clock.tokens) / sum(clock.seconds["rollout"]),
        "swap_load_seconds": loaded - started,
        "swap_proof_seconds": swapped - loaded,
        "chats": len(chats.seconds),
        "chats_failed": len(chats.failed),
        "parity_tokens": len(differences),
        "parity_mean_nats": statistics.fmean(map(abs, differences)),
        "parity_std_nats": statistics.pstdev(differences),
        "parity_largest_nats": max(map(abs, differences)),
        "learner_gib": memory() / GIB,
    }


@contextmanager
def serving(
    model: Path, folder: Path, arguments: argparse.Namespace, result: dict[str, float]
) -> Iterator[str]:
    """The URL of an engine for the model, with what the plan leaves it beside the learner; its memory and the
    plan's figures go into `result`."""
    import shlex

    from bench._servers import engine
    from hearken.machine import memory as planning
    from hearken.machine.engine import EngineOptions, context_length, engine_command, use_cuda
    from hearken.machine.fitting import VLLM_SHARE, Machine, fit
    from hearken.machine.loads import engine_load, learner_load
    from hearken.models.shape import read_config, shape_of
    from learner.settings import LearnerSettings

    flags = tuple(shlex.split(arguments.engine_flags))
    cuda, context = use_cuda(), context_length(model)
    options = EngineOptions(model=model, port=0, cuda=cuda, max_model_len=context, extra=flags)
    settings = LearnerSettings(
        data=folder, model="", engine="", rollouts_per_step=arguments.batch, max_tokens=arguments.max_tokens
    )
    machine = Machine.here()
    command = engine_command(options)
    layout = fit(
        model,
        [command],
        settings,
        cuda=cuda,
        kv_cache_gib=options.kv_cache_gib,
        check="warn",
        say=print,
        machine=machine,
    )
    shape, config = shape_of(model), read_config(model)
    load = engine_load(command, config, cuda=cuda, kv_cache_gib=options.kv_cache_gib)
    on_card = machine.learner_on_card
    learning = learner_load(settings, shape, load.context, on_card=on_card, native=machine.native)
    if on_card:
        planned = planning.learner_on_card(shape, learning)
    else:
        planned = planning.learner_in_ram(shape, learning)
    result["learner_planned_gib"] = planning.total(planned) / GIB
    started = time.perf_counter()
    cores, share = os.sched_getaffinity(0), layout.engine_share
    with engine(folder, "engine", cores=cores, extra=flags, model=model, memory_share=share) as server:
        result["engine_start_seconds"] = time.perf_counter() - started
        yield server.url
        if not cuda:
            result["engine_planned_gib"] = planning.total(planning.engine_in_ram(shape, load)) / GIB
            result["engine_gib"] = server.tree_bytes() / GIB
        else:
            result["engine_share"] = layout.engine_share or VLLM_SHARE


def learner_memory() -> int:
    """The most memory that this process had, in bytes: of the GPU where torch uses one, else of RAM."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_reserved())
    from bench._trl_ppo import memory_bytes

    return memory_bytes("VmHWM")


def main(argv: Sequence[str]) -> int:
    """Run the loop once; the last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m bench gpu_loop", description=__doc__)
    parser.add_argument("--model", type=Path, help="a model's folder; without it random weights")
    parser.add_argument("--engine", help="URL of an engine that runs already, with --model's model")
    parser.add_argument("--batch", type=int, default=64, help="rollouts of a PPO step (default: 64)")
    parser.add_argument("--steps", type=int, default=6, help="PPO steps; the first warms up (default: 6)")
    parser.add_argument("--max-tokens", type=int, default=256, help="of an answer (default: 256)")
    parser.add_argument("--votes", type=int, default=400, help="comparisons (default: 400)")
    parser.add_argument("--engine-flags", default="", help="further flags for vLLM, in one string")
    parser.add_argument("--cpu-shape", choices=("tiny",), help="try it out on a CPU, with a small model")
    arguments = parser.parse_args(argv)

    import torch

    from bench._shapes import QWEN, TINY, make_model, make_tokenizer

    if arguments.cpu_shape is None and arguments.model is None and not torch.cuda.is_available():
        print("no GPU is visible to torch; --cpu-shape tiny tries the script out", file=sys.stderr)
        return 1
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="hearken-bench-") as scratch:
        folder = Path(scratch)
        model = arguments.model or folder / "model"
        if arguments.model is None:
            make_tokenizer(model)
            print(f"{make_model(model, TINY if arguments.cpu_shape else QWEN):,} random weights", flush=True)
        if arguments.engine is not None:
            result |= run(arguments.engine, model, folder / "data", arguments, learner_memory)
        else:
            with serving(model, folder, arguments, result) as url:
                result |= run(url, model, folder / "data", arguments, learner_memory)
    print(json.dumps({name: float(f"{value:.4g}") for name, value in result.items()}))
    return 0
