"""Whether settings can be used, by all roles: `hearken config check`."""

import subprocess
import sys

from deploy.decide import own_checks
from hearken.base.errors import UsageError
from hearken.config.fields import NEEDED
from hearken.config.layers import Given
from hearken.config.resolve import Config
from learner import optimisers
from learner.optimiser_names import OPTIMISERS
from learner.votes.meanings import BadMeanings, read_meanings


def problems(config: Config) -> list[str]:
    """What each table's class would refuse, one line each; none where all is well.

    A learner without a model is well, as `hearken up` then takes the tiny one.
    """
    if config.get("learner.model").value is NEEDED:
        config = config.over({"learner.model": Given("the tiny model", "default")})
    found = []
    for table in config.tables.classes:
        try:
            config.build(table)
        except UsageError as error:
            found.append(str(error))
    for check in (check_optimiser, check_signals, check_own):
        try:
            check(config)
        except UsageError as error:
            found.append(str(error))
    return list(dict.fromkeys(found))


def check_optimiser(config: Config) -> None:
    """Look up the class that learns, where it is the user's own. Raises UsageError when there is none.

    In a process of its own: it imports torch, which this one would carry along for as long as it runs.
    """
    given = config.get("learner.optimiser")
    if given.value in OPTIMISERS:
        return
    command = [sys.executable, "-m", optimisers.__name__, given.value]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2]
        raise UsageError(f"{given.origin}: {said}")


def check_own(config: Config) -> None:
    """Look up the checks of candidates that are the user's own. Raises UsageError for one that is none."""
    if config.get("learner.answers").value is None:
        return
    given, seconds = config.get("learner.answers.checks"), config.get("learner.answers.check_seconds").value
    for path in given.value:
        if (why := own_checks.problem(path, seconds)) is not None:
            raise UsageError(f"{given.origin}: learner.answers.checks names {path!r}: {why}")


def check_signals(config: Config) -> None:
    """Read the signals file, where there is one. Raises UsageError for what it cannot mean."""
    given = config.get("learner.signals")
    try:
        read_meanings(given.value)
    except BadMeanings as error:
        raise UsageError(f"{given.origin}: {error}") from error
