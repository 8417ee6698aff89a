"""Two real engines behind the real gateway and controller: one dies under load, and nobody who had not yet
heard from it notices; it comes back by itself, proven; and users go before rollouts."""

import itertools
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
import torch

from deploy.engines.client import EngineClient
from deploy.engines.parity import largest
from deploy.history.releases import Decision, entry
from deploy.history.states import ReleaseState
from deploy.history.table import RoutingTable
from deploy.registry.manifest import Manifest
from deploy.registry.registry import Registry
from feedback.core.events import BASE
from feedback.sqlite.log import SqliteLog
from hearken.base.checks import ensure_secret
from hearken.config.assemble import assemble
from hearken.config.layers import Given
from hearken.machine.engine import use_cuda
from hearken.service.plan import UpSettings
from hearken.service.supervisor import Child, Supervisor
from hearken.service.up import children
from learner.model.shared import POLICY, SharedModel
from learner.policy.candidate import publish
from learner.policy.probing import make_probes
from tests.conftest import Engine
from tests.deploy.builders import CLEAR_GATE
from tests.servers import free_ports

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]

ME = (sys.executable, "-m", "hearken")
STREAMS = 6
SEQUENCES = 4
"""That the engine which dies works on at a time, so that others wait in it."""


@dataclass
class Service:
    """A gateway and a controller on the engine that all tests share, and on one that can be killed."""

    gateway: str
    controller: str
    survivor: str
    victim: str
    manifest: Manifest
    supervisor: Supervisor

    def eventually(self, condition: Callable[[], object], what: str, seconds: float = 600.0) -> None:
        """Wait, and look after the processes meanwhile, as `hearken up` does."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain: {what}"
            self.supervisor.poll()
            time.sleep(0.02)

    def metric(self, sample: str, base: str | None = None) -> float:
        """A sample of the gateway's metrics, or of another process's, summed over its labels."""
        try:
            text = httpx.get((base or self.gateway) + "/metrics", timeout=60).text
        except httpx.HTTPError:
            return 0.0
        rows = re.findall(rf"^{re.escape(sample)}(?:[,{{].*)? ([-+.e\d]+)$", text, re.MULTILINE)
        return sum(map(float, rows))

    def of_victim(self, metric: str) -> float:
        return self.metric(f'hearken_engine_{metric}{{engine="{self.victim}"}}')


def published(data: Path, model_folder: Path) -> Manifest:
    """A policy with weights that make a difference, and with the trainer's own logprobs."""
    model = SharedModel(str(model_folder))
    draw = torch.Generator().manual_seed(5)
    state = {
        key: value if ".lora_A." in key else 0.02 * torch.randn(value.shape, generator=draw)
        for key, value in model.adapter_state(POLICY).items()
    }
    model.load_adapter_state(POLICY, state)
    probes = make_probes(model, [([1, 50, 60], [70, 80, 90])])
    return publish(
        Registry(data / "adapters"),
        model,
        parent=BASE,
        training={},
        offsets={},
        gate=CLEAR_GATE,
        probes=probes,
    )


def put_in_force(data: Path, version: str) -> None:
    """The decision after which every user gets the version."""
    table = RoutingTable(epoch=1, live=version)
    decision = Decision(
        event_id="decision-1",
        at=time.time(),
        number=1,
        outcome="promoted",
        stage_before="idle",
        stage_after="idle",
        table=table,
        sentence="A test decided.",
        state=ReleaseState(table=table, lives=(BASE, version)),
    )
    log = SqliteLog(data / "log.db")
    log.append([entry(decision)]).result()
    log.close()


