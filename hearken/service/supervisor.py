"""Runs the processes of one machine as children: starts them, restarts them, and stops them in order.

No child outlives the supervisor. Each one has its own session, so that a group is all that ever has to
be killed (vLLM's engine core is a grandchild); the kernel sends the child a SIGTERM when the supervisor
dies, and a watchdog process kills the groups that are left a few seconds later.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hearken.service.pulse import Pulse
from hearken.service.watchdog import is_alive, kill_group

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

FAILED_STARTS = 3
"""A child that ends this often in a row before it has settled is not started again."""
LOG_TAIL_LINES = 12
LOG_ROTATE_BYTES = 32 * 2**20


class ChildFailed(Exception):
    """A child cannot be kept running. The message names it and its log; `tail` is the log's end."""

    def __init__(self, message: str, tail: list[str]) -> None:
        super().__init__(message)
        self.tail = tail


@dataclass(frozen=True, slots=True)
class Child:
    """One process to keep running. `stop_seconds`: how long it may take to end after SIGTERM.

    `health`: a URL; when it has answered and then is silent for `hang_seconds`, the process hangs and is
    killed, and started again like any that ended. `group`: children of one group stand in for each other,
    so that one that keeps failing is tried on and on while another one runs.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    log: Path
    stop_seconds: float = 3.0
    settled_seconds: float = 60.0  # one that lived this long had started
    health: str | None = None
    hang_seconds: float = 60.0
    group: str | None = None


@dataclass(slots=True)
class _Running:
    """A child's present process, or the time at which it will be started again."""

    child: Child
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float | None = None
    failed_starts: int = 0
    restarts: int = 0
    pulse: Pulse | None = None

    @property
    def hangs(self) -> bool:
        return self.pulse is not None and self.pulse.silent_seconds > self.child.hang_seconds


def backoff_seconds(failed_starts: int) -> float:
    """The wait before a child is started again: 0.5, 1, 2, ... at most 30 seconds."""
    return float(min(0.5 * 2 ** max(0, failed_starts - 1), 30.0))


def log_tail(log: Path, lines: int = LOG_TAIL_LINES) -> list[str]:
    """The last lines of a log file that say anything."""
    if not log.exists():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16_384))
        text = file.read().decode(errors="replace")
    return [line for line in text.splitlines() if line.strip()][-lines:]


