"""A model small enough for unit tests: the tiny model's architecture with random weights."""

from pathlib import Path

import pytest

from bench._shapes import make_random_model


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of the model that `make_random_model` writes."""
    folder: Path = tmp_path_factory.mktemp("random_model")
    make_random_model(folder)
    return str(folder)
