"""The sizes of a model that memory follows from, read off config.json."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hearken.errors import UsageError

Config = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder-only transformer of Llama's family."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    inner: int

    @property
    def key_values(self) -> int:
        """Numbers that one token leaves in the KV cache: a key and a value for each head of each block."""
        return 2 * self.layers * self.kv_heads * self.head_size

    def adapter(self, rank: int) -> int:
        """Parameters of a LoRA adapter on all linear layers of the blocks: rank * (inputs + outputs) each."""
        query, key_value = self.heads * self.head_size, self.kv_heads * self.head_size
        ends = 2 * (self.hidden + query) + 2 * (self.hidden + key_value) + 3 * (self.hidden + self.inner)
        return rank * ends * self.layers


def read_config(folder: Path) -> Config:
    """A model's config.json. Raises UsageError when it cannot be read."""
    try:
        config: Config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder}/config.json cannot be read: {error}") from error
    return config


def position_limit(config: Config) -> int | None:
    """A model's own limit in tokens, None where its config says nothing."""
    limit = (config.get("text_config") or config).get("max_position_embeddings")
    return int(limit) if limit else None


def shape_of_config(config: Config) -> Shape:
    """The shape of a model. Raises UsageError when its config lacks one of the sizes."""
    inner = config.get("text_config") or config
    try:
        hidden, heads = int(inner["hidden_size"]), int(inner["num_attention_heads"])
        return Shape(
            hidden=hidden,
            layers=int(inner["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(inner.get("num_key_value_heads") or heads),
            head_size=int(inner.get("head_dim") or hidden // heads),
            inner=int(inner.get("intermediate_size") or 4 * hidden),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"config.json does not say how large the model is: {error}") from error
