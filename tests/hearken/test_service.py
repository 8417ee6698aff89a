"""`hearken up` as a user starts it: it serves, outlives the death of its parts, and leaves nothing behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import torch

from deploy.engines.client import EngineClient
from deploy.engines.key import VARIABLE
from deploy.history.releases import Candidate, entry
from deploy.registry.registry import Registry
from feedback.sqlite.log import SqliteLog
from hearken.data.audit import audit, read_ledger
from learner.model.shared import POLICY, SharedModel
from learner.policy.candidate import publish
from learner.policy.probing import make_probes
from tests.deploy.builders import CLEAR_GATE
from tests.servers import free_ports

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]

ENGINE_KEY = "for the engines of this test"


@dataclass
class Running:
    """A running service."""

    process: subprocess.Popen[bytes]
    data: Path
    port: int
    http: httpx.Client
    output: Path

    @property
    def engine_url(self) -> str:
        return f"http://127.0.0.1:{self.port + 1}"

    def chat(self, content: str = "Where is my parcel?") -> httpx.Response:
        body = {"model": "hearken", "messages": [{"role": "user", "content": content}], "max_tokens": 24}
        return self.http.post("/v1/chat/completions", json=body)

    def vote(self, user: str) -> None:
        completion_id = self.chat().raise_for_status().json()["id"]
        vote = {"kind": "thumbs", "completion_id": completion_id, "value": "up", "user": user}
        assert self.http.post("/v1/feedback", json=vote).status_code == 202

    def pid_of(self, words: str) -> int:
        """The process of this service whose command line matches."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if re.search(words, command):
                return int(folder.name)
        raise AssertionError(f"no process {words}")

    def group_of(self, words: str) -> int:
        return os.getpgid(self.pid_of(words))

    def labels_used(self) -> int:
        ledger = read_ledger(self.data)
        return 0 if ledger is None else int(ledger["labels"])


def eventually(condition: Callable[[], object], what: str, seconds: float = 600.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def service(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    data = tmp_path_factory.mktemp("service")
    port = free_ports(4)
    output = data.with_suffix(".out")
    command = [sys.executable, "-m", "hearken", "up", "--data", str(data), "--port", str(port)]
    command += ["--queue-seconds", "2"]  # less than any engine takes to start
    command += ["--set", "controller.shadow_prompts=0"]  # nobody chats, so a shadow would wait for its time
    with output.open("w") as out:
        process = subprocess.Popen(
            [*command, "--model", str(tiny_model)],
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={**os.environ, VARIABLE: ENGINE_KEY},
        )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        running = Running(process, data, port, http, output)

        def ready() -> bool:
            assert process.poll() is None, output.read_text()[-3000:]
            return "is ready" in output.read_text()

        try:
            eventually(ready, "the service is ready", 600)
            yield running
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait(60)


def offer_a_candidate(service: Running, model_folder: Path) -> str:
    """Publish an adapter as the learner does, and wait for the first users' table to name it."""
    model = SharedModel(str(model_folder))
    draw = torch.Generator().manual_seed(3)
    state = {
        key: value if ".lora_A." in key else 0.01 * torch.randn(value.shape, generator=draw)
        for key, value in model.adapter_state(POLICY).items()
    }
    model.load_adapter_state(POLICY, state)
    probes = make_probes(model, [([1, 50, 60], [70, 80, 90])])
    manifest = publish(
        Registry(service.data / "adapters"),
        model,
        parent="base",
        training={},
        offsets={},
        gate=CLEAR_GATE,
        probes=probes,
    )
    log = SqliteLog(service.data / "log.db")
    log.append([entry(Candidate.announce(manifest.version))]).result()
    log.close()
    table = service.data / "table.json"
    eventually(lambda: table.exists() and manifest.version in table.read_text(), "the canary starts")
    return manifest.version


def test_a_killed_learner_loses_and_repeats_no_vote(service: Running) -> None:
    for i in range(10):
        service.vote(f"early-{i}")
    eventually(lambda: service.labels_used() == 10, "a checkpoint with ten votes")
    killed = service.pid_of(f"hearken learner .*{service.data}")
    os.kill(killed, signal.SIGKILL)
    for i in range(10):
        service.vote(f"late-{i}")
    eventually(lambda: service.labels_used() == 20, "the next learner has all twenty")
    assert service.pid_of(f"hearken learner .*{service.data}") != killed
    log = SqliteLog(service.data / "log.db")
    try:
        checked = audit(log, service.data)
    finally:
        log.close()
    assert checked is not None
    assert checked.votes_used_once
    assert checked.labels_in_log == 20


def test_a_killed_engine_comes_back_with_its_adapters(
    service: Running, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = offer_a_candidate(service, tiny_model)
    engine = service.group_of(f"api_server .*--port {service.port + 1}")
    os.killpg(engine, signal.SIGKILL)
    eventually(lambda: service.http.get("/readyz").status_code == 503, "the gateway noticed", 30)
    refusal = service.chat()  # after a wait: an engine could be back within that time
    assert refusal.status_code == 503
    assert int(refusal.headers["retry-after"]) >= 1
    assert refusal.json()["error"]["message"]
    eventually(lambda: service.http.get("/readyz").status_code == 200, "the engine is back")
    assert httpx.get(service.engine_url + "/v1/models").status_code == 401
    monkeypatch.setenv(VARIABLE, ENGINE_KEY)
    client = EngineClient(service.engine_url)
    assert version in client.models()
    client.close()
    assert service.chat().status_code == 200


def test_a_second_service_on_the_same_data_or_port_says_so_in_one_line(
    service: Running, tiny_model: Path, tmp_path: Path
) -> None:
    for flags, words in (
        (["--data", str(service.data), "--port", str(free_ports(4))], str(service.data)),
        (["--data", str(tmp_path), "--port", str(service.port)], f"port {service.port}"),
    ):
        command = [sys.executable, "-m", "hearken", "up", "--model", str(tiny_model), *flags]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode != 0
        (line,) = ended.stderr.strip().splitlines()
        assert words in line
        assert line.startswith("hearken: ")


def test_one_ctrl_c_ends_all_of_it(service: Running) -> None:
    words = (f"hearken (gateway|learner|controller) .*{service.data}", f"--port {service.port + 1}")
    groups = {service.group_of(pattern) for pattern in words}
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(60) == 0
    for group in groups:
        with pytest.raises(ProcessLookupError):
            os.killpg(group, 0)
    assert json.loads((service.data / "learner" / "checkpoint" / "ledger.json").read_text())["labels"] == 20
