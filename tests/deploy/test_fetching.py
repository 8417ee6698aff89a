"""Engines that share no folder get adapters from a real S3 server, by the `hearken fetch` beside each."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from deploy.engines.client import EngineClient, EngineDown
from deploy.engines.fetch_server import MAX_BYTES
from deploy.engines.fetcher import PATH, Fetcher
from deploy.engines.fleet import Fleet
from deploy.engines.key import VARIABLE
from deploy.engines.lending import ROLLOUTS, lender
from deploy.engines.parity import ParityLimits
from deploy.history.releases import Candidate, entry
from deploy.registry.bucket import BucketRegistry
from deploy.registry.errors import RegistryAway
from deploy.registry.files import MANIFEST, WEIGHTS
from deploy.registry.s3 import Bucket
from learner.rollouts.sampling import RolloutSampler
from tests.deploy.builders import adapter_folder, publish, safetensors
from tests.deploy.fake_engine import FakeEngine
from tests.deploy.test_bucket_registry import LARGE, another, copied, keys, write
from tests.deploy.world import MakeWorld
from tests.s3 import S3Server, bucket_url, clients_on_a_line, line_to, s3_server
from tests.servers import free_port, listens

__all__ = ["bucket_url", "s3_server"]

HOSTS = ("127.0.0.1", "127.0.0.2")
"""Two machines, as far as addresses go."""


class Machine:
    """A host with an engine, a disk of its own and a `hearken fetch`, which can be killed and started."""

    def __init__(self, folder: Path, host: str, port: int, registry: str) -> None:
        self.engine = FakeEngine(host)
        self.folder, self.url = folder, f"http://{host}:{port}"
        folder.mkdir()
        self._command = [sys.executable, "-m", "hearken", "fetch", "--registry", registry]
        self._command += ["--folder", str(folder), "--host", host, "--port", str(port)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **environment: str) -> None:
        """Start the fetcher, with some variables, and wait until it answers."""
        with (self.folder / "fetch.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=os.environ | environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "fetch.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def end(self, how: signal.Signals = signal.SIGKILL) -> int:
        """End the fetcher; its exit status."""
        assert self._process is not None
        self._process.send_signal(how)
        return self._process.wait(30)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.end()
        self.engine.stop()


class Fetchers:
    """A `hearken fetch` at each address, in folders of their own, for the length of a block."""

    def __init__(self, folder: Path, registry: str, port: int) -> None:
        self._machines = [Machine(folder / host, host, port, registry) for host in HOSTS]

    def __enter__(self) -> list[Path]:
        for machine in self._machines:
            machine.start()
        return [machine.folder for machine in self._machines]

    def __exit__(self, *_: object) -> None:
        for machine in self._machines:
            machine.close()


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def machines(bucket_url: str, port: int, tmp_path: Path) -> Iterator[list[Machine]]:
    """Two of them; their fetchers are not started."""
    made = [Machine(tmp_path / host, host, port, bucket_url) for host in HOSTS]
    yield made
    for machine in made:
        machine.close()


@pytest.fixture
def registry(bucket_url: str, tmp_path: Path) -> BucketRegistry:
    """As the controller has it."""
    return another(bucket_url, tmp_path / "controller")


@contextmanager
def fleet_of(registry: BucketRegistry, machines: list[Machine], port: int) -> Iterator[Fleet]:
    clients = [EngineClient(machine.engine.url) for machine in machines]
    fleet = Fleet(clients, registry, ParityLimits(0.01), round_seconds=30.0, fetch_port=port)
    fleet.look()
    yield fleet
    fleet.close()


def test_two_engines_without_a_shared_folder_serve(
    registry: BucketRegistry, machines: list[Machine], port: int, tmp_path: Path
) -> None:
    for machine in machines:
        machine.start()
    version = publish(registry, tmp_path, b"one").version
    with fleet_of(registry, machines, port) as fleet:
        assert fleet.prepare(version, 0.0) == []
        assert {url for url, _ in fleet.proofs()} == {machine.engine.url for machine in machines}
    for machine in machines:
        assert machine.engine.loaded == {version: safetensors(b"one")}
        assert set(machine.engine.paths) == {machine.folder / "adapter-copies" / version}
    assert copied(tmp_path / "controller") == [], "nobody needs the weights but engines"
    assert [machine.end(signal.SIGTERM) for machine in machines] == [0, 0]


def test_a_fetcher_that_is_killed_on_the_way_serves_nothing_half(
    registry: BucketRegistry, machines: list[Machine], port: int, s3_server: S3Server, tmp_path: Path
) -> None:
    machine = machines[0]
    version = publish(registry, tmp_path, b"one", rank=LARGE).version
    with line_to(s3_server, most=200_000) as line, fleet_of(registry, machines[:1], port) as fleet:
        machine.start(AWS_ENDPOINT_URL_S3=line.url)
        begun = fleet._begin(lambda engine: engine.prepare(version, 0.0))
        assert line.held.wait(60)
        machine.end()
        (problem,) = [job.result() for _, job in begun]
        assert problem is not None
        assert problem.kind == "away"
        assert copied(machine.folder) == []
        assert fleet.waits_for_files
        machine.start()
        assert fleet.prepare(version, 1.0) == []
        assert not fleet.waits_for_files
    assert machine.engine.loaded == {version: safetensors(b"one", LARGE)}
    assert not list((machine.folder / "adapter-copies").glob(".draft-*"))


def test_files_that_are_not_the_manifests_reach_no_engine(
    registry: BucketRegistry, machines: list[Machine], port: int, bucket_url: str, tmp_path: Path
) -> None:
    machine = machines[0]
    machine.start()
    version = publish(registry, tmp_path, b"one").version
    write(bucket_url, f"{version}/{WEIGHTS}", safetensors(b"two"))
    with fleet_of(registry, machines[:1], port) as fleet:
        (problem,) = fleet.prepare(version, 0.0)
    assert problem.kind == "files"
    assert f"{WEIGHTS} has sha256 {hashlib.sha256(safetensors(b'two')).hexdigest()}" in problem.sentence
    assert machine.engine.loads == []


def impatient(url: str, folder: Path) -> BucketRegistry:
    """A registry that asks its bucket again at once after it was away."""
    return BucketRegistry(Bucket(url, rest_seconds=0.0), folder / "copies")


def test_what_serves_goes_on_while_the_registry_is_away(
    bucket_url: str, machines: list[Machine], port: int, s3_server: S3Server, tmp_path: Path
) -> None:
    """Also on an engine that is started anew, for its machine has the files."""
    machine = machines[0]
    with clients_on_a_line(s3_server) as line:
        registry = another(bucket_url, tmp_path / "controller")
        old, new = (publish(registry, tmp_path, content).version for content in (b"one", b"two"))
        machine.start()
        with fleet_of(registry, machines[:1], port) as fleet:
            assert fleet.prepare(old, 0.0) == []
            line.close()
            assert fleet.prepare(old, 10_000.0) == [], "it is proven anew from what is there"
            machine.engine.stop()
            machine.engine.start()
            fleet.look()
            assert fleet.prepare(old, 10_001.0) == []
            assert list(machine.engine.loaded) == [old]
            (problem,) = fleet.prepare(new, 10_001.0)
            assert problem.kind == "away"
            assert "does not answer" in problem.sentence
            machine.end()
            assert fleet.prepare(old, 20_000.0) == [], "what is loaded serves, whoever is away"
            assert fleet.waits_for_files


def test_a_candidate_waits_for_the_registry_and_is_not_refused(
    make_world: MakeWorld, bucket_url: str, s3_server: S3Server, tmp_path: Path
) -> None:
    with clients_on_a_line(s3_server) as line:
        registry = impatient(bucket_url, tmp_path)
        world = make_world(registry=registry)
        away = world.metrics.registry.get_sample_value
        world.tick()
        learner = another(bucket_url, tmp_path / "learner")
        manifest = publish(learner, tmp_path, b"one")
        digest = learner.manifest_digest(manifest.version)
        world.log.append([entry(Candidate.announce(manifest.version, world.now, manifest=digest))]).result()
        line.close()
        world.controller.wait(1.0)
        for _ in range(2):
            world.tick()
            assert world.outcomes == ["begun"]
            assert away("hearken_registry_away") == 1
        line.open()
        registry.manifest(manifest.version)  # which is all that the gate needs
        line.close()
        for _ in range(2):
            world.tick()
            assert world.outcomes == ["begun", "accepted"]
            assert away("hearken_registry_away") == 1
        line.open()
        for _ in range(2):
            world.tick()
        assert world.outcomes == ["begun", "accepted", "started"]
        assert away("hearken_registry_away") == 0
        assert world.state.table.canary == manifest.version


def test_a_new_service_waits_for_a_registry_that_may_have_a_version_0(
    make_world: MakeWorld, bucket_url: str, s3_server: S3Server, tmp_path: Path
) -> None:
    with clients_on_a_line(s3_server) as line:
        registry = impatient(bucket_url, tmp_path)
        first = publish(registry, tmp_path, b"zero", after_seq=-1)
        line.close()
        world = make_world(registry=registry)
        with pytest.raises(RegistryAway):
            world.tick()
        assert world.outcomes == []
        line.open()
        world.tick()
        assert world.state.table.live == first.version


def test_a_policy_in_training_goes_through_the_bucket_and_is_gone_afterwards(
    registry: BucketRegistry, machines: list[Machine], port: int, bucket_url: str, tmp_path: Path
) -> None:
    machine = machines[0]
    client = EngineClient(machine.engine.url)
    lend = lender(registry, client.url, port)
    sampler = RolloutSampler(client, tmp_path / "rollouts", lend)
    with pytest.raises(EngineDown, match="no `hearken fetch` answers"), sampler.serving(_save, 1):
        pass
    machine.start()
    with sampler.serving(_save, 2) as name:
        assert machine.engine.loaded == {name: safetensors(b"trained")}
        (path,) = machine.engine.paths
        assert path == machine.folder / "adapter-copies" / "rollouts" / name
        assert f"{ROLLOUTS}{name}/{MANIFEST}" in keys(bucket_url)
    assert machine.engine.loaded == {}
    assert keys(bucket_url) == []
    client.close()


def _save(folder: Path) -> None:
    adapter_folder(folder, b"trained")


def test_who_asks_wrongly_is_told_what_is_right(machines: list[Machine], bucket_url: str) -> None:
    machine = machines[0]
    machine.start(**{VARIABLE: "right"})
    asked = {"name": "policy-1-00000000", "manifest": "0" * 64}
    with httpx.Client(base_url=machine.url, trust_env=False) as http:
        for headers in ({}, {"authorization": "Bearer wrong"}):
            assert http.post(PATH, json=asked, headers=headers).status_code == 401
        http.headers["authorization"] = "Bearer right"
        for wrong in (
            {**asked, "name": "../secret"},
            {**asked, "name": "rollout-1-../../x"},
            {**asked, "manifest": None},
            {**asked, "manifest": "0" * 63},
            [asked],
            "x" * (MAX_BYTES + 1),
        ):
            answer = http.post(PATH, json=wrong)
            assert answer.status_code == 400
            assert answer.json()["message"].startswith(("write {", "a request has"))
        for broken in (b"{", b"[" * 9_000, b"\xff"):
            assert http.post(PATH, content=broken).status_code == 400
        assert http.post("/v1/other", json=asked).status_code == 404
        missing = http.post(PATH, json=asked)
        assert (missing.status_code, "policy-1-00000000" in missing.text) == (422, True)


def test_another_key_is_told_as_such(
    registry: BucketRegistry, machines: list[Machine], port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines[0].start(**{VARIABLE: "theirs"})
    monkeypatch.setenv(VARIABLE, "ours")
    with pytest.raises(RegistryAway, match=f"another key than .{VARIABLE}"):
        Fetcher(machines[0].engine.url, port).bring("policy-1-00000000", "0" * 64)


def test_what_else_listens_there_is_not_taken_for_it(machines: list[Machine]) -> None:
    engine = machines[0].engine
    engine.answers[PATH] = json.dumps({"somebody": "else"}).encode()
    with pytest.raises(RegistryAway, match="does not answer as `hearken fetch` does"):
        Fetcher(engine.url, engine.port).bring("policy-1-00000000", "0" * 64)
    assert listens(engine.port)
