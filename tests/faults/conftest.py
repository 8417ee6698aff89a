"""A data folder with a secret, and an engine that answers like vLLM."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.traffic import SECRET
from tests.learner.conftest import make_random_model
from tests.serve.fake_vllm import FakeVllm, fake_engine


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random model that knows every token of the examples and of the fake engine."""
    folder: Path = tmp_path_factory.mktemp("model")
    make_random_model(folder, tokens=1024)
    return str(folder)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "secret").write_bytes(SECRET)
    return folder


@pytest.fixture
def engine() -> Iterator[FakeVllm]:
    with fake_engine() as server:
        yield server
