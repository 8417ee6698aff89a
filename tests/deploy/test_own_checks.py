"""Checks of a user's own: a veto with its reason, whatever the check does, and never silence."""

import time
from pathlib import Path

import pytest

from deploy.answer_guards import Pair
from deploy.decide.gate import GateLimits, verdict
from deploy.decide.own_checks import problem, veto, vetoes
from tests.deploy.builders import GOOD_GATE

PAIRS = [Pair("Where is it?", "It is here.", "It is there, 你好."), Pair("When?", "Now.", "Never.")]

CHECKS = """
import os, sys, time

def fine(pairs):
    print("all is well")
    assert [p.prompt for p in pairs] == ["Where is it?", "When?"] and pairs[0].candidate.endswith("你好.")

def loud(pairs):
    os.system("echo here I am")

def against(pairs):
    return f"{sum('ever' in p.candidate for p in pairs)} of {len(pairs)}\\n say never"

def raises(pairs):
    return {}["no such"]

def hangs(pairs):
    time.sleep(60)

def exits(pairs):
    os._exit(3)

def quits(pairs):
    sys.exit(0)

def gives_true(pairs):
    return True

def long(pairs):
    return "x" * 10_000

nothing = 7
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "somebodys_checks.py").write_text(CHECKS)
    (tmp_path / "broken_checks.py").write_text("import nothing_of_that_name")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("somebodys_checks:fine", None),
        ("somebodys_checks:loud", None),
        ("somebodys_checks:against", "1 of 2 say never"),
        ("somebodys_checks:raises", "it raised KeyError: 'no such'"),
        ("somebodys_checks:exits", "its process ended with 3 and without a verdict"),
        ("somebodys_checks:quits", "its process ended with 0 and without a verdict"),
        ("somebodys_checks:gives_true", "it gave True; None, or a text that says why, is needed"),
        ("somebodys_checks:missing", "somebodys_checks has no function missing"),
        ("somebodys_checks:nothing", "somebodys_checks has no function nothing"),
        ("somebodys_checks:long", "x" * 300),
        (
            "broken_checks:fine",
            "broken_checks cannot be imported (ModuleNotFoundError: No module named 'nothing_of_that_name'); "
            "it must be a module that this Python finds: install it, or name its folder in PYTHONPATH",
        ),
    ],
)  # fmt: skip
def test_a_check_is_a_veto_or_none_whatever_it_does(path: str, why: str | None) -> None:
    assert veto(path, PAIRS, seconds=60) == why


def test_a_check_is_looked_up_without_a_call() -> None:
    assert problem("somebodys_checks:raises", 60) is None
    assert problem("somebodys_checks:missing", 60) == "somebodys_checks has no function missing"


def test_a_check_that_hangs_is_stopped_and_is_a_veto() -> None:
    began = time.monotonic()
    why = veto("somebodys_checks:hangs", PAIRS, seconds=1)
    assert why == "it did not end within 1 s and was stopped; check_seconds is how long it may take"
    assert time.monotonic() - began < 50, "else it was waited for"


def test_a_veto_refuses_a_candidate_with_its_name_and_reason() -> None:
    found = vetoes(("somebodys_checks:fine", "somebodys_checks:against"), PAIRS, 60)
    assert found == ["somebodys_checks:against says: 1 of 2 say never"]
    judged = verdict(GOOD_GATE.model_copy(update={"vetoes": found}), GateLimits())
    assert not judged.passed
    assert judged.sentence == "vetoed, somebodys_checks:against says: 1 of 2 say never"
    assert verdict(GOOD_GATE, GateLimits()).passed
