"""PPO updates beside TRL's: the time of one, and the memory that it takes.

What one update is, on both sides: rollouts of a tiny chat model (2 million parameters, trained by this
project) in hand, score them, compute logprobs, reference logprobs, values, rewards and advantages, and take
4 epochs of 4 minibatches: 16 optimiser steps. LoRA of rank 8 on every linear layer, float32 weights, the same
prompts, the same answers (TRL samples them, at most 40 tokens each, of mixed lengths; what it sampled is
replayed here), the same number of threads.

TRL's PPOTrainer is set up as its own example does with peft: the policy has adapters, the reference is the
policy with its adapters off, reward model and value model are models of their own, the value model trained
whole (that trainer knows no other way). The whole batch is one micro-batch, so nothing waits for gradient
accumulation. It runs in an environment that this benchmark makes under .bench/, with the installed torch and
transformers. Its times are taken by a callback and around its generation; nothing in it is changed.

Here reward features, policy, reference and critic share one base, in one process, or with `--ranks` in as
many as are said, which share the threads. `speedup_*` and `memory_ratio_*` compare both sides as they are by
default: TRL's products are in float32, the learner's in bfloat16 where the processor is fast at it.
`float32_*` are of the learner with float32 products, `both_bf16_*` have bfloat16 on TRL's side too, by
torch's own switch. Memory is the highest resident size less what it was after the imports, of all ranks
together. The median of the updates after the first counts.

Generation is left out of these (TRL's is transformers' `generate`, ours is vLLM's, which serves users at the
same time) and then shown with: `with_generation_speedup_*`.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TRL = "1.12.0"
BATCHES = (32, 64)


def trl_python() -> Path:
    """The Python of TRL's environment, made at the first call, with the installed torch and transformers."""
    folder = ROOT / ".bench" / f"trl-{TRL}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        import torch

        site = Path(torch.__file__).resolve().parent.parent
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        (folder / "lib" / version / "site-packages" / "shared.pth").write_text(f"{site}\n")
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"trl=={TRL}"],
            check=True,
        )
        (folder / "ready").touch()
    return python


def workload(model: Path, batch: int, updates: int, threads: int, bf16_products: bool) -> dict[str, Any]:
    """What both sides are told."""
    from transformers import AutoTokenizer

    from hearken.models.support_desk import prompts

    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = (
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        for question in prompts(512, seed=1)
    )
    return {
        "model": str(model),
        "prompts": [tokenizer.encode(text, add_special_tokens=False) for text in texts],
        "batch": batch,
        "updates": updates,
        "threads": threads,
        "epochs": 4,
        "minibatches": 4,
        "max_tokens": 40,
        "rank": 8,
        "learning_rate": 1e-5,
        "seed": 0,
        "bf16_products": bf16_products,
    }


def run_side(command: list[str], threads: int) -> None:
    """One side in a process of its own. Raises CalledProcessError with what it wrote."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TRL_EXPERIMENTAL_SILENCE": "1"}
    print("$", " ".join(command), flush=True)
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-4000:], sep="\n", file=sys.stderr)
        done.check_returncode()


@dataclass(frozen=True, slots=True)
class Side:
    """What one side took: medians of seconds without the first update, and the peak in MB."""

    seconds: float
    generation_seconds: float
    mb: float


def run_trl(work: dict[str, Any], folder: Path) -> Side:
    """TRL's updates; what it sampled stays in `folder` for the other side."""
    arguments = _told(work, folder)
    run_side([str(trl_python()), str(ROOT / "bench" / "_trl_ppo.py"), *arguments], work["threads"])
    found = json.loads((folder / "trl.json").read_text())
    pairs = zip(found["update_seconds"], found["left_out_seconds"], strict=True)
    updates = [whole - left_out for whole, left_out in pairs]
    generation = statistics.median(found["generation_seconds"][1:])
    return Side(statistics.median(updates[1:]), generation, found["peak_bytes"] / 2**20)


