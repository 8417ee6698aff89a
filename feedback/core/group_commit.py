"""One thread that does what others ask for, many things at a time."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Generic, NamedTuple, TypeVar

_GROUP = 1000  # jobs that are done together
T = TypeVar("T")


class _Job(NamedTuple, Generic[T]):
    do: T
    done: "Future[Any]"


class GroupCommit(Generic[T]):
    """Hands whatever waits to `commit`, which gives a result for each, or fails for all of them."""

    def __init__(self, name: str, commit: Callable[[Sequence[T]], Sequence[Any]]) -> None:
        self._name, self._commit = name, commit
        self._jobs: queue.SimpleQueue[_Job[T] | None] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, do: T) -> "Future[Any] | None":
        """The result to come; None when this was closed. Does not wait."""
        done: Future[Any] = Future()
        done.set_running_or_notify_cancel()  # what was asked for is done, whoever stops waiting
        with self._starting:
            if self._closed:
                return None
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                self._thread.start()
            self._jobs.put(_Job(do, done))
        return done

    def close(self) -> None:
        """Finish what was asked for."""
        with self._starting:
            self._closed, thread = True, self._thread
        if thread is not None:
            self._jobs.put(None)
            thread.join()

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            group = [job]
            with suppress(queue.Empty):
                while len(group) < _GROUP and (job := self._jobs.get_nowait()) is not None:
                    group.append(job)
            self._do(group)
            if job is None:
                return

    def _do(self, group: Sequence[_Job[T]]) -> None:
        try:
            results = self._commit([job.do for job in group])
        except Exception as error:  # it is for those who wait
            for job in group:
                job.done.set_exception(error)
        else:
            for job, result in zip(group, results, strict=True):
                job.done.set_result(result)
