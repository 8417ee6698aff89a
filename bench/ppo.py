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

Here reward features, policy, reference and critic share one base. Both sides run in float32, this learner's
default; where the processor has bfloat16 products both run a second time with them, by torch's own switch
(`bf16_speedup_*`). Memory is the highest resident size less what it was after the imports. The median of the
updates after the first counts.

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

    from hearken.support_desk import prompts

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


def measure(work: dict[str, Any], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """TRL's report, then ours on the same answers."""
    folder.mkdir(parents=True)
    file = folder / "work.json"
    file.write_text(json.dumps(work))
    arguments = ["--work", str(file), "--out", str(folder)]
    run_side([str(trl_python()), str(ROOT / "bench" / "_trl_ppo.py"), *arguments], work["threads"])
    run_side([sys.executable, "-m", "bench._hearken_ppo", *arguments], work["threads"])
    theirs, ours = (json.loads((folder / f"{name}.json").read_text()) for name in ("trl", "hearken"))
    return theirs, ours


def summary(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, float]:
    """Seconds of one update and of TRL's generation (medians without the first), peaks in MB."""
    updates = [
        whole - left_out
        for whole, left_out in zip(theirs["update_seconds"], theirs["left_out_seconds"], strict=True)
    ]
    return {
        "trl": statistics.median(updates[1:]),
        "ours": statistics.median(ours["update_seconds"][1:]),
        "trl_generation": statistics.median(theirs["generation_seconds"][1:]),
        "trl_mb": theirs["peak_bytes"] / 2**20,
        "ours_mb": ours["peak_bytes"] / 2**20,
    }


def engine_seconds(model: Path, prompts: list[list[int]]) -> dict[int, float]:
    """What vLLM takes to sample a batch of answers with an adapter, by batch: the median of three."""
    from deploy.engine import EngineClient
    from hearken.engine import EngineOptions, context_length, engine_command, engine_environment, use_cuda
    from learner.model import SharedModel
    from learner.rollouts import RolloutSampler

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
                        sampler.sample(name, prompts[:batch], max_tokens=40)
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
    parser.add_argument("--no-generation", action="store_true", help="do not start an engine")
    arguments = parser.parse_args(argv)

    from hearken.tiny import ensure_tiny
    from learner.machine import has_fast_bf16

    model = ensure_tiny()
    fast = has_fast_bf16()
    result: dict[str, float] = {}
    generation: dict[int, float] | None = {} if arguments.no_generation else None
    with tempfile.TemporaryDirectory() as scratch:
        for batch in BATCHES:
            runs = {}
            for bf16 in (False, True) if fast else (False,):
                work = workload(model, batch, arguments.updates, arguments.threads, bf16)
                found = summary(*measure(work, Path(scratch) / f"{batch}-{bf16}"))
                runs[bf16] = found
                kind = "bfloat16" if bf16 else "float32"
                print(
                    f"{batch} prompts, {kind} products: TRL {found['trl']:.3f} s "
                    f"an update and {found['trl_mb']:.0f} MB, hearken {found['ours']:.3f} s and "
                    f"{found['ours_mb']:.0f} MB; TRL's generation {found['trl_generation']:.3f} s",
                    flush=True,
                )
            if generation is None:
                generation = engine_seconds(model, work["prompts"])
            ours, trl = runs[False]["ours"], runs[False]["trl"]
            result[f"speedup_{batch}"] = trl / ours
            result[f"update_seconds_{batch}"], result[f"trl_update_seconds_{batch}"] = ours, trl
            result[f"memory_ratio_{batch}"] = runs[False]["ours_mb"] / runs[False]["trl_mb"]
            if fast:
                result[f"bf16_speedup_{batch}"] = runs[True]["trl"] / runs[True]["ours"]
                result[f"bf16_memory_ratio_{batch}"] = runs[True]["ours_mb"] / runs[True]["trl_mb"]
            if generation:
                with_trl = trl + runs[False]["trl_generation"]
                result[f"with_generation_speedup_{batch}"] = with_trl / (ours + generation[batch])
                print(f"{batch} prompts: vLLM samples a batch in {generation[batch]:.3f} s")
    result["memory_ratio"] = max(result[f"memory_ratio_{batch}"] for batch in BATCHES)
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))
    return 0
