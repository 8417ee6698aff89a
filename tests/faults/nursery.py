"""Forks learners on command: `python -m tests.faults.nursery SETTINGS`, words on stdin.

SETTINGS is JSON of what `LearnerSettings` takes.

    ready?  answers once everything is imported
    start   forks a learner and answers its process id
    wait    answers the wait status of the learner, when it has ended
"""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from learner.settings import LearnerSettings


def settings_of(given: dict[str, Any]) -> "LearnerSettings":
    """The settings that were written as JSON."""
    from deploy.decide.gate import GateLimits
    from learner.settings import LearnerSettings

    typed = {"data": Path(given["data"]), "gate": GateLimits(**given.get("gate", {}))}
    return LearnerSettings(**given | typed)


def main(given: dict[str, Any]) -> None:
    """Obey until stdin ends."""
    from learner.main import run

    settings = settings_of(given)

    def learn() -> NoReturn:
        status = 0
        try:
            run(settings)
        except BaseException:
            traceback.print_exc()
            status = 1
        finally:
            sys.stderr.flush()
            os._exit(status)

    pid = 0
    for line in sys.stdin:
        word = line.strip()
        if word == "start":
            pid = os.fork()
            if pid == 0:
                os.close(0)
                learn()
            print(pid, flush=True)
        elif word == "wait":
            print(os.waitpid(pid, 0)[1], flush=True)
        else:
            print("ready", flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
