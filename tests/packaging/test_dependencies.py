"""What is imported is declared: a package that comes with another one today may not tomorrow."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement

from tests.packaging.tools import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
INSTALLED = importlib.metadata.packages_distributions()
ROOMS = {
    "feedback": (),
    "deploy": (),
    "serve": (),
    "learner": ("learner",),
    "hearken": ("learner", "cpu", "gpu", "demo"),
    "bench": tuple(EXTRAS),
    "scripts": tuple(EXTRAS),
    "examples": tuple(EXTRAS),
    "tests": tuple(EXTRAS),
}
"""The extras that a file of each room may count on. In a function, what runs may ask for any but `dev`."""

ELSEWHERE = {"bench/_trl_ppo.py", "bench/_trl_reward.py"}
"""Run by an interpreter of their own, which has TRL."""


def normal(name: str) -> str:
    """A package's name as an index knows it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras: str) -> set[str]:
    """The packages of the base install and of some extras."""
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in EXTRAS[extra])]
    return {normal(Requirement(text).name) for text in texts}


def imports(node: ast.AST, later: bool = False) -> Iterator[tuple[str, bool]]:
    """The packages that a tree imports, and whether that is only when a function is called, or for types."""
    for child in ast.iter_child_nodes(node):
        waits = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        waits |= isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if isinstance(child, ast.Import):
            yield from ((alias.name.partition(".")[0], later) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
            yield child.module.partition(".")[0], later
        else:
            yield from imports(child, later or waits)


def undeclared(room: str) -> set[str]:
    """What the files of a room import and may not, as "file: package"."""
    always, sometimes = declared(*ROOMS[room]), declared(*(set(EXTRAS) - {"dev"}), *ROOMS[room])
    found = set()
    for path in (ROOT / room).rglob("*.py"):
        file = str(path.relative_to(ROOT))
        if file in ELSEWHERE:
            continue
        for package, later in imports(ast.parse(path.read_text())):
            if package in ROOMS or package in sys.stdlib_module_names:
                continue
            names = {normal(name) for name in INSTALLED.get(package, [package])}
            if not names & (sometimes if later else always):
                found.add(f"{file}: {package}")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_every_package_that_a_room_imports_is_declared_for_it(room: str) -> None:
    assert undeclared(room) == set()


def test_what_is_pinned_is_what_is_declared() -> None:
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = dict(line.split("==") for line in lock if "==" in line and not line.startswith("#"))
    pinned = {normal(name): version for name, version in pinned.items()} | {"torch": "2.13.0"}
    wanted = [*PROJECT["dependencies"], *EXTRAS["learner"], *EXTRAS["demo"], *EXTRAS["dev"]]
    for requirement in map(Requirement, wanted):
        version = pinned.get(normal(requirement.name))
        assert version is not None, f"{requirement.name} is in no line of requirements.lock"
        assert requirement.specifier.contains(version), f"{requirement} and the lock's {version}"
