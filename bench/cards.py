"""Which models fit which GPU, by the plan of memory: `python -m bench cards` prints docs/gpu.md's table.

Nothing is loaded or measured: the sizes are those of the models' config.json. Engine and learner are as
`hearken up` starts them, with 4,096 tokens of context; a sparing learner has its base in 4 bits and
activation checkpointing.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hearken.machine.fitting import Machine, TooLittle, Wish, decide
from hearken.machine.memory import GIB, EngineLoad, LearnerLoad, engine_on_card, learner_on_card, total
from hearken.models.shape import Shape, shape_of_config

CARDS = (16, 24, 48, 80, 141)
"""GiB of usual GPUs: T4 and A4000, 4090 and L4, L40S and A6000, A100 and H100, H200."""

CONTEXT = 4096

SPARING: dict[str, Any] = {"base_bits": 4, "recompute": True}
"""Settings of a learner that takes as little memory as it can."""

_NAMES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
_MODELS: dict[str, tuple[tuple[int, ...], int, bool, str]] = {
    "SmolLM2-135M": ((576, 1536, 30, 9, 3), 49_152, True, "llama"),
    "Qwen2.5-0.5B": ((896, 4864, 24, 14, 2), 151_936, True, "qwen2"),
    "Qwen2.5-1.5B": ((1536, 8960, 28, 12, 2), 151_936, True, "qwen2"),
    "Qwen2.5-3B": ((2048, 11_008, 36, 16, 2), 151_936, True, "qwen2"),
    "Qwen2.5-7B": ((3584, 18_944, 28, 28, 4), 152_064, False, "qwen2"),
    "Llama-3.1-8B": ((4096, 14_336, 32, 32, 8), 128_256, False, "llama"),
    "Qwen2.5-14B": ((5120, 13_824, 48, 40, 8), 152_064, False, "qwen2"),
}


def config_of(name: str) -> dict[str, Any]:
    """What a model's config.json says of its sizes."""
    sizes, vocabulary, tied, kind = _MODELS[name]
    return dict(zip(_NAMES, sizes, strict=True)) | {
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "model_type": kind,
    }


def learner_load(shape: Shape, **changed: Any) -> LearnerLoad:
    """A learner's on a GPU, with its default settings but for what is changed."""
    from hearken.machine import loads
    from learner.settings import LearnerSettings

    settings = LearnerSettings(data=Path(), model="", engine="", **changed)
    return loads.learner_load(settings, shape, CONTEXT, on_card=True)


def rows() -> Iterator[str]:
    """The table's lines."""
    yield (
        "| model | engine, GiB | learner, GiB | on one GPU with | engine's share of it "
        "| sparing learner, GiB | on one GPU with | engine's share of it |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for name in _MODELS:
        shape = shape_of_config(config_of(name))
        usual = learner_load(shape)
        engine = EngineLoad(context=CONTEXT, rank=usual.rank)
        said = [f"{total(engine_on_card(shape, engine, 24 * GIB)) / GIB:.1f}"]
        for learner in (usual, learner_load(shape, **SPARING)):
            said.append(f"{total(learner_on_card(shape, learner)) / GIB:.1f}")
            said += _smallest(Wish(name, shape, learner, engine, engine_on_card=True))
        yield f"| {name} | {' | '.join(said)} |"


def _smallest(wish: Wish) -> tuple[str, str]:
    """The smallest card on which both fit, and what the engine gets of it."""
    for card in CARDS:
        try:
            layout = decide(wish, Machine(cards=(card * GIB,), learner_on_card=True))
        except TooLittle:
            continue
        return f"{card} GiB", f"{layout.engine_share:.0%}"
    return "none; two GPUs", "all of its own"


def main(argv: Sequence[str]) -> int:
    """Print the table."""
    argparse.ArgumentParser(prog="python -m bench cards", description=__doc__).parse_args(argv)
    print("\n".join(rows()))
    return 0
