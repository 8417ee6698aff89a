"""Forks learners on command: `python -m tests.faults.nursery DATA MODEL METRICS_PORT KAFKA`, words on stdin.

    ready?  answers once everything is imported
    start   forks a learner and answers its process id
    wait    answers the wait status of the learner, when it has ended

The engine's address leads nowhere and no number of labels starts PPO: these learners read, join, fit reward
models and write checkpoints.
"""

import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn


def main(data: Path, model: str, port: int, kafka: str | None) -> None:
    """Obey until stdin ends."""
    from learner.loop import run
    from learner.settings import LearnerSettings

    settings = LearnerSettings(
        data=data,
        model=model,
        engine="http://127.0.0.1:9",
        metrics_port=port,
        kafka=kafka,
        threads=1,
        min_labels=10**9,
    )

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
    folder, model_folder, metrics_port, bootstrap = sys.argv[1:]
    main(Path(folder), model_folder, int(metrics_port), bootstrap or None)
