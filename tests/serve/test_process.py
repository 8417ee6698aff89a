"""The gateway as a process: it starts small and fast, makes its secret once, drains on SIGTERM."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from feedback.core.events import COMPLETIONS, Completion
from feedback.core.secret import load_secret
from feedback.sqlite.log import SqliteLog
from serve.settings import GatewaySettings
from tests.serve.conftest import eventually
from tests.serve.fake_vllm import FakeVllm, Trouble
from tests.servers import free_port

PROGRAM = """
import sys
from pathlib import Path
from serve.main import run
from serve.settings import GatewaySettings
run(GatewaySettings(data=Path(sys.argv[1]), engines=(sys.argv[2],), port=int(sys.argv[3]), poll_seconds=0.05))
"""


def answers(url: str) -> bool:
    try:
        return httpx.get(url + "/readyz").status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def process(data: Path, engine: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    port = free_port()
    running = subprocess.Popen([sys.executable, "-c", PROGRAM, str(data), engine, str(port)])
    try:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: answers(url), "the process is ready")
        yield running, url
    finally:
        running.kill()
        running.wait()


def test_sigterm_lets_a_running_answer_finish_and_keeps_its_event(tmp_path: Path, fake: FakeVllm) -> None:
    body = {"model": "hearken", "messages": [{"role": "user", "content": Trouble.HOLD}], "stream": True}
    with process(tmp_path / "new" / "data", fake.url) as (running, url):
        with httpx.stream("POST", url + "/v1/chat/completions", json=body, timeout=30) as answer:
            lines = answer.iter_lines()
            first = json.loads(next(lines)[6:])
            assert fake.holding.wait(10)
            running.send_signal(signal.SIGTERM)
            eventually(lambda: not answers(url), "no new requests are taken")
            fake.release.set()
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert running.wait(10) == 0
    log = SqliteLog(tmp_path / "new" / "data" / "log.db")
    (record,) = log.read([COMPLETIONS], {})[0]
    log.close()
    completion = Completion.model_validate_json(record.value)
    assert completion.completion_id == first["id"]
    assert completion.choices[0].finish_reason == "stop"


def test_a_gateway_that_has_answered_is_small(tmp_path: Path, fake: FakeVllm) -> None:
    body = {"model": "hearken", "messages": [{"role": "user", "content": "hi"}]}
    with process(tmp_path, fake.url) as (running, url):
        for fields in ({}, {"stream": True}, {"store": True}):
            assert httpx.post(url + "/v1/chat/completions", json=body | fields).status_code == 200
        assert httpx.get(url + "/openapi.json").status_code == 200
        status = Path(f"/proc/{running.pid}/status").read_text()
    (resident,) = [line.split() for line in status.splitlines() if line.startswith("VmRSS")]
    assert int(resident[1]) < 150_000, f"{resident[1]} kB"


def test_the_gateway_loads_neither_torch_nor_vllm() -> None:
    program = "import sys, serve.main; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"torch", "vllm", "transformers", "numpy", "kafka"} & set(loaded)


def test_the_secret_is_made_once_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    made: list[bytes] = []
    threads = [threading.Thread(target=lambda: made.append(load_secret(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1
    assert len(made[0]) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["secret"]


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"engines": ()}, "no engines"),
        ({"engines": ("localhost:8001",)}, "not a URL"),
        ({"engines": ("http://a", "http://a")}, "twice"),
        ({"model_name": ""}, "model_name"),
        ({"poll_seconds": 0}, "above 0"),
        ({"drain_seconds": -1}, "drain_seconds"),
    ],
)
def test_settings_that_make_no_sense(fields: dict[str, object], word: str) -> None:
    right: dict[str, object] = {"data": Path("x"), "engines": ("http://127.0.0.1:8001",)}
    with pytest.raises(ValueError, match=word):
        GatewaySettings(**right | fields)  # type: ignore[arg-type]
