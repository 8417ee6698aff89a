"""Checks of a user's own, which may veto a candidate: functions that a setting names by import path.

A check is called once for each candidate, with all pairs of answers to the same prompts, and gives None, or
why the candidate must not be offered:

    def no_promises(pairs: Sequence[Pair]) -> str | None: ...

It runs in a process of its own, with nothing but the pairs: one that raises, hangs, exits or takes all memory
is a veto with its reason, and ends nothing else.

    python -m deploy.decide.own_checks PATH < pairs.json    prints {"veto": null}, or a reason
"""

import inspect
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any

from deploy.answer_guards import Pair
from feedback.core.classes import find_module

logger = logging.getLogger(__name__)

REASON_CHARACTERS = 300
"""What is kept of a reason: it goes into the log for good."""

FIND = "--find"
"""With this a check is looked up, and not called."""

Check = Callable[[Sequence[Pair]], str | None]


def vetoes(checks: Sequence[str], pairs: Sequence[Pair], seconds: float) -> list[str]:
    """What each check that is against a candidate says, with its name. seconds: for each of them."""
    found = [(path, veto(path, pairs, seconds)) for path in checks]
    return [f"{path} says: {why}" for path, why in found if why is not None]


def problem(path: str, seconds: float) -> str | None:
    """Why a check cannot be called, None where it can."""
    return _run([path, FIND], [], seconds)


def veto(path: str, pairs: Sequence[Pair], seconds: float) -> str | None:
    """Why one check is against a candidate, None where it is not. Never raises for what the check does."""
    return _run([path], pairs, seconds)


def _run(arguments: list[str], pairs: Sequence[Pair], seconds: float) -> str | None:
    # -P: no package of the working folder takes the place of one of ours
    command = [sys.executable, "-P", "-m", "deploy.decide.own_checks", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
    try:
        done = subprocess.run(
            command,
            input=json.dumps([pair._asdict() for pair in pairs]),
            capture_output=True,
            text=True,
            timeout=seconds,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not end within {seconds:g} s and was stopped; check_seconds is how long it may take"
    if done.stderr.strip():
        logger.warning("%s wrote: %s", arguments[0], done.stderr.strip()[-2000:])
    return _read(done.stdout, done.returncode)


def _read(printed: str, code: int) -> str | None:
    try:
        why = json.loads(printed.strip().rpartition("\n")[2])["veto"]  # what it printed itself comes before
    except (ValueError, KeyError, TypeError):
        return f"its process ended with {code} and without a verdict"
    return None if why is None else " ".join(str(why).split())[:REASON_CHARACTERS]


# -- in the process of the check --------------------------------------------------------------------------


def found(path: str) -> Check:
    """The function that an import path names. Raises `ValueError`, with one line that says what is right."""
    module_name, _, name = path.partition(":")
    module = find_module(module_name)
    check = getattr(module, name, None)
    if not callable(check) or inspect.isclass(check):
        raise ValueError(f"{module_name} has no function {name}")
    return check  # type: ignore[no-any-return]


def _not_found(path: str) -> str | None:
    try:
        found(path)
    except ValueError as error:
        return str(error)
    return None


def called(path: str, pairs: Sequence[Pair]) -> str | None:
    """What a check says of pairs. What it raises, or gives beside None and a text, is a reason as well."""
    try:
        check = found(path)
    except ValueError as error:
        return str(error)
    try:
        why: Any = check(pairs)
    except Exception as error:  # whatever somebody else's code raises
        sys.excepthook(type(error), error, error.__traceback__)
        return f"it raised {type(error).__name__}: {error}"
    if why is None:
        return None
    if not isinstance(why, str):
        return f"it gave {why!r:.80}; None, or a text that says why, is needed"
    return why or "no reason given"


def main() -> int:
    """Run one check on the pairs that come in, and print what it says."""
    pairs = [Pair(**each) for each in json.load(sys.stdin)]
    with redirect_stdout(io.StringIO()):  # what a check prints is no verdict
        why = called(sys.argv[1], pairs) if FIND not in sys.argv else _not_found(sys.argv[1])
    print(json.dumps({"veto": why}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
