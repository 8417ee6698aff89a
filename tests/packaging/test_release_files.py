"""A release: what scripts/release.sh builds, and that the workflow builds what the chart names."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.packaging.test_images import stages
from tests.packaging.tools import ROOT, find_tool

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def workflow() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    return loaded


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What git knows of this repository, without what was built in it."""
    copy = tmp_path / "tree"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "bench/")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


def release(tree: Path, version: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "PYTHON": sys.executable, "HELM": find_tool("helm", "run scripts/tools.sh")}
    return subprocess.run(
        [tree / "scripts/release.sh", version], env=env, capture_output=True, text=True, timeout=300
    )


def test_wheel_and_chart_are_whole_and_of_the_version(tree: Path) -> None:
    built = release(tree, VERSION)
    assert built.returncode == 0, built.stderr
    (wheel,) = (tree / "dist").glob(f"hearken-{VERSION}-*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    pages = {f"serve/pages/{file.name}" for file in (ROOT / "serve/pages").iterdir()}
    assert pages <= inside, "a page without its scripts"
    assert {f"hearken/personas/{file.name}" for file in (ROOT / "hearken/personas").iterdir()} <= inside
    native = {
        file.name for kind in ("cpp", "h") for file in (ROOT / "learner/model/native").glob(f"*.{kind}")
    }
    assert {f"learner/model/native/{name}" for name in native} <= inside, (
        "code that is compiled at its first use"
    )
    with tarfile.open(tree / "dist" / f"hearken-{VERSION}.tgz") as chart:
        packed = set(chart.getnames())
    templates = {f"hearken/templates/{file.name}" for file in (ROOT / "helm/templates").iterdir()}
    assert templates | {"hearken/rules/hearken.rules.yaml", "hearken/dashboards/hearken.json"} <= packed


def test_a_tag_that_is_no_version_of_the_files_is_refused(tree: Path) -> None:
    refused = release(tree, "9.9.9")
    assert refused.returncode != 0
    assert f"pyproject.toml says version {VERSION}, not 9.9.9" in refused.stderr
    assert not (tree / "dist").exists()


def test_the_workflow_tests_first_and_builds_the_images_that_the_chart_names() -> None:
    jobs = workflow()["jobs"]
    assert {name for name, job in jobs.items() if job.get("needs") == "test"} == {"files", "images"}
    assert {"run": ".ci/run"} in jobs["test"]["steps"]
    images = yaml.safe_load((ROOT / "helm/values.yaml").read_text())["images"]
    named = {images[name]["repository"].partition("/")[2] for name in ("hearken", "learner")}
    assert set(jobs["images"]["strategy"]["matrix"]["target"]) == named
    assert named <= stages().keys()
    commands = "\n".join(step.get("run", "") for step in jobs["files"]["steps"])
    for script in re.findall(r"^(scripts/\S+)", commands, re.MULTILINE):
        assert os.access(ROOT / script, os.X_OK)
