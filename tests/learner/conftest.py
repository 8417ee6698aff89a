"""A model small enough for unit tests: the tiny model's architecture with random weights."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of the model that `make_random_model` writes."""
    folder: Path = tmp_path_factory.mktemp("random_model")
    make_random_model(folder)
    return str(folder)


def make_random_model(folder: Path, tokens: int = 64) -> None:
    """Write a Qwen2 of two layers with random weights; the end token is 2."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=tokens,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
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
