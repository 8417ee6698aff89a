"""What follows when engines cannot prove a version: is the version at fault, or is it they? Pure functions.

An engine that cannot prove what it is asked for does not get it: it serves nobody what it cannot prove, and
goes on with what it can. That is its quarantine. It is tried again every minute, and what others prove is not
judged by it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from deploy.engines.one_engine import Problem

PARITY = "parity"
"""The guardrail that engines fail, not the log: its name in a decision's numbers."""

UNSERVED_SECONDS = 60.0
"""How long a version in use may be served by no engine, while those that could may come back."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How engines stand to a version.

    problems: of those that answer and do not have it. proven: whether any has it. at_work: whether one is
    still busy. all_answer: whether none is away or hangs.
    """

    problems: Sequence[Problem]
    proven: bool
    at_work: bool
    all_answer: bool


def refusal(standing: Standing, broken: Collection[str]) -> Problem | None:
    """The problem for which a candidate is refused, None while there is none: engines that prove it say more
    than one that does not. broken: engines that cannot prove what is in use either; they judge nobody.

    While engines are away that might prove it, or the registry is, those that are there refuse nothing but
    wrong files.
    """
    of_files = next((p for p in standing.problems if p.kind == "files"), None)
    if of_files is not None or standing.proven or not standing.all_answer:
        return of_files
    if any(problem.kind == "away" for problem in standing.problems):
        return None
    return next((p for p in standing.problems if p.engine not in broken), None)


def is_lost(standing: Standing, unserved_seconds: float) -> bool:
    """Whether no engine can serve a version in use, so that its users need another one.

    At once where all engines compute something else; where some are away, or gave an error, or the files
    cannot be read or had, that may pass, and it is lost after `UNSERVED_SECONDS`.
    """
    if not standing.problems or standing.proven or standing.at_work:
        return False
    certain = standing.all_answer and all(problem.kind == "parity" for problem in standing.problems)
    return certain or unserved_seconds >= UNSERVED_SECONDS
