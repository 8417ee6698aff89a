"""A model's sizes, read from its config.json without torch, and the settings that follow from them.

Settings that are None follow the model. Both the learner and what starts its engine ask here, so that an
engine is always started for the adapters that the learner trains.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIB = 2**30

WIDTH_OF_RATE = 192
"""The hidden size at which `LEARNING_RATE` was measured (a model of 2 million parameters)."""

LEARNING_RATE = 1e-3

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values of --max-lora-rank that vLLM 0.32 knows, from 8 up."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What config.json says of a decoder. `context`: the model's own limit in tokens, if it has one."""

    hidden_size: int
    layers: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_size: int
    vocab_size: int
    context: int | None = None
    tied: bool = False

    @classmethod
    def read(cls, folder: Path) -> "ModelShape":
        """Of a model's folder. Raises ValueError when config.json cannot be read or lacks the sizes."""
        try:
            config = json.loads((folder / "config.json").read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder}/config.json cannot be read: {error}") from error
        return cls.of(config)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "ModelShape":
        """From a parsed config.json, also of multimodal models. Raises ValueError when a size is missing."""
        text = config.get("text_config") or config  # multimodal configs keep it one level down
        try:
            hidden, heads = int(text["hidden_size"]), int(text["num_attention_heads"])
            return cls(
                hidden_size=hidden,
                layers=int(text["num_hidden_layers"]),
                intermediate_size=int(text.get("intermediate_size") or 4 * hidden),
                heads=heads,
                kv_heads=int(text.get("num_key_value_heads") or heads),
                head_size=int(text.get("head_dim") or hidden // heads),
                vocab_size=int(text["vocab_size"]),
                context=context_of(config),
                tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise ValueError(f"config.json does not say how large the model is: {error!r}") from error

    @property
    def projections(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of the linear layers of one block: q, k, v, o, gate, up, down."""
        hidden, q, kv = self.hidden_size, self.heads * self.head_size, self.kv_heads * self.head_size
        inner = self.intermediate_size
        return (hidden, q), (hidden, kv), (hidden, kv), (q, hidden), *((hidden, inner),) * 2, (inner, hidden)

    @property
    def parameters(self) -> int:
        """Parameters of a dense decoder of Llama's family, norms left out."""
        blocks = self.layers * sum(i * o for i, o in self.projections)
        return blocks + self.vocab_size * self.hidden_size * (1 if self.tied else 2)

    def adapter_parameters(self, rank: int) -> int:
        """Parameters of a LoRA adapter on all linear layers of the blocks."""
        return self.layers * rank * sum(i + o for i, o in self.projections)

    def kv_bytes(self, tokens: int, bytes_per_number: int) -> int:
        """Memory of the keys and values of so many tokens."""
        return 2 * self.layers * self.kv_heads * self.head_size * bytes_per_number * tokens


def context_of(config: Mapping[str, Any]) -> int | None:
    """A model's own limit in tokens, from its parsed config.json; None where it says nothing."""
    text = config.get("text_config") or config
    limit = text.get("max_position_embeddings")
    return int(limit) if limit else None


def default_rank(hidden_size: int) -> int:
    """LoRA rank: 8 was enough for models of up to 1,024; wider ones get 16."""
    return 8 if hidden_size <= 1024 else 16


def default_learning_rate(hidden_size: int) -> float:
    """PPO's learning rate at its peak: as 1 / width, never above what was measured at `WIDTH_OF_RATE`.

    That Adam's rate for a matrix falls as 1 / width keeps updates of states equally large (Yang et al. 2022,
    arXiv:2203.03466, table 3). It gives 3.3e-4 at a width of 576 and 5e-5 at 4,096; other RL on LoRA adapters
    of models of billions takes 1e-5 to 1e-4.
    """
    return LEARNING_RATE * min(1.0, WIDTH_OF_RATE / hidden_size)


def engine_rank(rank: int) -> int:
    """The --max-lora-rank that an engine needs for a rank. Raises ValueError above vLLM's largest."""
    for known in VLLM_RANKS:
        if rank <= known:
            return known
    raise ValueError(f"rank is {rank}; vLLM loads adapters up to rank {VLLM_RANKS[-1]}")


def kept_adapters(shape: ModelShape, rank: int, most: int = 16, least: int = 8) -> int:
    """How many adapters an engine keeps in memory: 2 GiB of them in float32, within `least` and `most`."""
    return max(least, min(most, 2 * GIB // (4 * shape.adapter_parameters(rank))))


def cpu_cache_gib(shape: ModelShape, context: int, sequences: int = 4) -> int:
    """GiB of key-value cache of a CPU engine: so many sequences of full length in float32, at least 1."""
    return max(1, -(-shape.kv_bytes(context, 4) * sequences // GIB))
