"""The sub-rooms of rooms: docs/design.md draws and lists them, and imports and files are as it says."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("hearken", "serve", "learner", "deploy", "feedback")
ROOM_FILES, SUB_ROOM_MODULES = 12, 14

FULL = {"feedback/dialects": 16}
"""Sub-rooms that were larger when the cap came, and what they may have: no new ones, no larger numbers."""


def section() -> str:
    """What docs/design.md says of sub-rooms."""
    page = (ROOT / "docs/design.md").read_text()
    (found,) = re.findall(r"^## Sub-rooms\n(.*?)(?=^## )", page, re.MULTILINE | re.DOTALL)
    return str(found)


def picture() -> dict[str, list[list[str]]]:
    """The columns of the picture: a room's lines from the top, each with the names that stand on it."""
    (drawn,) = re.findall(r"```layers\n(.*?)```", section(), re.DOTALL)
    head, rule, *lines = drawn.splitlines()
    columns = [match.span() for match in re.finditer(r"-+", rule)]
    found = {}
    for start, end in columns:
        cells = [line[start:end].strip() for line in lines]
        found[head[start:end].strip()] = [cell.split(", ") for cell in cells if cell]
    return found


def sub_rooms(room: str) -> list[Path]:
    """The folders of a room that are packages."""
    return sorted(init.parent for init in (ROOT / room).glob("*/__init__.py"))


def imports(room: str) -> Iterator[tuple[str, str, str]]:
    """The imports inside a room, as (file, the part that imports, the part that is imported).

    A part is a sub-room, or a file beside them.
    """
    parts = {path.name for path in sub_rooms(room)} | {path.stem for path in (ROOT / room).glob("*.py")}
    for path in (ROOT / room).rglob("*.py"):
        own = path.relative_to(ROOT / room).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                head, _, rest = name.partition(".")
                part = rest.partition(".")[0]
                if head == room and part in parts - {own}:
                    yield str(path.relative_to(ROOT)), own, part


def test_the_picture_is_what_import_linter_checks() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = {each["containers"][0]: each["layers"] for each in contracts if "containers" in each}
    checked = {room: [sorted(line.split(" | ")) for line in lines] for room, lines in layers.items()}
    assert {room: [sorted(line) for line in lines] for room, lines in picture().items()} == checked


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_down_the_picture(room: str) -> None:
    height = {name: number for number, line in enumerate(picture()[room]) for name in line}
    there = {path.name for path in sub_rooms(room)} | {path.stem for path in (ROOT / room).glob("*.py")}
    assert set(height) == there - {"__init__"}, "what is drawn is not what is there"
    found = list(imports(room))
    assert len(found) > 40
    up = {(file, to) for file, own, to in found if own != "__init__" and height[own] >= height[to]}
    assert not up, "these imports go up, or sideways: another place for the module, or for what it needs"


def test_the_table_says_of_every_sub_room_what_it_is_for() -> None:
    listed = dict(re.findall(r"^\| `([\w/]+)/` \| (.*) \|$", section(), re.MULTILINE))
    heads = {}
    for folder in (folder for room in ROOMS for folder in sub_rooms(room)):
        head = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
        heads[str(folder.relative_to(ROOT))] = " ".join(head.partition("\n\n")[0].split())
    assert listed == heads


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_few_files_beside_its_sub_rooms(room: str) -> None:
    files = [path.name for path in (ROOT / room).iterdir() if path.is_file()]
    assert len(files) <= ROOM_FILES, f"{sorted(files)}: a sub-room for some of them"


@pytest.mark.parametrize("room", ROOMS)
def test_a_sub_room_has_few_modules(room: str) -> None:
    counts = {str(path.relative_to(ROOT)): len(list(path.glob("*.py"))) - 1 for path in sub_rooms(room)}
    over = {name: count for name, count in counts.items() if count > FULL.get(name, SUB_ROOM_MODULES)}
    assert not over, f"more than {SUB_ROOM_MODULES} modules, or than the exception allows: divide it"
    loose = {name for name, most in FULL.items() if name in counts and counts[name] < most}
    assert not loose, "smaller by now: lower its number, or take it out of the list"


def test_every_file_that_the_page_names_is_there() -> None:
    page = (ROOT / "docs/design.md").read_text()
    named = set(re.findall(r"`((?:\w+/)+[\w.]+\.\w+)`", page))
    assert len(named) > 150
    assert {path for path in named if not (ROOT / path).exists()} == set()
