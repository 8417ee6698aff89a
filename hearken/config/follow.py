"""What follows from the model and the machine, where nobody said otherwise."""

import os
from pathlib import Path
from typing import Any

from deploy.registry.errors import RegistryAway
from deploy.registry.registries import folder_of, open_registry
from hearken.base.errors import UsageError
from hearken.config.layers import Given, Layer
from hearken.config.resolve import Config
from hearken.machine import engine
from hearken.models.shape import Shape, position_limit, read_config, shape_of_config
from hearken.settings import ServiceSettings
from learner.model.machine import has_fast_bf16
from learner.model.width import default_learning_rate, default_rank, fine_tuning_rate

CPU_CONTEXT, GPU_CONTEXT = 4096, 32768
"""Tokens. A longer context costs memory on every machine, and a chat answer seldom needs it."""

CPU_ANSWER = 1024
"""Tokens of an answer that nobody bounded, on a CPU. A small model may repeat itself until its context is
full, which takes minutes there and slows down everybody else's answers."""

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values of --max-lora-rank that vLLM 0.32 knows, from 8 up."""

GIB = 2**30

BF16_PARAMETERS = 50_000_000
"""Smaller models are served in float32 on CPUs: their matrices stay in the cache."""


def follow(config: Config, model: Path, cuda: bool) -> Config:
    """The settings with the model's (a folder's) and the machine's where they are None.

    Raises UsageError for a model whose config.json does not say how large it is, for a context longer than
    the model's own, and for an engine that could not load the learner's adapters.
    """
    config, model_config = config.following({}), read_config(model)
    limit = position_limit(model_config)
    published = published_rank(config.build("service"))
    shape = shape_of_config(model_config)
    followed = config.following(_values(config, shape, limit, published, model, cuda))
    _check(followed, limit, published)
    return followed


def published_rank(service: ServiceSettings) -> int:
    """The highest rank of the adapters that a service has; 0 without any.

    Raises UsageError where its registry does not answer.
    """
    folder = folder_of(service.folder, service.registry)
    if folder is not None and not folder.is_dir():
        return 0
    try:
        return open_registry(service.folder, service.registry, service.registry_copies).rank(0)
    except RegistryAway as error:
        raise UsageError(f"how large adapters are is not known: {error}", code=1) from error


def _values(
    config: Config, shape: Shape, limit: int | None, published: int, model: Path, cuda: bool
) -> Layer:
    """Place -> value. limit: the model's own context; published: the rank of the adapters that there are."""
    rank = config.get("learner.rank").value or published or default_rank(shape.hidden)
    served = max(rank, published)
    bound = config.get("engine.longest_context").value or (GPU_CONTEXT if cuda else CPU_CONTEXT)
    context = config.get("engine.max_model_len").value or min(limit or bound, bound)
    kept = kept_adapters(shape, served, config.get("engine.max_loras").value + 5)
    dtype = "auto" if cuda else cpu_dtype(shape)
    threads = engine.engine_threads(config.get("engine.count").value, large=dtype == "bfloat16")
    width, machine = f"the hidden size, {shape.hidden}", f"the machine, a {'GPU' if cuda else 'CPU'}"
    values: dict[str, tuple[Any, str]] = {
        "learner.rank": (rank, "the adapters that there are" if published else width),
        "learner.ppo.learning_rate": (default_learning_rate(shape.hidden), width),
        "sft.learning_rate": (fine_tuning_rate(shape.hidden), width),
        "engine.longest_context": (bound, machine),
        "engine.max_model_len": (context, "the model's limit" if limit == context else "longest_context"),
        "engine.dtype": (dtype, f"{machine}, and the model's size"),
        "engine.lora_rank": (engine_rank(served), "the learner's and all adapters' rank"),
        "engine.max_cpu_loras": (kept, "the size of an adapter"),
        "engine.kv_cache_gib": (cpu_cache_gib(shape, context), "max_model_len and the model's sizes"),
        "engine.threads": (threads, f"{len(os.sched_getaffinity(0))} cores and the model's size"),
        "engine.tool_parser": (engine.tool_parser(model), "the chat template"),
        "engine.reasoning_parser": (engine.reasoning_parser(model), "the chat template"),
    }
    if not cuda:
        values["gateway.default_max_tokens"] = min(CPU_ANSWER, context), machine
    return {path: Given(value, f"follows {what}") for path, (value, what) in values.items()}


def engine_rank(rank: int) -> int:
    """The --max-lora-rank that an engine needs for a rank. Raises UsageError above vLLM's largest."""
    for known in VLLM_RANKS:
        if rank <= known:
            return known
    raise UsageError(
        f"[learner] rank is {rank}; adapters of a rank of at most {VLLM_RANKS[-1]} can be served"
    )


def kept_adapters(shape: Shape, rank: int, least: int) -> int:
    """How many adapters an engine keeps in memory: 16, or 2 GiB of them in float32 where those are fewer."""
    return max(least, min(16, 2 * GIB // (4 * shape.adapter(rank))))


def cpu_dtype(shape: Shape) -> str:
    """bfloat16 where the processor is fast at it and the model is large enough for that to matter.

    In float32 engine and trainer agree to 1e-6 nats per token, which a small model can have at little cost.
    """
    return "bfloat16" if has_fast_bf16() and shape.parameters >= BF16_PARAMETERS else "float32"


def cpu_cache_gib(shape: Shape, context: int) -> int:
    """GiB of key-value cache of a CPU engine: four sequences of full length in float32, at least 1."""
    return max(1, -(-4 * context * 4 * shape.key_values // GIB))


def _check(config: Config, limit: int | None, published: int) -> None:
    context, rank = config.get("engine.max_model_len"), config.get("engine.lora_rank")
    if limit is not None and context.value > limit:
        raise UsageError(
            f"{context.origin}: [engine] max_model_len is {context.value}, and the model's own limit is "
            f"{limit} tokens; give that or less"
        )
    trained = config.get("learner.rank")
    if rank.value < max(trained.value, published):
        whose = f"the learner's ({trained.origin})" if trained.value >= published else "that there are"
        raise UsageError(
            f"{rank.origin}: [engine] lora_rank is {rank.value}, too small for adapters of rank "
            f"{max(trained.value, published)}, {whose}; leave it out, or give that or more"
        )
    if rank.value not in VLLM_RANKS:
        known = ", ".join(map(str, VLLM_RANKS))
        raise UsageError(f"{rank.origin}: [engine] lora_rank is {rank.value}; vLLM knows {known}")
