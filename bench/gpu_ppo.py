"""PPO updates of a model of half a billion parameters on a GPU, beside TRL's: `python -m bench gpu_ppo`.

The model has the shape of Qwen2.5-0.5B (24 layers, hidden size 896, 14 heads, 2 of keys, vocabulary 151,936)
and random weights: how long an update takes does not depend on what the weights say. Base in bfloat16 on both
sides, LoRA of rank 8, 4 epochs of 4 minibatches, prompts and answers as in `python -m bench ppo`, which says
what each side does; random answers seldom end, so nearly all have the longest length.

Printed for both: seconds of an update, the peak of memory that torch allocated, tokens of prompts and answers
a second, and MFU: the share of the GPU's bfloat16 peak (`--peak-tflops`) that an update's necessary products
are. Those are counted as 2 operations for each weight and token in a forward pass, and 2 more in a backward
pass, as the base is frozen (Kaplan et al. 2020, arXiv:2001.08361, section 2.1); both sides are credited with
what an update needs at least: one pass each for logprobs, reference and score, and the epochs' passes.

`--cpu-shape tiny` tries the script out where there is no GPU, with a model of 0.3 million parameters.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from bench.ppo import run_ours, run_trl, workload


def operations(weights: int, tokens: int, epochs: int) -> float:
    """Floating-point operations that an update needs at least (see above)."""
    return 2.0 * weights * tokens * (3 + 2 * epochs)


def tokens_of(folder: Path) -> int:
    """Tokens of prompts and answers in an update, from what the other side sampled; padding left out."""
    found = json.loads((folder / "trl.json").read_text())
    pad = found["pad_token_id"]
    rows = found["rollouts"][-1]
    return sum(token != pad for name in ("queries", "answers") for row in rows[name] for token in row)


def main(argv: list[str]) -> int:
    """Run both sides and print what they took."""
    parser = argparse.ArgumentParser(prog="python -m bench gpu_ppo", description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--updates", type=int, default=6, help="updates of each side; the first warms up")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--cpu-shape", choices=("tiny",), help="try it out on the CPU, with a small model")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="of the GPU; an H100's by default")
    arguments = parser.parse_args(argv)

    import torch

    from bench._shapes import QWEN, TINY, make_model, make_tokenizer

    if arguments.cpu_shape is None and not torch.cuda.is_available():
        print("no GPU is visible to torch; --cpu-shape tiny tries the script out", file=sys.stderr)
        return 1
    shape = TINY if arguments.cpu_shape else QWEN | {"num_hidden_layers": arguments.layers}
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder, model = Path(scratch) / "run", Path(scratch) / "model"
        make_tokenizer(model)
        weights = make_model(model, shape)
        work = workload(model, arguments.batch, arguments.updates, 2, False)
        work |= {"device": "cpu" if arguments.cpu_shape else "cuda"}
        theirs, ours = run_trl(work, folder), run_ours(work, folder, ranks=1)
        tokens = tokens_of(folder)
        needed = operations(weights, tokens, work["epochs"])
        for name, side in (("trl", theirs), ("hearken", ours)):
            result |= {
                f"{name}_update_seconds": side.seconds,
                f"{name}_peak_mb": side.mb,
                f"{name}_tokens_per_s": tokens / side.seconds,
                f"{name}_mfu": needed / side.seconds / (arguments.peak_tflops * 1e12),
            }
            print(f"{name}: {side.seconds:.3f} s an update, {side.mb:.0f} MB", flush=True)
    result["speedup"] = theirs.seconds / ours.seconds
    result["memory_ratio"] = ours.mb / theirs.mb
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))
    return 0
