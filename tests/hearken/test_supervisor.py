"""The supervisor with real processes: nothing outlives it, what dies comes back, all ends in order."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hearken.service.supervisor import (
    FAILED_STARTS,
    Child,
    ChildFailed,
    Supervisor,
    backoff_seconds,
    log_tail,
)
from hearken.service.watchdog import groups_left
from tests.servers import free_port

WITH_GRANDCHILD = """
    import subprocess, sys, time
    grandchild = subprocess.Popen([sys.executable, "-c", "import signal, time; " +
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"],
        stdout=subprocess.PIPE)
    grandchild.stdout.readline()
    open(sys.argv[1], "a").write(f"{grandchild.pid}\\n")
    time.sleep(600)
"""
"""Like vLLM: a server with a core process, which here even ignores SIGTERM."""


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something that other processes do; fail when it does not happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Whether a process exists and is more than a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def pids(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


def child(tmp_path: Path, name: str, code: str, *arguments: object, stop_seconds: float = 5.0) -> Child:
    command = (sys.executable, "-c", textwrap.dedent(code), *map(str, arguments))
    return Child(name, command, dict(os.environ), tmp_path / f"{name}.log", stop_seconds)


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def supervisor(lines: list[str]) -> Iterator[Supervisor]:
    supervisor = Supervisor(report=lines.append)
    yield supervisor
    supervisor.stop()


def test_stops_the_last_started_first_and_lets_each_finish(supervisor: Supervisor, tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    code = """
        import signal, sys, time
        def end(*_):
            time.sleep(0.2)
            open(sys.argv[1], "a").write(sys.argv[2] + " ")
            sys.exit(0)
        signal.signal(signal.SIGTERM, end)
        print("ready", flush=True)
        time.sleep(600)
    """
    for name in ("engine", "learner", "gateway"):
        supervisor.start(child(tmp_path, name, code, ended, name))
    for name in ("engine", "learner", "gateway"):
        until(lambda name=name: "ready" in log_tail(tmp_path / f"{name}.log"))  # type: ignore[misc]
    supervisor.stop()
    assert ended.read_text().split() == ["gateway", "learner", "engine"]


def test_kills_a_child_that_will_not_end(supervisor: Supervisor, tmp_path: Path) -> None:
    code = """
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("deaf", flush=True)
        time.sleep(600)
    """
    supervisor.start(child(tmp_path, "deaf", code, stop_seconds=0.3))
    until(lambda: "deaf" in log_tail(tmp_path / "deaf.log"))
    pid = supervisor.pid("deaf")
    assert pid is not None
    supervisor.stop()
    assert not runs(pid)


def test_a_dead_child_comes_back_and_its_grandchild_does_not_stay(
    supervisor: Supervisor, tmp_path: Path, lines: list[str]
) -> None:
    file = tmp_path / "grandchildren"
    supervisor.start(child(tmp_path, "engine", WITH_GRANDCHILD, file, stop_seconds=0.2))
    until(lambda: len(pids(file)) == 1)
    first = supervisor.pid("engine")
    assert first is not None
    os.kill(first, signal.SIGKILL)

    def back() -> bool:
        supervisor.poll()
        return len(pids(file)) == 2

    until(back)
    until(lambda: not runs(pids(file)[0]))
    assert supervisor.restarts("engine") == 1
    assert supervisor.pid("engine") != first
    assert lines == ["engine ended (signal 9); starting it again in 0.5 s"]
    supervisor.stop()
    until(lambda: not runs(pids(file)[1]))


def test_gives_up_on_a_child_that_never_starts(supervisor: Supervisor, tmp_path: Path) -> None:
    code = "import sys; print('cannot open the model'); sys.exit(3)"
    supervisor.start(child(tmp_path, "engine", code))

    def poll_forever() -> bool:
        supervisor.poll()
        return False

    with pytest.raises(ChildFailed, match=r"engine ended 3 times in a row \(exit code 3\)") as caught:
        until(poll_forever)
    assert caught.value.tail[-1] == "cannot open the model"


def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "grandchildren"
    code = f"""
        import os, sys, time
        from pathlib import Path
        from hearken.service.supervisor import Child, Supervisor
        supervisor = Supervisor(grace_seconds=1.0)
        command = (sys.executable, "-c", {textwrap.dedent(WITH_GRANDCHILD)!r}, {str(file)!r})
        supervisor.start(Child("engine", command, dict(os.environ), Path({str(tmp_path / "e.log")!r})))
        print(supervisor.pid("engine"), flush=True)
        time.sleep(600)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    engine = int(parent.stdout.readline())
    until(lambda: len(pids(file)) == 1)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not runs(engine))
    until(lambda: not runs(pids(file)[0]))


