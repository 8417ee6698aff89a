"""What several tests of releases start from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.world import MakeWorld, World


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[MakeWorld]:
    worlds: list[World] = []

    def make(**options: Any) -> World:
        worlds.append(World(tmp_path / str(len(worlds)), **options))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()
