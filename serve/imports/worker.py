"""The process in which imports are worked off, as the gateway sees it."""

import logging
import pickle
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress

from feedback.exchange.import_batches import Batch
from feedback.exchange.import_job import Job, Refused, Said
from feedback.exchange.import_report import Report

log = logging.getLogger(__name__)


class WorkerGone(Exception):
    """The process ended in the middle of a job."""


class ImportWorker:
    """Gives jobs to a process that `command` starts. One job at a time; `stop` may come from any thread."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, job: Job, take: Callable[[Batch], None]) -> Report | Refused:
        """Work a job off; waits. `take` gets each batch and makes it durable.

        Raises WorkerGone, and what `take` raises: the process is ended then, as the rest is not wanted.
        """
        process = self._started()
        try:
            return _run(process, job, take)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            self.stop()
            raise WorkerGone(f"the import's process ended with {process.returncode}") from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process; a job that runs raises WorkerGone."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # what was not flushed is not wanted
                if pipe is not None:
                    pipe.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            log.info("a process for imports was started: %d", self._process.pid)
        return self._process


def _run(process: subprocess.Popen[bytes], job: Job, take: Callable[[Batch], None]) -> Report | Refused:
    assert process.stdin is not None
    assert process.stdout is not None
    pickle.dump(job, process.stdin)
    process.stdin.flush()
    while True:
        said: Said = pickle.load(process.stdout)
        if not isinstance(said, Batch):
            return said
        take(said)