def test_a_killed_watchdog_is_replaced(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(child(tmp_path, "one", "import time; time.sleep(600)"))
    first = supervisor._watchdog
    assert first is not None
    first.kill()
    first.wait()
    supervisor.start(child(tmp_path, "two", "import time; time.sleep(600)"))
    assert supervisor._watchdog is not None
    assert supervisor._watchdog.poll() is None
    assert supervisor._watchdog is not first


def test_an_old_big_log_is_put_aside(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hearken.service.supervisor.LOG_ROTATE_BYTES", 10)
    (tmp_path / "one.log").write_text("an old and long story\n")
    supervisor.start(child(tmp_path, "one", "print('new')"))
    until(lambda: "new" in log_tail(tmp_path / "one.log"))
    assert (tmp_path / "one.log.1").read_text() == "an old and long story\n"


def test_backoff_doubles_up_to_half_a_minute() -> None:
    assert [backoff_seconds(n) for n in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, 4.0]
    assert backoff_seconds(50) == 30.0


def test_the_watchdog_knows_which_groups_are_left() -> None:
    assert groups_left(["+10\n", "+11\n", "-10\n", "+12\n"]) == {11, 12}


SERVER = """
    import http.server, sys
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
        def log_message(self, *_):
            pass
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_child_that_hangs_is_killed_and_started_again(
    supervisor: Supervisor, tmp_path: Path, lines: list[str]
) -> None:
    port = free_port()
    health = f"http://127.0.0.1:{port}/health"
    supervisor.start(replace(child(tmp_path, "engine", SERVER, port), health=health, hang_seconds=1.0))

    def answers() -> bool:
        supervisor.poll()
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(health, timeout=0.5).status == 200
        return False

    until(answers)
    first = supervisor.pid("engine")
    assert first is not None
    until(lambda: supervisor.has_answered("engine"))
    os.kill(first, signal.SIGSTOP)  # it exists, the kernel accepts connections for it, and nobody answers
    until(lambda: answers() and supervisor.pid("engine") != first)
    assert lines[0] == "engine has not answered for 1 s; killing it"
    assert not runs(first)


def test_a_child_that_has_never_answered_is_given_all_the_time_it_needs(
    supervisor: Supervisor, tmp_path: Path, lines: list[str]
) -> None:
    slow = child(tmp_path, "engine", "import time; print('loading', flush=True); time.sleep(600)")
    supervisor.start(replace(slow, health=f"http://127.0.0.1:{free_port()}/health", hang_seconds=0.0))
    until(lambda: "loading" in log_tail(slow.log))
    supervisor.poll()
    assert lines == []


def test_one_of_several_may_fail_while_another_one_runs(
    supervisor: Supervisor, tmp_path: Path, lines: list[str]
) -> None:
    good = child(tmp_path, "engine", "import time; time.sleep(600)")
    bad = child(tmp_path, "engine-2", "raise SystemExit(3)")
    supervisor.start(replace(good, group="engine", settled_seconds=0.0))
    supervisor.start(replace(bad, group="engine"))

    def tried_often() -> bool:
        supervisor.poll()
        return supervisor.restarts("engine-2") > FAILED_STARTS

    until(tried_often)
    assert all(line.startswith("engine-2 ended (exit code 3)") for line in lines)
