"""A real S3 server (versitygw over a folder) as a child process, and a line to it that can be held up.

`scripts/tools.sh` builds it with Go into `.tools`.
"""

import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bench._ports import free_port, listens
from tests.packaging.tools import find_tool

ACCESS, SECRET, BUCKET = "hearken-test", "correct-horse-battery", "adapters"
_STARTUP_SECONDS = 60.0


class S3Server:
    """One server on loopback whose objects lie in `folder`; it can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._program = find_tool("versitygw", "run scripts/tools.sh")
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens. Raises `RuntimeError` when it ends before that."""
        (self.folder / "objects").mkdir(parents=True, exist_ok=True)
        command = [self._program, "--access", ACCESS, "--secret", SECRET]
        command += ["--port", f"127.0.0.1:{self.port}", "--quiet", "posix", str(self.folder / "objects")]
        with (self.folder / "s3.log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        deadline = time.monotonic() + _STARTUP_SECONDS
        while not listens(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server did not start; see {self.folder / 's3.log'}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


def environment(url: str) -> dict[str, str]:
    """What AWS's tools are told of a server."""
    return {
        "AWS_ENDPOINT_URL_S3": url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": ACCESS,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def client() -> Any:
    """botocore's own client by the environment, for what tests do to a bucket behind hearken's back."""
    session = pytest.importorskip("botocore.session")
    return session.Session().create_client("s3")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server that all tests of a run share: use buckets of your own, and leave it running."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.kill()


_buckets = iter(range(1_000_000))


@pytest.fixture
def bucket_url(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place in a bucket of the test's own, with an environment that leads there."""
    for name, value in environment(s3_server.url).items():
        monkeypatch.setenv(name, value)
    name = f"{BUCKET}-{next(_buckets)}"
    client().create_bucket(Bucket=name)
    return f"s3://{name}/chat"


class Line:
    """A TCP proxy to a server on loopback that stops passing on after so many bytes of a connection.

    most: of what the server says; most_sent: of what it is told. `held` is set when it stops, and it stops
    until `go_on` or until whoever waits is gone. Without limits all bytes pass.
    """

    def __init__(self, port: int, most: int | None = None, most_sent: int | None = None) -> None:
        self._most, self._most_sent = most, most_sent
        self.held, self._freed = threading.Event(), threading.Event()
        self._target, self._port = port, 0
        self.open()
        self.url = f"http://127.0.0.1:{self._port}"

    def open(self) -> None:
        """Take connections, again after a `close`."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()

    def go_on(self) -> None:
        """Pass everything on from now on."""
        self._most = self._most_sent = None
        self._freed.set()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                ours, _ = listener.accept()
                threading.Thread(target=self._pass_on, args=(ours,), daemon=True).start()

    def _pass_on(self, ours: socket.socket) -> None:
        with (
            suppress(OSError),
            closing(ours),
            socket.create_connection(("127.0.0.1", self._target)) as theirs,
        ):
            passed = {ours: 0, theirs: 0}
            while True:
                for source in select.select([ours, theirs], [], [])[0]:
                    target, most = (theirs, self._most_sent) if source is ours else (ours, self._most)
                    data = source.recv(65_536)
                    if not data:
                        return
                    passed[source] += len(data)
                    if most is not None and passed[source] > most:
                        self.held.set()
                        self._freed.wait()
                    target.sendall(data)


@contextmanager
def line_to(server: S3Server, most: int | None = None, most_sent: int | None = None) -> Iterator[Line]:
    """A line to a server, for the length of the block."""
    line = Line(server.port, most, most_sent)
    try:
        yield line
    finally:
        line.close()
        line.go_on()


@contextmanager
def clients_on_a_line(server: S3Server, most: int | None = None) -> Iterator[Line]:
    """A line to a server that new clients of this process go through, for the length of the block."""
    with line_to(server, most) as line, pytest.MonkeyPatch.context() as told:
        told.setenv("AWS_ENDPOINT_URL_S3", line.url)
        yield line
