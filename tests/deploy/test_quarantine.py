"""Who is at fault when a version cannot be proven: the version, or the engines?"""

from typing import Any

import pytest

from deploy.engines.one_engine import Problem
from deploy.engines.quarantine import UNSERVED_SECONDS, Standing, is_lost, refusal

A, B = "http://a", "http://b"


def problem(engine: str, kind: Any = "parity") -> Problem:
    return Problem(engine, f"{engine} does not", {}, kind)


def standing(*problems: Problem, **known: bool) -> Standing:
    return Standing(problems, **{"proven": False, "at_work": False, "all_answer": True, **known})


def test_a_candidate_is_refused_by_what_all_engines_say_or_its_files() -> None:
    assert refusal(standing(), ()) is None
    assert refusal(standing(problem(A)), ()) == problem(A)
    assert refusal(standing(problem(A), proven=True), ()) is None, "another one proves it"
    assert refusal(standing(problem(A), all_answer=False), ()) is None, "another one might"
    assert refusal(standing(problem(A)), (A,)) is None, "it proves nothing else either"
    assert refusal(standing(problem(A), problem(B, "error")), (A,)) == problem(B, "error")
    for known in ({"proven": True}, {"all_answer": False}):
        assert refusal(standing(problem(A, "files"), **known), (A,)) == problem(A, "files")


@pytest.mark.parametrize("kind", ["parity", "error", "files"])
def test_what_no_engine_can_serve_is_lost_at_once_or_after_a_while(kind: str) -> None:
    certain = kind == "parity"
    assert is_lost(standing(problem(A, kind)), 0.0) == certain
    assert is_lost(standing(problem(A, kind)), UNSERVED_SECONDS)
    assert not is_lost(standing(problem(A, kind), all_answer=False), UNSERVED_SECONDS - 1)
    assert is_lost(standing(problem(A, kind), all_answer=False), UNSERVED_SECONDS)
    for known in ({"proven": True}, {"at_work": True}):
        assert not is_lost(standing(problem(A, kind), **known), 10 * UNSERVED_SECONDS)
    assert not is_lost(standing(all_answer=False), 10 * UNSERVED_SECONDS), "nothing answers: nothing is known"
