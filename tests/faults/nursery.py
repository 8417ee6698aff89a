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
from typing import Any, NoReturn


def main(given: dict[str, Any]) -> None:
    """Obey until stdin ends."""
    from learner.loop import run
    from learner.settings import LearnerSettings

    settings = LearnerSettings(**given | {"data": Path(given["data"])})

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
