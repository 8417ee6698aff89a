"""The process in which a gateway's imports are worked off: `python -m hearken.data.import_worker MODEL`.

It reads pickled jobs from its input and writes what they say to its output, until the input ends: with the
gateway, however that ended. It gives way to every other process, and has a bound on its memory.
"""

import os
import pickle
import resource
import signal
import sys
from pathlib import Path
from typing import BinaryIO

from feedback.exchange.import_job import Job, Refused, work
from feedback.exchange.importing import Encode
from feedback.rows.examples import Message
from hearken.base.errors import UsageError

NICENESS = 10
MEMORY_BYTES = 1024 * 1024 * 1024
"""What a job may take beside the tokenizer."""


class Tokens:
    """An `Encode` that loads the model's tokenizer, which takes seconds, when there is an example to encode.

    Raises UsageError and ImportError where there is none.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._encode: Encode | None = None

    def __call__(self, messages: tuple[Message, ...], answer: str) -> tuple[list[int], list[int]]:
        if self._encode is None:
            from hearken.data.importing import choose_model, encoder

            bound_memory(None)
            self._encode = encoder(choose_model(self._model))
            bound_memory(MEMORY_BYTES)
        return self._encode(messages, answer)


def bound_memory(more: int | None) -> None:
    """Let the heap grow by so many bytes, None for any: a small file can hold very many small objects."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    most = resource.RLIM_INFINITY if more is None else pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_DATA, (most, resource.RLIM_INFINITY))


def serve(model: str, jobs: BinaryIO, said: BinaryIO) -> None:
    """Work off jobs until there are no more."""
    bound_memory(MEMORY_BYTES)
    encode = Tokens(model)
    while (job := _next(jobs)) is not None:
        try:
            for message in work(job, encode):
                _say(message, said)
        except UsageError as error:
            _say(Refused("model", str(error)), said)
        except ImportError as error:
            _say(Refused("model", f"its machine needs hearken[learner] ({error})"), said)


def _next(jobs: BinaryIO) -> Job | None:
    try:
        job: Job = pickle.load(jobs)
    except EOFError:
        return None
    return job


def _say(message: object, said: BinaryIO) -> None:
    pickle.dump(message, said)
    said.flush()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the gateway, which ends its imports
    os.nice(NICENESS)
    said = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no message
    try:
        serve(sys.argv[1], sys.stdin.buffer, said)
    except BrokenPipeError:  # nobody reads any more
        os._exit(1)


if __name__ == "__main__":
    main()
