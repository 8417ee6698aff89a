"""Models of a given shape with random weights: how long something takes does not depend on what they say."""

from pathlib import Path
from typing import Any

QWEN: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
"""Qwen2.5-0.5B."""

TINY: dict[str, Any] = QWEN | {
    "vocab_size": 1024,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 1024,
}
"""Of the same kind, for a CPU."""


def make_tokenizer(folder: Path) -> None:
    """The tiny model's tokenizer, of 1,024 tokens and with a chat template, in `folder`; takes seconds."""
    from hearken.models.support_desk import write_demonstrations
    from learner.sft.demonstrations import read_demonstrations
    from learner.sft.tiny import TinyRecipe, train_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    demonstrations = folder / "demonstrations.jsonl"
    write_demonstrations(demonstrations, 2000, 0)
    tokenizer = train_tokenizer(read_demonstrations(demonstrations), TinyRecipe())
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    demonstrations.unlink()


def make_model(folder: Path, shape: dict[str, Any]) -> int:
    """A random Qwen2 of a shape, in bfloat16, beside the tokenizer in `folder`; how many weights it has."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**shape, **ends, dtype="bfloat16")).to(torch.bfloat16)
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def make_random_model(folder: Path, tokens: int = 64, layers: int = 2) -> None:
    """Write a small Qwen2 with random weights; the end token is 2."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=tokens,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.2,  # far from uniform, so that differences show
        eos_token_id=2,
        pad_token_id=0,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Qwen2ForCausalLM(config).save_pretrained(folder)
