"""Proving and swapping adapters on a real vLLM: the fake engine of other tests must not be wrong about it."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench._words import Words, make, read
from deploy.controller.leading import Alone
from deploy.controller.loop import Controller
from deploy.controller.metrics import ControllerMetrics
from deploy.engines.client import EngineClient
from deploy.engines.fleet import Fleet
from deploy.engines.parity import ParityLimits
from deploy.evidence.guardrails import GuardrailLimits
from deploy.history.leases import held
from deploy.history.releases import Candidate, entry, read_history
from deploy.history.table import RoutingTable
from deploy.registry.manifest import GateNumbers, Manifest, Probe
from deploy.registry.registry import Registry
from deploy.settings import ControllerSettings
from feedback.shared import SqliteStore
from feedback.sqlite.log import SqliteLog
from tests.conftest import Engine
from tests.deploy.builders import GOOD_GATE
from tests.serve.conftest import eventually, serving

pytestmark = pytest.mark.engine
TOLERANCE_NATS = 1e-3


@pytest.fixture(scope="module")
def adapters(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Words]:
    """The folders 0 and 1 of two adapters that say one word each."""
    folder = tmp_path_factory.mktemp("words")
    make(engine.model, folder, 2)
    return folder, read(folder)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "adapters")


@pytest.fixture
def fleet(engine: Engine, registry: Registry) -> Iterator[Fleet]:
    fleet = Fleet([EngineClient(engine.url)], registry, ParityLimits(TOLERANCE_NATS))
    fleet.look()
    yield fleet
    fleet.unload(fleet.versions)
    fleet.close()


def publish(
    registry: Registry,
    adapters: tuple[Path, Words],
    number: int,
    probes: list[Probe],
    gate: GateNumbers = Manifest.model_fields["gate"].default,
) -> Manifest:
    folder, words = adapters
    return registry.publish(
        folder / str(number),
        parent="base",
        base_digest=words.base_digest,
        rank=words.rank,
        training={},
        offsets={},
        gate=gate,
        probes=probes,
    )


def test_logprobs_that_are_not_the_manifests_reject_the_load_with_the_numbers(
    engine: Engine, registry: Registry, fleet: Fleet, adapters: tuple[Path, Words]
) -> None:
    _, words = adapters
    wrong = publish(registry, adapters, 0, words.words[1].probes)
    (problem,) = fleet.prepare(wrong.version, time.time())
    assert isinstance(problem.numbers["parity_nats"], float)
    assert problem.numbers["parity_nats"] > 1
    assert problem.numbers["tolerance_nats"] == TOLERANCE_NATS
    assert f"differ by up to {problem.numbers['parity_nats']:.4g} nats" in problem.sentence
    client = EngineClient(engine.url)
    assert not [name for name in client.models() if wrong.version in name]

    right = publish(registry, adapters, 0, words.words[0].probes)
    assert fleet.prepare(right.version, time.time()) == []
    assert [name for name in client.models() if right.version in name] == [right.version]
    (proof,) = fleet.proofs().values()
    assert proof.parity.largest_nats < TOLERANCE_NATS
    assert proof.digest == right.files["adapter_model.safetensors"]
    client.close()


LONG = {
    "model": "hearken",
    "messages": [{"role": "user", "content": "Where is my parcel?"}],
    "stream": True,
    "ignore_eos": True,
    "temperature": 0,
    "max_tokens": 900,
}


def test_a_stream_keeps_its_policy_through_promotion_rollback_and_unload(
    engine: Engine, registry: Registry, fleet: Fleet, adapters: tuple[Path, Words], tmp_path: Path
) -> None:
    _, words = adapters
    old, new = (publish(registry, adapters, n, words.words[n].probes).version for n in (0, 1))
    assert fleet.prepare(new, time.time()) == []
    log, store = SqliteLog(tmp_path / "log.db"), SqliteStore(tmp_path / "shared.db")
    client = EngineClient(engine.url)
    with serving(tmp_path, log, store, (engine.url,), queue_seconds=60.0) as gateway:
        for epoch in (1, 4, 7):  # a fast engine may be done before the policy is unloaded
            assert fleet.prepare(old, time.time()) == []
            gateway.decide(RoutingTable(epoch=epoch, live=old))
            eventually(gateway.is_ready, "ready")
            with gateway.http.stream("POST", "/v1/chat/completions", json=LONG) as answer:
                lines = (line for line in answer.iter_lines() if line)
                first = json.loads(next(lines)[6:])
                gateway.decide(RoutingTable(epoch=epoch + 1, live=new))  # promoted
                gateway.decide(RoutingTable(epoch=epoch + 2, live="base"))  # and rolled back
                running = held(store)
                fleet.unload([old])
                rest = list(lines)
            if running is not None and old in running:
                break
        eventually(lambda: any(c.completion_id == first["id"] for c in gateway.completions()), "logged")
        event = gateway.completion(first["id"])
        assert old not in client.models()
        assert gateway.chat("hi", max_tokens=4).status_code == 200
    log.close()
    store.close()
    assert rest[-1] == "data: [DONE]"
    assert event.policy_version == old
    (choice,) = event.choices
    assert len(choice.token_ids) == 900
    # Not that it said its word 900 times: how sure an adapter is of it depends on the base's training.
    assert fleet.prepare(old, time.time()) == []
    logprobs = {
        name: client.logprobs(name, event.prompt_token_ids, choice.token_ids) for name in (old, "base")
    }
    client.close()
    assert choice.logprobs == pytest.approx(logprobs[old], abs=TOLERANCE_NATS)
    assert choice.logprobs[-10:] != pytest.approx(logprobs["base"][-10:], abs=TOLERANCE_NATS)
    assert running is not None
    assert old in running


def test_a_candidate_that_says_one_word_for_ever_is_refused_in_the_shadow(
    engine: Engine, registry: Registry, fleet: Fleet, adapters: tuple[Path, Words], tmp_path: Path
) -> None:
    """It is what was trained, its numbers are good, and users of a real gateway never see what it says."""
    _, words = adapters
    version = publish(registry, adapters, 0, words.words[0].probes, GOOD_GATE).version
    settings = ControllerSettings(
        data=tmp_path,
        engines=(engine.url,),
        shadow_share=1.0,
        shadow_prompts=16,
        guardrails=GuardrailLimits(latency_ratio=50),  # a busy machine is no judge of speed
        parity_tolerance_nats=TOLERANCE_NATS,
    )
    log, store = SqliteLog(tmp_path / "log.db"), SqliteStore(tmp_path / "shared.db")
    controller = Controller(log, registry, fleet, settings, ControllerMetrics(settings), store, Alone())
    log.append([entry(Candidate.announce(version, manifest=registry.manifest_digest(version)))]).result()
    with serving(tmp_path, log, store, (engine.url,), queue_seconds=60.0) as gateway:
        eventually(gateway.is_ready, "ready")
        for number in range(200):
            controller.tick()
            if controller.state.shadow is not None:
                assert gateway.chat(f"Where is parcel {number}?", max_tokens=60).is_success
            elif controller.state.shadows:
                break
            else:
                controller.wait(0.5)
        history = read_history(log)
        served = {event.policy_version for event in gateway.completions()}
    refused = history.decisions[-1]
    log.close()
    store.close()
    assert (refused.outcome, refused.version, served) == ("refused", version, {"base"})
    assert "in the shadow of 16 prompts of users, " in refused.sentence
    assert "repetition: the share of answers that loop, less live's, is" in refused.sentence
