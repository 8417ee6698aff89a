"""The habits that CONTRIBUTING.md asks for and that a program can check."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("feedback", "deploy", "learner", "serve", "hearken", "bench", "scripts", "examples")
FILE_LINES, FUNCTION_LINES = 300, 60

LONG_FILES = {
    "bench/swap.py": 340,
    "deploy/controller/loop.py": 350,
    "deploy/decide/release.py": 350,
    "deploy/history/releases.py": 310,
    "feedback/sqlite/log.py": 430,
    "feedback/sqlite/rows.py": 450,
    "feedback/privacy/vault.py": 390,
    "hearken/demo/demo.py": 405,
    "hearken/operate/doctor.py": 310,
    "hearken/machine/engine.py": 330,
    "hearken/models/support_desk.py": 370,
    "learner/model/blocks.py": 470,
    "learner/reward/features.py": 340,
    "learner/votes/labels.py": 365,
    "learner/reward/likelihoods.py": 305,
    "learner/model/shared.py": 585,
    "learner/settings.py": 465,
    "serve/receipts/reader.py": 310,
    "serve/engines/watching.py": 310,
}
LONG_FUNCTIONS = {
    "bench/_hearken_ppo.py:_measure": 70,
    "bench/_trl_ppo.py:main": 120,
    "bench/gpu_loop.py:run": 100,
    "learner/loop/metrics.py:__init__": 156,
}
"""Those that were longer when the caps came, and what they may have: no new ones, no larger numbers."""


def sources() -> Iterator[tuple[str, str]]:
    """Each of the project's Python files, without the tests: its path and its text."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text()


def functions(text: str) -> Iterator[tuple[str, int]]:
    """Each function of a text: its name and its lines."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def check(lengths: dict[str, int], cap: int, exceptions: dict[str, int]) -> None:
    """Nothing is longer than the cap but the exceptions, and none of these is there without need."""
    over = {name: lines for name, lines in lengths.items() if lines > exceptions.get(name, cap)}
    assert not over, f"longer than {cap} lines, or than its exception allows: divide it"
    done = {name for name in exceptions if lengths.get(name, 0) <= cap}
    assert not done, "within the cap now, or gone: take it out of the list, so that it stays so"
    loose = {name: lengths[name] for name, most in exceptions.items() if lengths[name] <= most - 20}
    assert not loose, "shorter by now: lower its number"


def test_files_and_functions_have_one_idea_and_one_phase() -> None:
    files = {path: len(text.splitlines()) for path, text in sources()}
    found: dict[str, int] = {}
    for path, text in sources():
        for name, lines in functions(text):
            found[f"{path}:{name}"] = max(lines, found.get(f"{path}:{name}", 0))
    check(files, FILE_LINES, LONG_FILES)
    check(found, FUNCTION_LINES, LONG_FUNCTIONS)


SKIPPING = """
import pytest
from tests.servers import need

def test_without_a_program(): need("no-such-program")
def test_without_a_package(): pytest.importorskip("no_such_package")
@pytest.mark.skipif(True, reason="this machine is of another kind")
def test_elsewhere(): assert False
def test_here(): pass
"""


@pytest.mark.parametrize(
    ("ci", "outcome"), [("true", "2 failed, 1 passed, 1 skipped"), ("", "1 passed, 3 skipped")]
)
def test_what_is_missing_fails_in_ci_and_is_skipped_elsewhere(tmp_path: Path, ci: str, outcome: str) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_runtest_makereport\n")
    (tmp_path / "test_some.py").write_text(SKIPPING)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), tmp_path]
    environment = os.environ | {"CI": ci, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert outcome in done.stdout, done.stdout


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as a link has them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)|`", r"\1", title) for title in titles)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda page: page.name)
def test_a_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        file, _, anchor = link.partition("#")
        if "://" in link:
            continue
        there = page.parent / file if file else page
        assert there.exists(), f"{link}: there is no such file"
        assert not anchor or anchor in anchors(there), f"{link}: there is no such heading"


def chance_words(text: str) -> Iterator[str]:
    """The words that a test wants to be absent and that a random hexadecimal id has now and then.

    `"ada" not in answer` fails once in some hundred runs.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.NotIn):
            word = ast.unparse(node.left).removeprefix("b").strip("'")
            if isinstance(node.left, ast.Constant) and re.fullmatch("[0-9a-f]{2,6}", word):
                yield f"line {node.lineno}: {word}"


def found_in_tests(find: Callable[[str], Iterator[str]]) -> dict[Path, list[str]]:
    """What is found in the text of each file of tests that has any."""
    found = {path: list(find(path.read_text())) for path in ROOT.glob("tests/**/test_*.py")}
    return {path: words for path, words in found.items() if words}


def test_no_test_looks_for_a_word_that_an_id_has_by_chance() -> None:
    assert found_in_tests(chance_words) == {}


def test_a_word_that_an_id_has_by_chance_is_found() -> None:
    text = 'assert "ada" not in a\nassert b"4711" not in b\nassert "grace" not in c\nassert "ada" in d\n'
    assert list(chance_words(text)) == ["line 1: ada", "line 2: 4711"]


PASSING = re.compile(r"\b(time\.\w+|uuid\w*|secrets\.\w+|random\.\w+|datetime\.now|gzip\.compress)\(")
"""Calls that give something else in each process or second."""


def passing_names(text: str) -> Iterator[str]:
    """The cases that a test is made of and that another process of the same run would make otherwise.

    Processes that name tests differently refuse to run any.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            for line in map(ast.unparse, node.decorator_list):
                if "parametrize" in line and (found := PASSING.search(line)):
                    yield f"{node.name}: {found[1]}"


def test_no_test_is_named_by_what_passes() -> None:
    assert found_in_tests(passing_names) == {}


def test_a_name_that_passes_is_found() -> None:
    decorated = "@pytest.mark.parametrize('x', [{}])\ndef test_it(x): pass\n"
    for case, found in (("gzip.compress(b'')", ["gzip.compress"]), ("time.time()", ["time.time"]), ("1", [])):
        assert list(passing_names(decorated.format(case))) == [f"test_it: {name}" for name in found]
