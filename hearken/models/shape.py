"""The sizes of a model that memory follows from, read off config.json and the headers of its weights.

Only decoder-only transformers have such a shape; of others `shape_of` says that it cannot tell.
"""

import json
import math
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hearken.base.errors import UsageError

Config = dict[str, Any]
"""A config.json."""


def read_config(folder: Path) -> Config:
    """A model's config.json. Raises UsageError when it cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder}/config.json cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{folder}/config.json cannot be read: it holds no JSON object")
    return config


def language_part(config: Config) -> Config:
    """The config of the part that writes text; models that see or hear as well keep it one level down."""
    return config.get("text_config") or config


_LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def position_limit(config: Config) -> int | None:
    """Tokens that a model can have in one sequence, as it was made; None where its config does not say."""
    inner = language_part(config)
    limit = next((int(inner[name]) for name in _LIMITS if inner.get(name)), None)
    scaling = inner.get("rope_scaling") or inner.get("rope_parameters") or {}
    original, factor = scaling.get("original_max_position_embeddings"), scaling.get("factor")
    if limit is not None and original and factor:
        return max(limit, int(original * factor))
    return limit


_BIASED = ("qwen2", "qwen2_moe")
"""In these, queries, keys and values have a bias, of which config.json says nothing."""

_PLAIN = ("llama", "mistral", "qwen2")
"""Kinds that hearken's own blocks compute (`learner.model.blocks`)."""

_NORMED_HEADS = ("qwen3", "qwen3_moe")
"""In these there is a norm for queries and one for keys."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder-only transformer.

    parameters: of all of it. inner: width of the MLP. file_bytes: of its weights as
    they are stored, None where only its config is known; quantized: whether in fewer than 16 bits.
    """

    parameters: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    inner: int
    vocabulary: int
    plain: bool = False  # hearken's own blocks compute it
    experts: bool = False  # the MLP is a mixture: its experts have no adapters
    file_bytes: int | None = None
    quantized: bool = False

    @property
    def key_values(self) -> int:
        """Numbers that one token leaves in the KV cache: a key and a value for each head of each block."""
        return 2 * self.layers * self.kv_heads * self.head_size

    @property
    def linears(self) -> int:
        """Parameters of the blocks' linear layers, without those of experts."""
        query, key_value = self.heads * self.head_size, self.kv_heads * self.head_size
        block = 2 * self.hidden * (query + key_value)
        if not self.experts:
            block += 3 * self.hidden * self.inner
        return self.layers * block

    def adapter(self, rank: int) -> int:
        """Parameters of a LoRA adapter on all linear layers of the blocks (Hu et al. 2021, arXiv:2106.09685):
        rank * (inputs + outputs) each."""
        query, key_value = self.heads * self.head_size, self.kv_heads * self.head_size
        ends = 2 * (self.hidden + query) + 2 * (self.hidden + key_value)
        if not self.experts:
            ends += 3 * (self.hidden + self.inner)
        return rank * ends * self.layers


def shape_of_config(config: Config) -> Shape:
    """The shape of a model of Llama's family. Raises UsageError when its config lacks one of the sizes."""
    inner = language_part(config)
    try:
        hidden, layers = int(inner["hidden_size"]), int(inner["num_hidden_layers"])
        heads, vocabulary = int(inner["num_attention_heads"]), int(inner["vocab_size"])
        width = int(inner.get("intermediate_size") or 4 * hidden)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"config.json does not say how large the model is: {error}") from error
    experts = int(inner.get("num_experts") or inner.get("num_local_experts") or 0)
    if experts:
        width = int(inner.get("moe_intermediate_size") or width) * int(inner.get("num_experts_per_tok") or 1)
    shape = Shape(
        parameters=0,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=int(inner.get("num_key_value_heads") or heads),
        head_size=int(inner.get("head_dim") or hidden // heads),
        inner=width,
        vocabulary=vocabulary,
        plain=inner.get("model_type") in _PLAIN and not experts,
        experts=bool(experts),
        quantized="quantization_config" in config,
    )
    return replace(shape, parameters=_count(shape, inner))


def _count(shape: Shape, config: Config) -> int:
    """Parameters of a Llama of this shape (Touvron et al. 2023, arXiv:2302.13971), or of a Qwen."""
    query, key_value = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    block = 2 * shape.hidden * query + 2 * shape.hidden * key_value + 3 * shape.hidden * shape.inner
    block += 2 * shape.hidden
    kind = config.get("model_type")
    if config.get("attention_bias") or kind in _BIASED:
        block += query + 2 * key_value
    if kind in _NORMED_HEADS:
        block += 2 * shape.head_size
    tables = 1 if config.get("tie_word_embeddings") else 2
    return tables * shape.vocabulary * shape.hidden + shape.layers * block + shape.hidden


def shape_of(folder: Path) -> Shape:
    """The shape of the model in a folder. Raises UsageError when its config or weights do not tell."""
    shape = shape_of_config(read_config(folder))
    parameters = stored = 0
    for file in sorted(folder.glob("*.safetensors")):
        stored += file.stat().st_size
        parameters += _stored_parameters(file)
    if not parameters:
        return shape
    # Packed weights are fewer numbers than they stand for.
    return replace(shape, parameters=shape.parameters if shape.quantized else parameters, file_bytes=stored)


def _stored_parameters(file: Path) -> int:
    """The numbers in a safetensors file, by its header: its length in 8 bytes, then JSON."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, 100 << 20)))
        return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise UsageError(f"{file} is damaged: its header cannot be read; fetch it again") from error
