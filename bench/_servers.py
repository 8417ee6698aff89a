"""Real servers for benchmarks: an engine and a gateway as child processes, each kept on chosen cores."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench._ports import free_port
from feedback.core.secret import load_secret
from hearken.machine.engine import EngineOptions, context_length, engine_command, engine_environment, use_cuda
from hearken.models.tiny import ensure_tiny

_START_SECONDS = 600.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.1
_LINUX_CPUCLOCK_SCHED = 2  # of linux/posix-timers.h: a process's clock id is made of its pid and this


@dataclass(frozen=True, slots=True)
class Server:
    """A child process that answers HTTP on loopback."""

    pid: int
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        """CPU time of all of the process's threads since it started, user and system."""
        return time.clock_gettime((~self.pid << 3) | _LINUX_CPUCLOCK_SCHED)

    def tree(self) -> list[int]:
        """The ids of the process and of all that it started."""
        found, todo = [], [self.pid]
        while todo:
            found.append(todo.pop())
            for task in Path(f"/proc/{found[-1]}/task").iterdir():
                todo += map(int, (task / "children").read_text().split())
        return found

    def tree_cpu_seconds(self) -> float:
        """CPU time of the process and all that it started and that still runs."""
        return sum(Server(pid, self.port).cpu_seconds() for pid in self.tree())

    def tree_bytes(self) -> int:
        """Memory in RAM of the process and all that it started; pages that they share count for each."""
        pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.tree())
        return sum(pages) * os.sysconf("SC_PAGESIZE")

    def resident_mb(self) -> float:
        """Memory of the process that is in RAM."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 1e6


@contextmanager
def engine(
    folder: Path,
    name: str,
    *,
    cores: Collection[int],
    environment: Mapping[str, str] | None = None,
    extra: Sequence[str] = (),
    model: Path | None = None,
    memory_share: float | None = None,
) -> Iterator[Server]:
    """vLLM, started as `hearken up` does, on `cores`, with the tiny model unless told otherwise.

    Its output is in `folder`. memory_share: of its GPU; None for vLLM's own choice.
    """
    model = model or ensure_tiny()
    options = EngineOptions(
        model=model,
        port=free_port(),
        cuda=use_cuda(),
        max_model_len=context_length(model),
        memory_share=memory_share,
        extra=tuple(extra),
    )
    env = engine_environment(options, os.environ) | dict(environment or {})
    with _running(folder / f"{name}.log", engine_command(options), env, cores) as pid:
        server = Server(pid, options.port)
        _wait_for(server, "/health", folder / f"{name}.log")
        yield server


@contextmanager
def fake_engine(folder: Path, name: str, *adapters: str, cores: Collection[int]) -> Iterator[Server]:
    """The tests' engine, for what is measured of the gateway alone; it lists `adapters`."""
    port = free_port()
    command = [sys.executable, "-m", "bench._fake_engine", str(port), *adapters]
    with _running(folder / f"{name}.log", command, os.environ, cores) as pid:
        server = Server(pid, port)
        _wait_for(server, "/health", folder / f"{name}.log")
        yield server


@contextmanager
def gateway(
    folder: Path,
    engine_url: str,
    *,
    cores: Collection[int],
    flags: Sequence[str] = (),
    ready: str = "/readyz",
    checkout: Path | None = None,
) -> Iterator[Server]:
    """`hearken gateway` in front of an engine, with its log in `folder`/data, where one before may have been.

    `ready`: the path that answers 200 when it is up; /livez does so without an engine.
    `checkout`: a folder with another commit of hearken, whose gateway runs; None for this one.
    """
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    load_secret(data / "secret")
    port = free_port()
    command = [sys.executable, "-m", "hearken", "gateway", "--data", str(data)]
    command += ["--engine", engine_url, "--port", str(port), *flags]
    env = os.environ if checkout is None else os.environ | {"PYTHONPATH": str(checkout)}
    with _running(folder / "gateway.log", command, env, cores, checkout) as pid:
        server = Server(pid, port)
        _wait_for(server, ready, folder / "gateway.log")
        yield server


@contextmanager
def broker(folder: Path, port: int, *, cores: Collection[int]) -> Iterator[Server]:
    """A real Kafka broker with its data in `folder`."""
    command = [sys.executable, "-m", "tests.servers", "kafka", "--port", str(port), "--data", str(folder)]
    log = folder.with_suffix(".log")
    with _running(log, command, os.environ, cores) as pid:
        deadline = time.monotonic() + _START_SECONDS
        while b"answers on" not in log.read_bytes():
            if time.monotonic() > deadline or not Path(f"/proc/{pid}/stat").exists():
                raise RuntimeError(f"Kafka did not start:\n{log.read_text()[-3000:]}")
            time.sleep(_POLL_SECONDS)
        yield Server(pid, port)


def split_cores() -> tuple[set[int], set[int]]:
    """One core for the engine and one for everything else; the same one where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return {usable[0]}, {usable[min(1, len(usable) - 1)]}


@contextmanager
def _running(
    log: Path,
    command: Sequence[str],
    environment: Mapping[str, str],
    cores: Collection[int],
    folder: Path | None = None,
) -> Iterator[int]:
    """A child's pid. Its whole process group is ended with the block."""
    print(f"$ taskset -c {','.join(map(str, sorted(cores)))} {' '.join(command)}", flush=True)
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        # Threads and processes that the child starts later inherit this.
        os.sched_setaffinity(child.pid, cores)
        yield child.pid
    finally:
        os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _wait_for(server: Server, path: str, log: Path) -> None:
    """Return when `path` answers 200. Raises RuntimeError with the server's last words when it never does."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and Path(f"/proc/{server.pid}/stat").exists():
        try:
            with urllib.request.urlopen(server.url + path, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(_POLL_SECONDS)
    raise RuntimeError(f"a server did not start; {log} ends with:\n{log.read_text()[-3000:]}")