@dataclass(slots=True)
class Supervisor:
    """Keeps children running. All methods are called from one thread, which must live as long as they do.

    (The kernel's parent-death signal is sent when the *thread* that forked a child ends.)
    `report` gets one line for every restart. `grace_seconds` is what children that outlive the
    supervisor get to end by themselves.
    """

    report: Callable[[str], None] = print
    grace_seconds: float = 6.0
    _children: list[_Running] = field(default_factory=list)
    _watchdog: subprocess.Popen[bytes] | None = None

    def start(self, child: Child) -> None:
        """Start a child and keep it running until `stop`."""
        running = _Running(child)
        self._children.append(running)
        self._spawn(running)

    def poll(self) -> None:
        """Look after the children once; call it a few times a second.

        Raises ChildFailed when one of them ended `FAILED_STARTS` times in a row without settling, and no
        other one of its group runs.
        """
        now = time.monotonic()
        for running in self._children:
            if running.process is not None and running.process.poll() is not None:
                self._ended(running, now)
            elif running.process is not None and running.hangs:
                self._kill_hanging(running)
            elif running.restart_at is not None and now >= running.restart_at:
                self._spawn(running)
                running.restarts += 1

    def pid(self, name: str) -> int | None:
        """The present process of a child, or None while it waits for its restart."""
        process = self._find(name).process
        return None if process is None else process.pid

    def restarts(self, name: str) -> int:
        """How often a child was started again."""
        return self._find(name).restarts

    def has_answered(self, name: str) -> bool:
        """Whether the present process of a child has answered its health check."""
        pulse = self._find(name).pulse
        return pulse is not None and pulse.has_beaten

    def stop(self) -> None:
        """Stop all children, the last started first, each with SIGTERM and its time, then SIGKILL."""
        for running in reversed(self._children):
            running.restart_at = None
            if running.process is not None:
                self._stop_one(running.process, running.child.stop_seconds)
                self._forget(running)
        self._children.clear()
        if self._watchdog is not None:
            assert self._watchdog.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._watchdog.stdin.close()
            self._watchdog.wait()
            self._watchdog = None

    def _find(self, name: str) -> _Running:
        return next(running for running in self._children if running.child.name == name)

    def _spawn(self, running: _Running) -> None:
        child = running.child
        child.log.parent.mkdir(parents=True, exist_ok=True)
        if child.log.exists() and child.log.stat().st_size > LOG_ROTATE_BYTES:
            child.log.replace(child.log.with_suffix(".log.1"))
        with child.log.open("ab") as log:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            log.write(f"--- {stamp} starting {child.name}\n".encode())
            log.flush()
            running.process = subprocess.Popen(
                child.command,
                env=dict(child.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()) if _libc is not None else None,
            )
        running.started_at = time.monotonic()
        running.restart_at = None
        running.pulse = None if child.health is None else Pulse(child.health)
        self._tell_watchdog(f"+{running.process.pid}")

    def _ended(self, running: _Running, now: float) -> None:
        assert running.process is not None
        child, code = running.child, running.process.returncode
        lived = now - running.started_at
        self._forget(running)
        running.failed_starts = 1 if lived >= child.settled_seconds else running.failed_starts + 1
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        if running.failed_starts >= FAILED_STARTS and not self._is_stood_in_for(running, now):
            raise ChildFailed(
                f"{child.name} ended {FAILED_STARTS} times in a row ({how}); its log is {child.log}",
                log_tail(child.log),
            )
        wait = backoff_seconds(running.failed_starts)
        running.restart_at = now + wait
        self.report(f"{child.name} ended ({how}); starting it again in {wait:g} s")

    def _kill_hanging(self, running: _Running) -> None:
        assert running.process is not None
        self.report(f"{running.child.name} has not answered for {running.child.hang_seconds:g} s; killing it")
        kill_group(running.process.pid)
        running.process.wait()

    def _is_stood_in_for(self, failing: _Running, now: float) -> bool:
        """Whether another child of the same group has started and runs."""
        return any(
            running is not failing
            and running.child.group == failing.child.group is not None
            and running.process is not None
            and now - running.started_at >= running.child.settled_seconds
            for running in self._children
        )

    def _forget(self, running: _Running) -> None:
        """Kill what is left of a child's group, and drop the child's process."""
        assert running.process is not None
        if running.pulse is not None:
            running.pulse.stop()
            running.pulse = None
        group = running.process.pid
        kill_group(group)
        running.process = None
        self._tell_watchdog(f"-{group}")

    def _stop_one(self, process: subprocess.Popen[bytes], stop_seconds: float) -> None:
        """SIGTERM to the child (it knows how to stop its own), SIGKILL to its group when time is up."""
        deadline = time.monotonic() + stop_seconds
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(stop_seconds)
        except subprocess.TimeoutExpired:
            kill_group(process.pid)
            process.wait()
        while is_alive(process.pid) and time.monotonic() < deadline:
            time.sleep(0.02)

    def _tell_watchdog(self, line: str) -> None:
        if self._watchdog is None:
            self._watchdog = subprocess.Popen(
                [sys.executable, "-m", "hearken.service.watchdog", str(self.grace_seconds)],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
        assert self._watchdog.stdin is not None
        try:
            self._watchdog.stdin.write(line.encode() + b"\n")
            self._watchdog.stdin.flush()
        except BrokenPipeError:  # someone killed it: a new one needs to know all that still runs
            self._watchdog.wait()
            self._watchdog = None
            for running in self._children:
                if running.process is not None:
                    self._tell_watchdog(f"+{running.process.pid}")


def _die_with(parent: int) -> Callable[[], None]:
    """What a child does between fork and exec: ask the kernel for a SIGTERM when its parent dies."""

    def ask() -> None:
        assert _libc is not None
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return ask
