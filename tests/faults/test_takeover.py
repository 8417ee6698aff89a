"""The controller that leads is killed again and again: another one decides within five seconds, and once."""

import hashlib
import os
import random
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deploy.controller.leading import KEY, RENEW_SECONDS, Record
from deploy.history.releases import Command, Decision, append_command, parse, read_history
from feedback.core.events import RELEASES
from feedback.shared import RedisStore
from feedback.sqlite.log import SqliteLog
from tests.deploy.fake_engine import FakeEngine
from tests.faults.scale import SCALE
from tests.servers import free_port

pytestmark = [pytest.mark.redis, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
MOST_SECONDS = 5.0


class ControllerProcess:
    """A controller with a data folder of its own, started as often as needed."""

    def __init__(self, data: Path, secret: bytes, *arguments: str) -> None:
        data.mkdir()
        (data / "secret").write_bytes(secret)
        self.port = free_port()
        self.output = data / "output"
        self._command = [
            *(sys.executable, "-m", "tests.faults.controller", str(data)),
            *arguments,
            str(self.port),
        ]
        self.start()

    def start(self) -> None:
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(self._command, cwd=ROOT, stdout=output, stderr=output)

    def wait_until_it_knows_the_state(self) -> None:
        deadline = time.monotonic() + 120
        while 'hearken_release_stage{stage="idle"} 1.0' not in self._metrics():
            assert self.process.poll() is None, self.output.read_text()[-3000:]
            assert time.monotonic() < deadline, self.output.read_text()[-3000:]
            time.sleep(0.05)  # between two attempts

    def _metrics(self) -> str:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/metrics").text
        except httpx.TransportError:
            return ""

    def kill(self) -> None:
        """SIGKILL, at once."""
        self.process.kill()
        self.process.wait()


class Crew:
    """Two controllers, and what the store and the log say of them."""

    def __init__(self, folder: Path, redis_url: str, engine: str) -> None:
        secret = secrets.token_bytes(32)
        self.log = SqliteLog(folder / "log.db")
        self._store = RedisStore(redis_url)
        self._key = KEY + hashlib.sha256(b"lease" + secret).hexdigest()[:12]
        shared = (str(folder / "log.db"), redis_url, engine)
        self.members = [ControllerProcess(folder / name, secret, *shared) for name in ("one", "two")]
        self._cursor: dict[str, int] = {}

    def leader(self) -> ControllerProcess:
        """The process that the lease names."""
        raw = self._store.get(self._key)
        assert raw is not None
        pid = int(Record.model_validate_json(raw).holder.split("/")[1])
        (found,) = [member for member in self.members if member.process.pid == pid]
        return found

    def answer_to(self, command: Command) -> Decision:
        """The decision that answers a command, as soon as it is in the log."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            records, self._cursor = self.log.read([RELEASES], self._cursor, wait_seconds=1.0)
            for event in [parse(record.value) for record in records]:
                if isinstance(event, Decision) and event.answers == command.event_id:
                    return event
        raise AssertionError([member.output.read_text()[-2000:] for member in self.members])

    def close(self) -> None:
        for member in self.members:
            member.kill()
        self.log.close()
        self._store.close()


@pytest.fixture
def crew(tmp_path: Path, redis_url: str) -> Iterator[Crew]:
    engine = FakeEngine()
    crew = Crew(tmp_path, redis_url, engine.url)
    yield crew
    crew.close()
    engine.stop()


def test_another_controller_decides_within_five_seconds_of_the_leaders_end(crew: Crew) -> None:
    draw = random.Random(0)
    took, fences = [], []
    for number in range(SCALE.controller_kills):
        for member in crew.members:
            member.wait_until_it_knows_the_state()
        leader = crew.leader()
        time.sleep(draw.random() * RENEW_SECONDS)  # it dies at any time after it wrote the lease
        leader.kill()
        died_at = time.monotonic()
        command = append_command(crew.log, "resume" if number % 2 else "pause")
        fences.append(crew.answer_to(command).fence)
        took.append(time.monotonic() - died_at)
        leader.start()
    print(
        f"{len(took)} leaders killed; another one decided after {min(took):.2f} to {max(took):.2f} s, "
        f"{statistics.median(took):.2f} s in the median ({os.cpu_count()} cores)"
    )
    assert max(took) <= MOST_SECONDS
    history = read_history(crew.log, remembered=10_000)
    assert [d.outcome for d in history.decisions if d.answers is None] == ["begun"]
    answers = [d.outcome for d in history.decisions if d.answers is not None]
    assert answers == ["resumed" if number % 2 else "paused" for number in range(len(took))], "each once"
    assert fences == sorted(set(fences)), "every leader has a number of its own"
