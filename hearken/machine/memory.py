"""How much memory engine and learner will take, told from a model's sizes before any weight is read.

Weights, caches, adapters and optimisers are counted from the shapes of the tensors; what a backward pass
keeps was counted once for each way through the blocks (`KEPT`). What a process takes before it has a model
was measured on CPUs. On a GPU it is what CUDA and vLLM usually take, not yet measured here (`CUDA_BYTES`,
`ENGINE_CUDA_BYTES`). docs/gpu.md holds the plan against running processes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hearken.models.shape import Shape

GIB = 1 << 30
MIB = 1 << 20
Need = Mapping[str, int]
"""Bytes by what they are for."""

Blocks = Literal["transformers", "packed", "native"]
"""The way through the blocks: transformers' and peft's, or hearken's own in float32 or compiled."""

PROCESS_BYTES = 740 * MIB  # Python with torch, transformers and the rest imported, before there is a model
ENGINE_PROCESS_BYTES = 1900 * MIB  # the same for vLLM on a CPU: its server and its core
CUDA_BYTES = 600 * MIB  # a CUDA context with torch's kernels loaded
ENGINE_CUDA_BYTES = 1536 * MIB  # the same with vLLM's kernels and CUDA graphs
HEAP_BYTES = GIB  # the most freed memory that a learner keeps (`learner.model.machine.KEPT_BYTES`)
LOGIT_BYTES = 64 * MIB  # of logits at a time (`learner.model.head.LOGIT_BYTES`)
SNAPSHOTS = 3  # of the policy and its optimiser: two that can be gone back to, and one on its way to disk


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What an engine's memory depends on beside its model.

    context: tokens of the longest sequence. loras, kept_loras: adapters in a batch, and in RAM (vLLM's
    --max-loras and --max-cpu-loras). weight_bytes: of a weight and of a number in the KV cache. cards: GPUs
    that it is spread over. kv_cache_bytes: on a CPU, what it is given for its KV cache.
    """

    context: int
    rank: int = 8
    loras: int = 3
    kept_loras: int = 16
    weight_bytes: int = 2
    cards: int = 1
    kv_cache_bytes: int = GIB


@dataclass(frozen=True, slots=True)
class LearnerLoad:
    """What a learner's memory depends on beside its model.

    context: tokens of the longest prompt and answer. rollouts, rollout_tokens: answers of a PPO step, and
    tokens of the longest. update_tokens: padded tokens of a backward pass, if no single row is longer.
    pass_tokens: of one without gradient. weight_bytes: of a weight of the base, and base_bits: of one of its
    blocks if they are fewer than 16. recompute: whether the backward pass keeps only what goes into each
    block, and computes the block again. reader: whether the reward model has an adapter of its own.
    """

    context: int
    rank: int = 8
    rollouts: int = 128
    rollout_tokens: int = 64
    update_tokens: int = 2048
    pass_tokens: int = 8192
    weight_bytes: int = 2
    base_bits: int = 16
    blocks: Blocks = "transformers"
    recompute: bool = False
    reader: bool = False


def total(need: Need) -> int:
    """All bytes of a need."""
    return sum(need.values())


# ---- the engine


def kv_cache_bytes(shape: Shape, load: EngineLoad) -> int:
    """Of one sequence as long as the context."""
    return load.context * shape.key_values * load.weight_bytes


def engine_on_card(shape: Shape, load: EngineLoad, card_bytes: int) -> Need:
    """What vLLM needs at least on each of its GPUs: room for one sequence of the context's length.

    `card_bytes`: how large the GPU is, after which vLLM chooses how much it computes at a time.
    """
    large = card_bytes >= 70 * GIB
    tokens, sequences = (8192, 1024) if large else (2048, 256)  # vLLM 0.32's own defaults
    logits = 3 * 4 * sequences * shape.vocabulary
    passing = tokens * (4 * shape.hidden + 3 * shape.inner) * load.weight_bytes
    return {
        "weights": _stored_weights(shape, load.weight_bytes) // load.cards,
        "KV cache": kv_cache_bytes(shape, load) // load.cards,
        "adapters": load.loras * shape.adapter(load.rank) * load.weight_bytes,
        "activations": passing // load.cards + logits,
        "CUDA": ENGINE_CUDA_BYTES,
    }


def engine_in_ram(shape: Shape, load: EngineLoad) -> Need:
    """What vLLM takes on a CPU."""
    adapter = shape.adapter(load.rank) * load.weight_bytes
    return {
        "process": ENGINE_PROCESS_BYTES,
        "weights": _stored_weights(shape, load.weight_bytes),
        "KV cache": load.kv_cache_bytes,
        "adapters": (load.loras + load.kept_loras) * adapter,
    }


def _stored_weights(shape: Shape, weight_bytes: int) -> int:
    if shape.quantized and shape.file_bytes is not None:
        return shape.file_bytes
    return shape.parameters * weight_bytes


# ---- the learner


def kept_bytes(shape: Shape, load: LearnerLoad) -> int:
    """What a backward pass needs of a forward pass, for one token.

    Counted by hooks on the tensors that autograd keeps, on models of several shapes: numbers of the sizes of
    the MLP, of the block and its heads, and of keys or values. peft computes adapters in float32 also where
    the base is in bfloat16.
    """
    mlp, block, pair = KEPT[load.blocks, load.weight_bytes]
    heads = (shape.hidden + shape.heads * shape.head_size) // 2
    key_values = shape.kv_heads * shape.head_size
    of_block = mlp * shape.inner + block * heads + pair * key_values + 28 * load.rank
    if load.recompute and load.blocks != "native":  # which takes no notice of it
        return shape.layers * shape.hidden * load.weight_bytes + of_block
    return shape.layers * of_block


KEPT: dict[tuple[Blocks, int], tuple[int, int, int]] = {
    ("transformers", 2): (10, 36, 4),
    ("transformers", 4): (16, 24, 8),
    ("packed", 4): (12, 28, 8),
    ("packed", 2): (7, 18, 5),
    ("native", 4): (6, 14, 4),
}
"""Bytes that one token of one block leaves for the backward pass: for each number of the MLP's width, of the
hidden size, and of the width of keys. By the way through the blocks and the bytes of a weight."""


HELD_BITS = {8: 8.14, 4: 4.13}
"""Bits of a weight in so few, its share of the scales included (`learner.model.quantized`)."""


def base_bytes(shape: Shape, load: LearnerLoad) -> int:
    """Of the frozen base; of one in few bits with the group of projections that is whole at a time."""
    whole = shape.parameters * load.weight_bytes
    if load.base_bits == 16:
        return whole
    held = shape.linears * HELD_BITS[load.base_bits] / 8
    at_work = 3 * shape.hidden * shape.inner  # gate and up, and one of them on its way there
    return whole - (shape.linears - at_work) * load.weight_bytes + int(held)


def learner_on_card(shape: Shape, load: LearnerLoad) -> Need:
    """What a learner takes on its GPU."""
    adapter = shape.adapter(load.rank)
    return {
        "weights": base_bytes(shape, load),
        "adapters": (8 + 8 + 16 * load.reader) * adapter,  # policy and live with room for gradients
        "optimiser": 8 * adapter * (1 + SNAPSHOTS),
        "activations": _passing(shape, load),
        "logits": 4 * LOGIT_BYTES,
        "critic": 2 * 4 * load.rollouts * load.rollout_tokens * shape.hidden,
        "CUDA": CUDA_BYTES,
    }


def learner_in_ram(shape: Shape, load: LearnerLoad) -> Need:
    """What a learner takes on a CPU."""
    adapter, weights = shape.adapter(load.rank), base_bytes(shape, load)
    states = 4 * load.rollouts * load.rollout_tokens * shape.hidden
    return {
        "process": PROCESS_BYTES,
        "weights": weights + (4 * shape.parameters if load.blocks == "native" else 0),  # packed both ways
        "adapters": (20 + 16 * load.reader) * adapter,
        "optimiser": 8 * adapter + 12 * adapter * SNAPSHOTS,
        "activations": _passing(shape, load),
        "logits": 2 * LOGIT_BYTES,
        "critic": 2 * states,
        "freed": min(HEAP_BYTES, weights),  # of the copies that loading makes
    }


def _passing(shape: Shape, load: LearnerLoad) -> int:
    """The most that a pass holds: one with a gradient, or one without that keeps the states of all blocks."""
    longest = max(load.update_tokens, load.context)
    widest = max(load.pass_tokens, load.context)
    states = widest * shape.hidden * (shape.layers + 1) * load.weight_bytes
    return max(longest * kept_bytes(shape, load), states)
