"""The controller as a process: metrics over HTTP, one per data folder, and a clean end on SIGTERM."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deploy.controller.webhooks import VARIABLE
from deploy.history.releases import append_command, read_history
from deploy.main import AlreadyRunning, run
from deploy.settings import ControllerSettings
from feedback.core.secret import load_secret
from feedback.sqlite.log import SqliteLog
from tests.deploy.fake_engine import FakeEngine
from tests.deploy.test_webhooks import WRITTEN, Receiver, marked
from tests.serve.conftest import eventually
from tests.servers import free_port

PROGRAM = """
import sys
from pathlib import Path
from deploy.main import run
from deploy.settings import ControllerSettings
run(ControllerSettings(data=Path(sys.argv[1]), engines=(sys.argv[2],), metrics_port=int(sys.argv[3]),
    webhooks=tuple(sys.argv[4:])))
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
        eventually(lambda: _is_ready(port), "an empty log is read")
        with pytest.raises(AlreadyRunning, match="another controller runs on"):
            run(ControllerSettings(data=tmp_path, engines=(engine.url,), metrics_port=free_port()))
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    log = SqliteLog(tmp_path / "log.db")
    assert [decision.outcome for decision in read_history(log).decisions] == ["begun"]
    log.close()


def _is_ready(port: int) -> bool:
    return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200


def test_decisions_reach_a_webhook_of_the_process(tmp_path: Path, engine: FakeEngine) -> None:
    """From the settings to the receiver, the secret from the environment."""
    receiver, log = Receiver(), SqliteLog(tmp_path / "log.db")
    arguments = [str(tmp_path), engine.url, str(free_port()), receiver.url]
    environment = os.environ | {VARIABLE: WRITTEN}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], env=environment)
    try:
        eventually(lambda: marked(log), "the URL is known")
        append_command(log, "freeze", reason="the fair", who="ann")
        receiver.wait_for(lambda: receiver.bodies and receiver.bodies[-1]["type"] == "release.frozen", "it")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        receiver.close()
        log.close()
    assert all(receiver.verified)


def test_webhooks_without_a_secret_are_told_before_anything_starts(tmp_path: Path) -> None:
    load_secret(tmp_path / "secret")
    told = ["--data", str(tmp_path), "--metrics-port", str(free_port())]
    command = [sys.executable, "-m", "hearken", "controller", *told]
    urls = ["--set", 'controller.webhooks=["http://127.0.0.1:9/"]']
    refused = subprocess.run([*command, *urls], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith(
        "hearken: the controller cannot run: webhooks need a secret, and $HEARKEN_WEBHOOK_SECRET has none"
    )


def _metrics(port: int, process: "subprocess.Popen[bytes]") -> str:
    """What the process shows, as soon as it answers."""
    while process.poll() is None:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/metrics").text
        except httpx.ConnectError:
            time.sleep(0.05)  # not a wait for a time, but between two attempts to connect
    pytest.fail(f"the controller ended with {process.returncode}")
