"""A new base: the old one with an adapter added into its weights.

W' = W + (alpha / r) B A for every layer that the adapter sits on, computed in float32 (Hu et al. 2021,
arXiv:2106.09685, section 4.1). All other files and weights stay as they are, byte for byte.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from learner.batching import Item
from learner.model.shared import CONFIG_FILE, POLICY, WEIGHTS_FILE, SharedModel
from learner.policy.probes import probe_items

PREFIX = "base_model.model."
_WEIGHTS = (".safetensors", ".bin", ".pth", ".gguf")


class CannotMerge(ValueError):
    """The adapter cannot be added into this base. The message says why."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """How a new base differs from the old one with its adapter, on the texts that prove adapters.

    largest_nats, mean_nats: of the differences of a token's logprob; effect_nats: what the adapter changes on
    average.
    """

    largest_nats: float
    mean_nats: float
    effect_nats: float

    @property
    def lost(self) -> float:
        """The share of the adapter's effect that rounding took."""
        return self.mean_nats / self.effect_nats if self.effect_nats else 0.0


def merge(base: Path, adapter: Path, target: Path, *, float32: bool = False) -> None:
    """Write the base with the adapter added as a model folder. `target` must not exist.

    float32: write all weights so, rather than as the base has them: weights of 16 bits round small changes
    away. Raises `CannotMerge`.
    """
    changes = _changes(adapter)
    files = sorted(base.glob("*.safetensors"))
    missing = set(changes)
    for file in files:
        with safe_open(file, "pt") as opened:
            missing -= set(opened.keys())
    if missing or not files:
        raise CannotMerge(
            f"{base} has no weight {min(missing)} in its files, which the adapter changes"
            if missing
            else f"{base} has no *.safetensors weights"
        )
    target.mkdir(parents=True)
    for file in base.iterdir():
        if file.is_file() and not file.name.endswith(_WEIGHTS):
            shutil.copyfile(file, target / file.name)
    for file in files:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        weights = {name: _merged(name, value, changes, float32) for name, value in load_file(file).items()}
        save_file(weights, target / file.name, metadata=metadata)
    if float32:
        _say_float32(target / "config.json")


def _changes(adapter: Path) -> dict[str, Tensor]:
    """What is added to each weight, by its name in the base's files."""
    config = json.loads((adapter / CONFIG_FILE).read_text())
    scale = config["lora_alpha"] / config["r"]
    state = load_file(adapter / WEIGHTS_FILE)
    found = {}
    for name, a in state.items():
        if ".lora_A." in name:
            b = state[name.replace(".lora_A.", ".lora_B.")]
            weight = name.removeprefix(PREFIX).replace(".lora_A.weight", ".weight")
            found[weight] = scale * (b.float() @ a.float())
    return found


def _merged(name: str, value: Tensor, changes: dict[str, Tensor], float32: bool) -> Tensor:
    dtype = torch.float32 if float32 and value.is_floating_point() else value.dtype
    change = changes.get(name)
    if change is None:
        return value.to(dtype)
    if value.dtype not in (torch.float32, torch.bfloat16, torch.float16) or value.shape != change.shape:
        raise CannotMerge(
            f"{name} is {value.dtype} of shape {tuple(value.shape)}; floating point of "
            f"{tuple(change.shape)} is needed: take the base before it was quantised"
        )
    return (value.float() + change).to(dtype)


def _say_float32(file: Path) -> None:
    config = json.loads(file.read_text())
    named = [name for name in ("dtype", "torch_dtype") if name in config] or ["torch_dtype"]
    file.write_text(json.dumps(config | dict.fromkeys(named, "float32"), indent=2) + "\n")


def likeness(base: Path, adapter: Path, rank: int, merged: Path) -> Likeness:
    """Compare a merged base with what it was made from, both computed in float32."""
    old = SharedModel(str(base), rank=rank, device="cpu")
    old.load_adapter(adapter)
    items = probe_items(str(base), old.vocab_size, old.context)
    before, bare = _logprobs(old, items, POLICY), _logprobs(old, items, None)
    del old
    after = _logprobs(SharedModel(str(merged), rank=1, device="cpu"), items, None)
    apart = (after - before).abs()
    return Likeness(float(apart.max()), float(apart.mean()), float((before - bare).abs().mean()))


def _logprobs(model: SharedModel, items: Sequence[Item], adapter: str | None) -> Tensor:
    """The logprobs of all answers' tokens in a row."""
    table = model.answer_logprobs(items, adapter, exact=True)
    return torch.cat([row[: len(answer)] for row, (_, answer) in zip(table, items, strict=True)])
