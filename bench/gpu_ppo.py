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

`--device cpu --layers 2` tries the script out where there is no GPU.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from bench.ppo import run_ours, run_trl, workload

SHAPE: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}


def make_model(tiny: Path, folder: Path, layers: int) -> int:
    """A random model of the shape with the tiny one's tokenizer; how many weights its products have."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    config = Qwen2Config(
        **SHAPE,
        num_hidden_layers=layers,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny / file, folder / file)
    return sum(parameter.numel() for parameter in model.parameters())


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
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="of the GPU; an H100's by default")
    arguments = parser.parse_args(argv)

    import torch

    from hearken.tiny import ensure_tiny

    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("no GPU is visible to torch; --device cpu tries the script out")
        return 1
    tiny = ensure_tiny()
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder, model = Path(scratch) / "run", Path(scratch) / "model"
        weights = make_model(tiny, model, arguments.layers)
        work = workload(tiny, arguments.batch, arguments.updates, 2, False)
        work |= {"model": str(model), "device": arguments.device}
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
