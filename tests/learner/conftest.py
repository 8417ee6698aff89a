"""A model small enough for unit tests: the tiny model's architecture with random weights."""

from pathlib import Path

import pytest

from bench._shapes import make_random_model
from learner.model.machine import has_fast_bf16


def need_fast_bf16() -> None:
    """Skip a test of the compiled code where the processor has not what it is made of."""
    if not has_fast_bf16():
        pytest.skip("the compiled code needs a processor with AVX512-BF16")


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of the model that `make_random_model` writes."""
    folder: Path = tmp_path_factory.mktemp("random_model")
    make_random_model(folder)
    return str(folder)
