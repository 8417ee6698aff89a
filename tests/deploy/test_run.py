"""The controller as a process: metrics over HTTP, one per data folder, and a clean end on SIGTERM."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deploy.main import AlreadyRunning, run
from deploy.releases import read_history
from deploy.settings import ControllerSettings
from feedback.sqlite_log import SqliteLog
from tests.deploy.fake_engine import FakeEngine
from tests.servers import free_port

PROGRAM = """
import sys
from pathlib import Path
from deploy.main import run
from deploy.settings import ControllerSettings
run(ControllerSettings(data=Path(sys.argv[1]), engines=(sys.argv[2],), metrics_port=int(sys.argv[3])))
"""


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    engine = FakeEngine()
    yield engine
    engine.stop()


def test_runs_until_it_is_told_to_stop(tmp_path: Path, engine: FakeEngine) -> None:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path), engine.url, str(port)])
    try:
        text = _metrics(port, process)
        while 'hearken_release_stage{stage="idle"} 1.0' not in text:
            text = _metrics(port, process)
        for name in ("canary_evidence_bound", "policy_seq", "promotions_total", "canary_weight_ratio"):
            assert f"hearken_{name}" in text
        with pytest.raises(AlreadyRunning, match="another controller runs on"):
            run(ControllerSettings(data=tmp_path, engines=(engine.url,), metrics_port=free_port()))
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    log = SqliteLog(tmp_path / "log.db")
    assert [decision.outcome for decision in read_history(log).decisions] == ["begun"]
    log.close()


def _metrics(port: int, process: "subprocess.Popen[bytes]") -> str:
    """What the process shows, as soon as it answers."""
    while process.poll() is None:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/metrics").text
        except httpx.ConnectError:
            time.sleep(0.05)  # not a wait for a time, but between two attempts to connect
    pytest.fail(f"the controller ended with {process.returncode}")