@pytest.fixture(scope="module")
def service(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    data = tmp_path_factory.mktemp("two-engines")
    ensure_secret(data)
    manifest = published(data, engine.model)
    put_in_force(data, manifest.version)
    told = {
        "service.data": data,
        "gateway.port": free_ports(4),
        "engine.flags": ("--max-num-seqs", str(SEQUENCES)),
        "gateway.queue_seconds": 120.0,  # a machine that starts an engine has little time for those who wait
    }
    asked = UpSettings.of(assemble([{path: Given(value, "the test") for path, value in told.items()}], None))
    found = children(asked, engine.model, use_cuda())
    both = ("--engine", engine.url, "--engine", asked.engine_url)

    def on_both(child: Child) -> Child:
        return replace(child, command=(*child.command, *both))

    supervisor = Supervisor()
    running = Service(
        gateway=asked.url,
        controller=f"http://127.0.0.1:{asked.controller_port}",
        survivor=engine.url,
        victim=asked.engine_url,
        manifest=manifest,
        supervisor=supervisor,
    )
    try:
        supervisor.start(found["engine"])
        supervisor.start(on_both(found["controller"]))
        supervisor.start(on_both(found["gateway"]))
        running.eventually(lambda: running.of_victim("up") == 1, "the gateway uses both engines")
        proof = f'hearken_engine_adapter_info{{digest="{digest(manifest)}",engine="{running.victim}"'
        running.eventually(lambda: running.metric(proof, running.controller) == 1, "the policy is proven")
        yield running
    finally:
        supervisor.stop()
        with EngineClientOf(engine.url) as client:
            for name in client.models():
                if manifest.version in name:
                    client.unload(name)


def digest(manifest: Manifest) -> str:
    return manifest.files["adapter_model.safetensors"]


class EngineClientOf(EngineClient):
    """A client for the length of a block."""

    def __enter__(self) -> "EngineClientOf":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Outcome:
    """What one streamed chat came to."""

    status: int
    begun: bool
    whole: bool
    text: str


class Load:
    """So many users who chat without a pause until `stop`."""

    def __init__(self, gateway: str) -> None:
        self.outcomes: list[Outcome] = []
        self._gateway = gateway
        self._numbers = itertools.count()
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(STREAMS)
        self._done = [self._pool.submit(self._chat_on) for _ in range(STREAMS)]

    def _chat_on(self) -> None:
        with httpx.Client(base_url=self._gateway, timeout=120) as http:
            while not self._stopping.is_set():
                self.outcomes.append(self._chat(http, next(self._numbers)))

    def _chat(self, http: httpx.Client, number: int) -> Outcome:
        messages = [{"role": "user", "content": f"Question {number}: where is my parcel?"}]
        body = {
            "model": "hearken",
            "messages": messages,
            "stream": True,
            "max_tokens": 60,
            "ignore_eos": True,
        }
        lines: list[str] = []
        with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                return Outcome(answer.status_code, False, False, answer.read().decode())
            lines += [line for line in answer.iter_lines() if line.startswith("data: ")]
        whole = lines[-1] == "data: [DONE]" and '"error"' not in lines[-2]
        return Outcome(200, any('"choices"' in line for line in lines), whole, "\n".join(lines[-2:]))

    def stop(self) -> None:
        """Let the chats that run end. Raises what went wrong in a thread."""
        self._stopping.set()
        for done in self._done:
            done.result(120)
        self._pool.shutdown()


def test_nobody_who_had_not_heard_from_a_killed_engine_notices(service: Service) -> None:
    load = Load(service.gateway)
    try:
        service.eventually(lambda: service.of_victim("in_flight") >= 2, "the engine has begun some answers")
        pid = service.supervisor.pid("engine")
        assert pid is not None
        os.killpg(pid, signal.SIGSTOP)  # so that requests come to it that it does not begin to answer
        count = len(load.outcomes)
        service.eventually(lambda: len(load.outcomes) >= count + STREAMS, "the other engine goes on")
        os.killpg(pid, signal.SIGKILL)
        service.eventually(lambda: service.of_victim("up") == 0, "the gateway noticed", 10)
        count = len(load.outcomes)
        service.eventually(lambda: len(load.outcomes) >= count + 3 * STREAMS, "chats are answered without it")
        service.eventually(lambda: service.of_victim("up") == 1, "the engine is back, by itself")
        assert service.supervisor.restarts("engine") == 1
        served = "vllm:request_success_total"
        proof = f'hearken_engine_adapter_info{{digest="{digest(service.manifest)}",engine="{service.victim}"'
        service.eventually(lambda: service.metric(proof, service.controller) == 1, "it was proven again")
        before = service.metric(served, service.victim)
        service.eventually(lambda: service.of_victim("in_flight") > 0, "it has users again")
        service.eventually(lambda: service.metric(served, service.victim) > before, "and answers them")
    finally:
        load.stop()

    silent = [outcome for outcome in load.outcomes if not outcome.begun]
    assert silent == []
    broken = [outcome for outcome in load.outcomes if not outcome.whole]
    assert len(broken) <= STREAMS  # those that were in the middle
    assert service.metric("hearken_engine_retries_total") + len(broken) >= 1
    with EngineClientOf(service.victim) as client:
        assert service.manifest.version in client.models()
        probes = service.manifest.probes
        assert largest(probes, client.probe(service.manifest.version, probes)) < 1e-3


def test_users_go_before_rollouts(service: Service) -> None:
    """An engine that works on four sequences at a time has many rollouts waiting when a user comes."""
    waiting = "vllm:num_requests_waiting"
    with EngineClientOf(service.victim, timeout=600) as client, ThreadPoolExecutor(1) as learner:
        prompts = [[1, 50 + i, 60, 70] for i in range(60)]
        sampling = learner.submit(client.sample, BASE, prompts, max_tokens=200, n=8)
        service.eventually(
            lambda: sampling.done() or service.metric(waiting, service.victim) > 300, "rollouts wait"
        )
        body = {"model": BASE, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        answer = httpx.post(service.victim + "/v1/chat/completions", json=body, timeout=600)
        left = service.metric(waiting, service.victim)
        assert answer.status_code == 200
        assert left > 100, sampling.exception() if sampling.done() else "they did not wait for the user"
        assert len(sampling.result(600)) == 8 * len(prompts)
