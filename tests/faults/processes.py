"""The processes that are killed: a gateway as `hearken gateway` starts it, and learners forked ready-made."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench._ports import free_port, listens

_ROOT = Path(__file__).parents[2]
_START_SECONDS = 60.0


class GatewayProcess:
    """A gateway on `data`, started and killed as often as needed; its port stays."""

    def __init__(
        self, data: Path, engine: str, *flags: str, environment: dict[str, str] | None = None
    ) -> None:
        self.data = data
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.output = data.with_name(data.name + "-gateway.out")
        self.environment = environment or {}
        self.process: subprocess.Popen[bytes] | None = None
        place = ("--data", str(data), "--engine", engine, "--port", str(self.port))
        self._command = [sys.executable, "-m", "hearken", "gateway", *place, *flags]

    def start(self) -> None:
        """Start it; `wait_ready` tells when it answers."""
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                self._command, cwd=_ROOT, stdout=output, stderr=output, env=os.environ | self.environment
            )

    def wait_ready(self) -> None:
        """Until it accepts connections. Fails the test when it ends instead."""
        assert self.process is not None
        deadline = time.monotonic() + _START_SECONDS
        while not self.answers():
            assert self.process.poll() is None, self.output.read_text()[-3000:]
            assert time.monotonic() < deadline, f"not up in time: {self.output.read_text()[-3000:]}"
            time.sleep(0.01)

    def answers(self) -> bool:
        return listens(self.port)

    def kill(self) -> None:
        """SIGKILL, at once."""
        self.end(signal.SIGKILL)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status after a signal."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait()


class LearnerNursery:
    """Learners as `hearken learner` runs them, without the five seconds that importing torch takes.

    One process imports everything and forks a learner for each `start`. `settings`: of the learners. Without
    them, the engine's address leads nowhere and no number of labels starts PPO: these learners read, join,
    fit reward models and write checkpoints.
    """

    def __init__(
        self,
        data: Path,
        model: str,
        *,
        kafka: str | None = None,
        environment: dict[str, str] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.output = data.with_name(data.name + "-learner.out")
        self.pid: int | None = None
        told = {
            "data": str(data),
            "model": model,
            "metrics_port": free_port(),
            "kafka": kafka,
            "threads": 1,
            **(settings or {"engine": "http://127.0.0.1:9", "min_labels": 10**9}),
        }
        with self.output.open("ab") as output:
            self._nursery = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.nursery", json.dumps(told)],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                env=os.environ | (environment or {}),
            )
        assert self._say("ready?") == "ready"

    def start(self) -> None:
        """Fork a learner."""
        self.pid = int(self._say("start"))

    def kill(self) -> None:
        """SIGKILL it and wait for its end."""
        self.end(signal.SIGKILL)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status after a signal (negative: killed by it)."""
        assert self.pid is not None
        os.kill(self.pid, how)
        return self.wait()

    def wait(self) -> int:
        """Its exit status once it has ended."""
        status = os.waitstatus_to_exitcode(int(self._say("wait")))
        self.pid = None
        return status

    def close(self) -> None:
        """End the learner, if there is one, and the nursery."""
        if self.pid is not None:
            self.kill()
        self._nursery.kill()
        self._nursery.wait()

    def _say(self, word: str) -> str:
        given, taken = self._nursery.stdin, self._nursery.stdout
        assert given is not None
        assert taken is not None
        given.write(word + "\n")
        given.flush()
        line = taken.readline()
        assert line, f"the learners' nursery died: {self.output.read_text()[-3000:]}"
        return line.strip()
