"""Asks an engine that may end at any time and start again: what was broken off is begun anew."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import TypeVar

from deploy.engines.client import EngineClient, EngineError

ENGINE_SECONDS = 300.0  # how long an engine may take to start again and have the policy
ATTEMPTS = 3  # of a piece of work that the engine's end broke off
LOOK_SECONDS = 0.3

Found = TypeVar("Found")


class Patience:
    """Does work that needs an engine, beside looking after the processes of which the engine is one.

    `goes_on()` looks after them, in the caller's thread; False: there is nobody left to wait for. `stopping`
    is set when the user wants an end at once.
    """

    def __init__(
        self,
        url: str,
        goes_on: Callable[[], bool],
        stopping: threading.Event,
        say: Callable[[str], None],
        engine_seconds: float = ENGINE_SECONDS,
    ) -> None:
        self._engine = EngineClient(url, timeout=10.0)
        self._goes_on = goes_on
        self._stopping = stopping
        self._say = say
        self._engine_seconds = engine_seconds

    def close(self) -> None:
        self._engine.close()

    def ask(self, version: Callable[[], str], work: Callable[[str], Found]) -> Found | None:
        """What `work` finds out about a version that the engine serves.

        `version` tells which, before each attempt. None when the engine stays away, fails every time, or the
        user asked to stop.
        """
        for _ in range(ATTEMPTS):
            served = self._wait_for(version)
            if served is None:
                return None
            try:
                return self._beside(work, served)
            except EngineError as error:
                self._say(f"the engine broke off: {error}")
        return None

    def _wait_for(self, version: Callable[[], str]) -> str | None:
        """The version, once the engine serves it; None when it does not in time."""
        deadline = time.monotonic() + self._engine_seconds
        told = False
        while not self._stopping.is_set():
            goes_on, wanted = self._goes_on(), version()
            with suppress(EngineError):
                if wanted in self._engine.models():
                    return wanted
            if not goes_on or time.monotonic() > deadline:
                return None
            if not told:
                self._say(
                    f"waiting for an engine that has {wanted}, {self._engine_seconds:.0f} s at most ..."
                )
                told = True
            self._stopping.wait(LOOK_SECONDS)
        return None

    def _beside(self, work: Callable[[str], Found], version: str) -> Found | None:
        """Do `work` in a thread of its own; None when the user asked to stop: the thread is left alone."""
        done: Future[Found] = Future()

        def run() -> None:
            try:
                done.set_result(work(version))
            except BaseException as error:  # handed to the thread that waits
                done.set_exception(error)

        threading.Thread(target=run, name="asking", daemon=True).start()
        while not self._stopping.is_set():
            self._goes_on()
            if wait([done], LOOK_SECONDS).done:
                return done.result()
        return None
