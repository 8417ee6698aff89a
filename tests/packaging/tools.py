"""The outside tools of these tests, and where things lie."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
VALUES = ROOT / "tests/packaging/values"
OLDEST, NEWEST = "1.30.0", "1.37.0"  # Kubernetes releases; scripts/kube_schemas.py extracts the same two

Resource = dict[str, Any]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
Render = Callable[..., list[Resource]]  # (values, *sets)


def find_tool(name: str, how: str) -> str:
    """The path of a tool. Without it the test skips, and fails in CI (see tests/conftest.py)."""
    local = ROOT / ".tools/bin" / name
    found = str(local) if local.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: {how}")
    return found


def runner(name: str, how: str) -> Run:
    """A function that runs the tool from the top of the repository and captures what it prints."""
    path = find_tool(name, how)

    def run(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        command = [path, *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    return run