def run_ours(work: dict[str, Any], folder: Path, ranks: int) -> Side:
    """Our updates on the answers that TRL left in `folder`."""
    start = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    )
    command = [sys.executable, *start, "-m", "bench._hearken_ppo", *_told(work, folder)]
    run_side(command, max(1, work["threads"] // ranks))
    found = json.loads((folder / "hearken.json").read_text())
    return Side(statistics.median(found["update_seconds"][1:]), 0.0, found["peak_bytes"] / 2**20)


def _told(work: dict[str, Any], folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "work.json"
    file.write_text(json.dumps(work))
    return ["--work", str(file), "--out", str(folder)]


def engine_seconds(model: Path, prompts: list[list[int]]) -> dict[int, float]:
    """What vLLM takes to sample a batch of answers with an adapter, by batch: the median of three."""
    from deploy.engines.client import EngineClient
    from hearken.machine.engine import (
        EngineOptions,
        context_length,
        engine_command,
        engine_environment,
        use_cuda,
    )
    from learner.model.shared import SharedModel
    from learner.rollouts.sampling import RolloutSampler

    options = EngineOptions(model=model, port=8197, cuda=use_cuda(), max_model_len=context_length(model))
    with tempfile.TemporaryDirectory() as scratch, (Path(scratch) / "engine.log").open("w") as log:
        process = subprocess.Popen(
            engine_command(options),
            env=engine_environment(options, os.environ),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        client = EngineClient(f"http://127.0.0.1:{options.port}")
        try:
            while not client.is_healthy():
                if process.poll() is not None:
                    tail = (Path(scratch) / "engine.log").read_text()[-2000:]
                    raise RuntimeError(f"the engine did not start: {tail}")
                time.sleep(0.25)
            shared = SharedModel(str(model), device="cpu")
            sampler, found = RolloutSampler(client, Path(scratch) / "rollouts"), {}
            for batch in BATCHES:
                taken = []
                for step in range(4):
                    started = time.perf_counter()
                    with sampler.serving(shared.save_policy, batch * 10 + step) as name:
                        sampler.sample(name, prompts[:batch], max_tokens=40, seed=name)
                    taken.append(time.perf_counter() - started)
                found[batch] = statistics.median(taken[1:])
            return found
        finally:
            client.close()
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=30)


def main(argv: list[str]) -> int:
    """Run both sides and print what they took."""
    parser = argparse.ArgumentParser(prog="python -m bench ppo", description=__doc__)
    parser.add_argument("--updates", type=int, default=6, help="updates of each run; the first warms up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ranks", type=int, default=1, help="processes of our side that share the threads")
    parser.add_argument("--no-generation", action="store_true", help="do not start an engine")
    arguments = parser.parse_args(argv)

    from hearken.models.tiny import ensure_tiny
    from learner.model import native

    model = ensure_tiny()
    fast = native.library() is not None
    result: dict[str, float] = {}
    generation: dict[int, float] | None = {} if arguments.no_generation else None
    with tempfile.TemporaryDirectory() as scratch:
        for batch in BATCHES:
            folder = Path(scratch) / str(batch)
            exact = workload(model, batch, arguments.updates, arguments.threads, False)
            rough = exact | {"bf16_products": True}
            trl, plain = run_trl(exact, folder), run_ours(exact, folder, arguments.ranks)
            sides, ours = {"TRL": trl, "hearken, float32": plain}, plain
            if fast:
                ours, theirs = run_ours(rough, folder, arguments.ranks), run_trl(rough, folder)
                sides |= {"hearken, bfloat16": ours, "TRL, bfloat16": theirs}
                result[f"both_bf16_speedup_{batch}"] = theirs.seconds / ours.seconds
                result[f"both_bf16_memory_ratio_{batch}"] = ours.mb / theirs.mb
            result[f"float32_speedup_{batch}"] = trl.seconds / plain.seconds
            result[f"float32_memory_ratio_{batch}"] = plain.mb / trl.mb
            for name, side in sides.items():
                print(
                    f"{batch} prompts, {name}: {side.seconds:.3f} s an update, {side.mb:.0f} MB", flush=True
                )
            if generation is None:
                generation = engine_seconds(model, exact["prompts"])
            result[f"speedup_{batch}"] = trl.seconds / ours.seconds
            result[f"update_seconds_{batch}"], result[f"trl_update_seconds_{batch}"] = (
                ours.seconds,
                trl.seconds,
            )
            result[f"memory_ratio_{batch}"] = ours.mb / trl.mb
            if generation:
                whole = trl.seconds + trl.generation_seconds
                result[f"with_generation_speedup_{batch}"] = whole / (ours.seconds + generation[batch])
                print(
                    f"{batch} prompts: sampling a batch takes vLLM {generation[batch]:.3f} s "
                    f"and TRL {trl.generation_seconds:.3f} s"
                )
    result["memory_ratio"] = max(result[f"memory_ratio_{batch}"] for batch in BATCHES)
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))
    return 0
