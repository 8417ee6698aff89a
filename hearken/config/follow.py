"""What follows from the model and the machine, where nobody said otherwise."""

import os
from pathlib import Path

from hearken import engine
from hearken.config.layers import Given, Layer
from hearken.config.resolve import Config
from hearken.errors import UsageError
from learner import shape as shapes
from learner.shape import ModelShape

CPU_CONTEXT, GPU_CONTEXT = 4096, 32768
"""Tokens. A longer context costs memory on every machine, and a chat answer seldom needs it."""


def follow(config: Config, model: Path, cuda: bool) -> Config:
    """The settings with the model's (a folder's) and the machine's where they are None.

    Raises UsageError for a model whose config.json does not say how large it is, for a context longer than
    the model's own, and for an engine that could not load the learner's adapters.
    """
    try:
        shape = ModelShape.read(model)
    except ValueError as error:
        raise UsageError(f"model {model}: {error}") from error
    values = _values(config, shape, model, cuda)
    followed = config.following(values)
    _check(followed, shape)
    return followed


def _values(config: Config, shape: ModelShape, model: Path, cuda: bool) -> Layer:
    width, machine = f"the model (hidden size {shape.hidden_size})", "a GPU" if cuda else "a CPU"
    rank = config.get("learner.rank").value or shapes.default_rank(shape.hidden_size)
    bound = config.get("engine.longest_context").value or (GPU_CONTEXT if cuda else CPU_CONTEXT)
    context = config.get("engine.max_model_len").value or min(shape.context or bound, bound)
    engines = config.get("engine.count").value
    try:
        loadable = shapes.engine_rank(rank)
    except ValueError as error:
        raise UsageError(str(error)) from error
    kept = max(shapes.kept_adapters(shape, rank), config.get("engine.max_loras").value + 5)
    return {
        "learner.rank": Given(rank, width),
        "learner.ppo.learning_rate": Given(shapes.default_learning_rate(shape.hidden_size), width),
        "engine.longest_context": Given(bound, machine),
        "engine.max_model_len": Given(
            context, f"the model's {shape.context or 'lack of a limit'}, longest_context"
        ),
        "engine.dtype": Given("auto" if cuda else "float32", machine),
        "engine.lora_rank": Given(loadable, "[learner] rank"),
        "engine.max_cpu_loras": Given(kept, f"the size of an adapter of rank {rank}"),
        "engine.kv_cache_gib": Given(shapes.cpu_cache_gib(shape, context), "the model and max_model_len"),
        "engine.threads": Given(engine.engine_threads(engines), f"{len(os.sched_getaffinity(0))} cores"),
        "engine.tool_parser": Given(engine.tool_parser(model), "the model's chat template"),
    }


def _check(config: Config, shape: ModelShape) -> None:
    context, rank = config.get("engine.max_model_len"), config.get("engine.lora_rank")
    if shape.context is not None and context.value > shape.context:
        raise UsageError(
            f"{context.origin}: [engine] max_model_len is {context.value}, and the model's own limit is "
            f"{shape.context} tokens; give that or less"
        )
    trained = config.get("learner.rank")
    if rank.value < trained.value:
        raise UsageError(
            f"{rank.origin}: [engine] lora_rank is {rank.value}, too small for the learner's adapters of "
            f"rank {trained.value} ({trained.origin}); leave it out, or give that or more"
        )
    if rank.value not in shapes.VLLM_RANKS:
        known = ", ".join(map(str, shapes.VLLM_RANKS))
        raise UsageError(f"{rank.origin}: [engine] lora_rank is {rank.value}; vLLM knows {known}")
