"""What a broken canary, a broken engine or a broken file could do to a service, and cannot any more.

Each test is a fault that was found: it did harm, or stopped releases for good.
"""

import contextlib
import hashlib
import json
import math
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from deploy.answer_guards import OfferLimits, Pair, judged, shares
from deploy.audit.replay import audit
from deploy.controller.metrics import ControllerMetrics
from deploy.engines.client import EngineClient, EngineDown, EngineError
from deploy.evidence.guardrails import GuardrailLimits, Guardrails
from deploy.history.releases import append_command, read_history
from deploy.history.scope import Scope
from deploy.history.shadowed import traits
from deploy.history.states import ReleaseState
from deploy.registry.errors import RegistryError, UnknownVersion
from deploy.registry.files import CONFIG, MANIFEST, WEIGHTS, file_digest
from deploy.registry.manifest import Manifest
from deploy.registry.registry import Registry
from deploy.reports.running import running
from deploy.reports.status import summary
from feedback.core.events import Completion
from feedback.core.log import Entry, EventLog
from hearken.base.telling import describe
from tests.deploy.builders import (
    GOOD_GATE,
    MODULE,
    adapter_folder,
    completion,
    lora,
    probes,
    safetensors,
    tensor_file,
)
from tests.deploy.fake_engine import FakeEngine
from tests.deploy.shadows import SHADOW
from tests.deploy.shadows import answer as answers
from tests.deploy.world import MakeWorld, World

NEW, OLD = "policy-1-aaaaaaaa", "base"
STRICT = GuardrailLimits(min_users=300)


class Stage:
    """Users who come one after the other, a second apart, to both buckets in turn."""

    def __init__(self, limits: GuardrailLimits | None = None) -> None:
        self.guardrails = Guardrails(limits or GuardrailLimits(), Scope(2, NEW, OLD))
        self.number = 0

    def event(self, arm: str, user: str = "", **options: Any) -> Completion:
        self.number += 1
        version = NEW if arm == "canary" else OLD
        user = user or f"{arm}{self.number}"
        return completion(self.number, user=user, arm=arm, version=version, at=float(self.number), **options)

    def serve(self, users: int, **canary: Any) -> None:
        """As many users of each bucket; `canary` is how the canary's answers are."""
        for _ in range(users):
            self.guardrails.add(self.event("canary", **canary))
            self.guardrails.add(self.event("control"))

    def users_until_failure(self, at_most: int, **canary: Any) -> int:
        """How many canary users are served so until a guardrail fails."""
        for served in range(1, at_most + 1):
            self.serve(1, **canary)
            if self.guardrails.failure() is not None:
                return served
        raise AssertionError(f"nothing failed after {at_most} users")


# -- 1. guardrails look at what is so now -----------------------------------------------------------------


@pytest.mark.parametrize("healthy", [0, 2_000, 10_000])
def test_a_canary_that_turns_bad_is_seen_as_soon_after_any_number_of_users(healthy: int) -> None:
    stage = Stage()
    stage.serve(healthy)
    assert stage.users_until_failure(60, text="") <= 50
    failure = stage.guardrails.failure()
    assert failure is not None
    assert failure.guardrail == "empty_answers"


def test_a_canary_that_turns_bad_after_thousands_of_users_is_rolled_back_in_a_minute(
    make_world: MakeWorld,
) -> None:
    world = make_world(ladder=((0.5, 0),), max_seconds=10_000, harm_bound=1e9, promote_bound=1e9)
    manifest = world.offer()
    world.pass_time(until="started", users=0)
    for _ in range(4):
        world.chat(1_000)
        world.now += 10
        world.tick()
    assert world.outcomes[-1] == "started"
    world.answer = lambda version: {"text": ""} if version == manifest.version else {}
    world.pass_time(until="guardrail", users=30, rounds=60)
    assert audit(world.log, world.settings) == []


def test_users_who_stay_for_long_are_judged_by_what_they_get_now() -> None:
    stage = Stage()
    for i in range(20_000):
        for arm in ("canary", "control"):
            stage.guardrails.add(stage.event(arm, f"{arm}{i % 100}"))
    assert stage.guardrails.failure() is None
    for i in range(300):
        for arm, text in (("canary", ""), ("control", "x")):
            stage.guardrails.add(stage.event(arm, f"{arm}{i % 100}", text=text))
    failure = stage.guardrails.failure()
    assert failure is not None
    assert failure.guardrail == "empty_answers"


def test_users_who_are_lost_late_are_missed() -> None:
    stage = Stage()
    stage.serve(20_000)
    assert stage.guardrails.failure() is None
    for _ in range(200):  # no canary user arrives any more
        stage.number += 1
        stage.guardrails.add(stage.event("control"))
    failure = stage.guardrails.failure()
    assert failure is not None
    assert failure.guardrail == "sample_ratio"


def test_what_guardrails_find_does_not_depend_on_the_order_of_the_log() -> None:
    stage, rng = Stage(), random.Random(3)
    events = [
        stage.event(
            rng.choice(("canary", "control")),
            f"u{rng.randrange(6_000)}",
            tokens=1 + int(rng.lognormvariate(3, 1)),
            latency_seconds=rng.lognormvariate(0, 1),
        )
        for _ in range(12_000)
    ]
    findings = []
    for _ in range(3):
        guardrails = Guardrails(GuardrailLimits(tokens_ratio=1.0, z=0.01), Scope(2, NEW, OLD))
        for event in events:
            guardrails.add(event)
        findings.append([f for f in guardrails.findings() if f.guardrail != "sample_ratio"])
        rng.shuffle(events)
    assert findings[0] == findings[1] == findings[2]
    assert any(found.failure for found in findings[0]), "else there would be no number to compare"


# -- 3. and 4. nothing is climbed unseen, and nothing at all during a pause ----------------------------------


def test_no_rung_is_climbed_by_users_who_say_nothing(make_world: MakeWorld) -> None:
    world = make_world(exposure_budget=400, max_seconds=1_000)
    world.offer()
    world.pass_time(until="started", users=0)
    world.serve("live", 100)
    world.serve("control", 399, vote=False)
    world.serve("canary", 399, vote=False)
    world.now += 100
    world.tick()
    assert world.outcomes[-1] == "started", "nobody was heard"
    world.serve("control", 1, vote=False)
    world.serve("canary", 1, vote=False)
    world.tick()
    assert world.outcomes[-1] == "inconclusive"
    assert "400 users: nobody voted" in world.decisions[-1].sentence
    assert audit(world.log, world.settings) == []


def test_no_rung_is_climbed_without_users_on_it(make_world: MakeWorld) -> None:
    world = make_world()
    world.taste = lambda version: 1.0
    world.offer()
    world.pass_time(until="started", users=0)
    for _ in range(30):  # five times as long as the first step lasts
        world.serve("live", 50)
        world.now += 1
        world.tick()
    assert world.outcomes[-1] == "started"
    world.serve("control", 50)
    world.serve("canary", 49)
    world.now += 7  # what they said is known
    world.serve("live", 1)
    world.tick()
    assert world.outcomes[-1] == "started"
    world.serve("canary", 1)
    world.tick()
    assert world.outcomes[-1] == "raised"
    assert world.decisions[-1].numbers["exposed_users"] == 50
    world.now += 100
    world.tick()
    assert world.outcomes[-1] == "raised", "those of the step before were not served on this one"
    assert audit(world.log, world.settings) == []


def test_nothing_is_promoted_that_guardrails_have_not_judged(make_world: MakeWorld) -> None:
    world = make_world(ladder=((0.5, 0),), promote_bound=1.5, rung_users=400, guardrails=STRICT)
    manifest = world.offer()
    world.taste = lambda version: 1.0 if version == manifest.version else 0.0
    world.pass_time(until="started", users=0)
    for _ in range(10):
        world.chat(20)
        world.now += 1
        world.tick()
    assert world.outcomes[-1] == "started"
    world.pass_time(until="promoted", users=100)


def test_a_canary_that_is_paused_stays_as_it_is_and_is_rolled_back_for_harm(make_world: MakeWorld) -> None:
    world = make_world()
    manifest = world.offer()
    world.taste = lambda version: 0.95 if version == manifest.version else 0.2
    world.pass_time(until="started", users=0)
    append_command(world.log, "pause", who="ann")
    for _ in range(60):
        world.tick()
        world.chat(60)
        world.now += 1
    assert world.outcomes[-1] == "paused"
    assert world.state.table.weight == 0.05
    world.answer = lambda version: {"text": ""} if version == manifest.version else {}
    world.pass_time(until="guardrail", users=200)
    assert world.state.paused
    assert audit(world.log, world.settings) == []


# -- 6. whatever an engine answers, and whether it does ------------------------------------------------------

GARBAGE = {
    "html": b"<html><body>502 Bad Gateway</body></html>",
    "nothing": b"",
    "not utf-8": b"\xff\xfe",
    "a number": b"7",
    "nested too deep": b"[" * 100_000,
    "null": b"null",
    "other types": b'{"data": [{"id": 7}], "choices": [{"index": "0", "prompt_logprobs": "x"}]}',
    "no lists": b'{"data": {"id": "base"}, "choices": {"index": 0}}',
    "too few": b'{"data": [{}], "choices": []}',
    "a short probe": b'{"data": [], "choices": [{"index": 0, "prompt_logprobs": [null]}]}',
    "a text as a logprob": (
        b'{"data": [], "choices": [{"index": 0, "prompt_logprobs": '
        b'[null, {}, {}, {"4": {"logprob": "x"}}, {"5": {"logprob": -1}}]}]}'
    ),
    "a logprob that no float holds": (
        b'{"data": [], "choices": [{"index": 0, "prompt_logprobs": '
        b'[null, {}, {}, {"4": {"logprob": -1' + b"0" * 400 + b'}}, {"5": {"logprob": -1}}]}]}'
    ),
}


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/completions", "/v1/load_lora_adapter"])
def test_garbage_of_an_engine_ends_no_controller(make_world: MakeWorld, garbage: str, path: str) -> None:
    world = make_world(engines=2)
    broken = world.engines[0]
    broken.answers[path] = GARBAGE[garbage]
    world.offer()
    for _ in range(2):
        for _ in range(3):
            world.now += 1
            world.tick()
        # It must not end in the same way again after a restart.
        world.controller = world.new_controller(metrics=ControllerMetrics(world.settings))
    if path == "/v1/completions":
        assert not set(broken.loaded) & set(world.registry.versions()), "nothing is proven by garbage"
    append_command(world.log, "pause", who="ann")
    world.tick()
    assert "paused" in world.outcomes
    assert world.outcomes.count("rejected") <= 1, "a restart is no news of an engine"


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_an_error_of_the_engine(garbage: str) -> None:
    engine = FakeEngine()
    client = EngineClient(engine.url, timeout=5.0)
    engine.answers = dict.fromkeys(("/v1/models", "/v1/completions"), GARBAGE[garbage])
    asked: list[Callable[[], object]] = [
        lambda: client.probe("base", probes(b"one")),
        lambda: client.sample("base", [[1, 2]], max_tokens=2),
        lambda: client.sample("base", [[1, 2], [3]], max_tokens=2, seeds=[1, 2]),
    ]
    if b'"data": []' not in GARBAGE[garbage]:
        asked.append(client.models)
    try:
        for ask in asked:
            with pytest.raises(EngineError):
                ask()
    finally:
        client.close()
        engine.stop()


def test_an_engine_that_hangs_holds_up_neither_ticks_nor_other_engines(make_world: MakeWorld) -> None:
    world = make_world(engines=2, engine_seconds=60.0, round_seconds=0.3)
    sound, hung = world.engines
    manifest = world.offer()
    hung.hangs = True
    began = time.monotonic()
    world.pass_time(until="started", users=0)
    for _ in range(20):
        world.now += 1
        world.tick()
    assert time.monotonic() - began < 20, "sixty seconds are what one answer of it may take"
    assert (list(sound.loaded), hung.loaded) == ([manifest.version], {})
    hung.wake()
    for _ in range(100):
        if manifest.version in hung.loaded:
            break
        world.now += 1
        world.tick()
    assert manifest.version in hung.loaded


def test_an_engine_that_hangs_while_it_loads_holds_up_no_command(make_world: MakeWorld) -> None:
    world = make_world(engine_seconds=60.0, round_seconds=0.3)
    world.tick()
    world.engines[0].hangs = True
    world.offer()
    began = time.monotonic()
    for _ in range(5):
        world.now += 1
        world.tick()
    append_command(world.log, "pause", who="ann")
    world.tick()
    assert world.outcomes[-1] == "paused"
    assert time.monotonic() - began < 20


def test_an_answer_that_never_ends_is_given_up() -> None:
    """A byte now and then is within every timeout from byte to byte."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as threads:
        ended = threading.Event()

        def trickle() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                while not ended.wait(0.05):
                    connection.sendall(b" ")

        told = threads.submit(trickle)
        client = EngineClient(f"http://127.0.0.1:{server.getsockname()[1]}", timeout=0.5)
        try:
            with pytest.raises(EngineDown, match="has not ended"):
                client.models()
        finally:
            client.close()
            ended.set()
            told.result()


# -- 7. the registry takes in, and gives out, nothing but what it says ------------------------------------

A, B = f"{MODULE}.lora_A.weight", f"{MODULE}.lora_B.weight"
RIGHT = lora(b"one")
NAN, INFINITE = struct.pack("<f", math.nan), struct.pack("<f", math.inf)


def with_tensor(name: str, dtype: str, shape: list[int], data: bytes) -> bytes:
    return tensor_file({**RIGHT, name: (dtype, shape, data)})


WRONG_WEIGHTS = {
    "cut short": (safetensors(b"one")[:-1], "header speaks of"),
    "with more behind it": (safetensors(b"one") + b"x", "header speaks of"),
    "not a number": (with_tensor(A, "F32", [8, 2], RIGHT[A][2][:-4] + NAN), "lora_A.weight has values"),
    "infinite": (with_tensor(B, "F32", [1, 8], INFINITE + RIGHT[B][2][4:]), "lora_B.weight has values"),
    "not a number in bfloat16": (with_tensor(A, "BF16", [8, 1], b"\x00\x00" * 7 + b"\xc0\x7f"), "has values"),
    "infinite in float16": (with_tensor(A, "F16", [8, 1], b"\x00\x7c" + b"\x00\x00" * 7), "has values"),
    "of rank 64": (safetensors(b"one", 64), "rank 8"),
    "integers": (with_tensor(A, "U8", [8, 2], bytes(16)), "U8"),
    "one side": (tensor_file({A: RIGHT[A]}), "one side"),
    "another tensor": (with_tensor("lm_head.weight", "F32", [1, 1], bytes(4)), "lm_head"),
    "another size": (with_tensor(A, "F32", [8, 3], bytes(96)), "in the manifest"),
    "another module": (tensor_file({k.replace("q_proj", "k_proj"): v for k, v in RIGHT.items()}), "k_proj"),
    "none": (tensor_file({}), "no tensors"),
    "overlapping": (safetensors(b"one").replace(b"[64, 96]", b"[32, 64]"), "begins at byte"),
}
WRONG_CONFIGS = {
    "rank": {"r": 64},
    "rank as a text": {"r": "8"},
    "alpha": {"r": 8, "lora_alpha": 1e999},
    "alpha without end": {"r": 8, "lora_alpha": 10**400},
    "dora": {"r": 8, "use_dora": True},
    "ranks of its own": {"r": 8, "rank_pattern": {"q_proj": 64}},
    "another kind": {"r": 8, "peft_type": "LOHA"},
    "a list": [8],
}


def put_in(registry: Registry, source: Path, **options: Any) -> Manifest:
    return registry.publish(
        source,
        parent="base",
        base_digest="d" * 64,
        rank=8,
        training={},
        offsets={},
        gate=GOOD_GATE,
        probes=probes(b"one"),
        modules={MODULE: (2, 1)},
        **options,
    )


def rewrite(registry: Registry, version: str, /, **changes: Any) -> None:
    """Change a manifest as somebody would who can write to the volume."""
    file = registry.path(version) / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("wrong", WRONG_WEIGHTS)
def test_an_adapter_that_is_none_is_neither_taken_in_nor_given_out(tmp_path: Path, wrong: str) -> None:
    registry = Registry(tmp_path / "adapters")
    weights, words = WRONG_WEIGHTS[wrong]
    source = adapter_folder(tmp_path / "source")
    put_in(registry, source)
    (source / WEIGHTS).write_bytes(weights)
    with pytest.raises(RegistryError, match=words):
        put_in(registry, source)
    assert [e.name for e in registry.folder.iterdir() if e.is_dir()] == registry.versions()

    version = f"policy-2-{hashlib.sha256(weights).hexdigest()[:8]}"  # as it could be put there by hand
    registry.path(registry.versions()[0]).rename(registry.folder / version)
    (registry.folder / version / WEIGHTS).write_bytes(weights)
    files = {name: file_digest(registry.folder / version / name) for name in (WEIGHTS, CONFIG)}
    rewrite(registry, version, version=version, seq=2, files=files)
    with pytest.raises(RegistryError, match=words):
        registry.verify(version)


@pytest.mark.parametrize("wrong", WRONG_CONFIGS)
def test_a_configuration_of_another_adapter_is_refused(tmp_path: Path, wrong: str) -> None:
    registry = Registry(tmp_path / "adapters")
    source = adapter_folder(tmp_path / "source")
    (source / CONFIG).write_text(json.dumps(WRONG_CONFIGS[wrong]))
    with pytest.raises(RegistryError, match=CONFIG):
        put_in(registry, source)


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"../outside.safetensors": "0" * 64}},
        {"files": {"/etc/passwd": "0" * 64}},
        {"files": {WEIGHTS: "0" * 64}},
        {"files": {}},
        {"version": "policy-1-00000000"},
        {"seq": 7},
        {"rank": 16},
        {"modules": {MODULE: [3, 1]}},
    ],
)
def test_a_manifest_of_something_else_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    registry = Registry(tmp_path / "adapters")
    (tmp_path / "adapters" / "outside.safetensors").write_bytes(safetensors(b"one"))
    version = put_in(registry, adapter_folder(tmp_path / "source")).version
    registry.verify(version)
    rewrite(registry, version, **changes)
    with pytest.raises(RegistryError):
        registry.verify(version)


@pytest.mark.parametrize("name", ["../outside.safetensors", "{folder}/outside.safetensors"])
def test_no_name_in_a_manifest_leads_out_of_the_registry(tmp_path: Path, name: str) -> None:
    registry = Registry(tmp_path / "adapters")
    outside = registry.folder / "outside.safetensors"
    outside.write_bytes(safetensors(b"one"))
    manifest = put_in(registry, adapter_folder(tmp_path / "source"))
    listed = {**manifest.files, name.format(folder=registry.folder): file_digest(outside)}
    rewrite(registry, manifest.version, files=listed)
    with pytest.raises(RegistryError, match="no file of an adapter"):
        registry.verify(manifest.version)


def test_a_version_is_named_after_its_weights(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "adapters")
    version = put_in(registry, adapter_folder(tmp_path / "source")).version
    registry.path(version).rename(registry.folder / "policy-1-00000000")
    rewrite(registry, "policy-1-00000000", version="policy-1-00000000")
    with pytest.raises(RegistryError, match="not named after its weights"):
        registry.verify("policy-1-00000000")


def test_no_link_leads_out_of_the_registry(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "adapters")
    version = put_in(registry, adapter_folder(tmp_path / "source")).version
    folder = registry.path(version)
    (folder / WEIGHTS).rename(tmp_path / "elsewhere")
    (folder / WEIGHTS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RegistryError):
        registry.verify(version)
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    with pytest.raises(UnknownVersion):
        registry.path(version)


def test_drafts_of_a_publisher_that_died_are_removed(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "adapters")
    dead = registry.folder / ".draft-dead"
    dead.mkdir()
    (dead / WEIGHTS).write_bytes(b"half")
    put_in(registry, adapter_folder(tmp_path / "source"))
    assert not dead.exists()


def test_a_manifest_that_was_swapped_after_it_was_announced_is_refused(make_world: MakeWorld) -> None:
    world = make_world()
    manifest = world.offer(gate=GOOD_GATE.model_copy(update={"kl_nats_live": 9.0}))
    rewrite(world.registry, manifest.version, gate=GOOD_GATE.model_dump())
    refused = world.pass_time(until="refused", users=0)
    assert "was announced" in refused.sentence


def test_a_manifest_that_was_swapped_after_the_gate_is_refused(make_world: MakeWorld) -> None:
    world = make_world()
    world.tick()
    append_command(world.log, "pause", who="ann")
    manifest = world.offer()
    world.pass_time(until="accepted", users=0)
    world.kill_controller()
    forged = [probe.model_dump() for probe in probes(b"one")[:1]]
    rewrite(world.registry, manifest.version, probes=forged, parent="base", training={"labels": 11})
    append_command(world.log, "resume", who="ann")
    refused = world.pass_time(until="refused", users=0)
    assert "was announced" in refused.sentence


@pytest.mark.parametrize("budget", ["kl_budget_nats_base", "kl_budget_nats_live"])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_candidate_without_a_budget_is_refused(make_world: MakeWorld, budget: str, value: float) -> None:
    world = make_world()
    world.offer(gate=GOOD_GATE.model_copy(update={budget: value}))
    assert "there is no budget of KL" in world.pass_time(until="refused", users=0).sentence


# -- 2. what fails, what is slow, what is long ---------------------------------------------------------------


def sometimes(rng: random.Random, share: float) -> dict[str, Any]:
    return {"failure": "engine", "choices": []} if rng.random() < share else {}


BROKEN: dict[str, tuple[str, Callable[[random.Random], dict[str, Any]]]] = {
    "5% errors": ("failed_requests", lambda rng: sometimes(rng, 0.05)),
    "25% errors": ("failed_requests", lambda rng: sometimes(rng, 0.25)),
    "nothing but errors": ("failed_requests", lambda rng: sometimes(rng, 1.0)),
    "twice as slow": ("token_seconds", lambda rng: {"latency_seconds": 2 * rng.lognormvariate(0, 0.4)}),
    "twice as late": ("ttft_seconds", lambda rng: {"ttft_seconds": 0.2 * rng.lognormvariate(0, 0.4)}),
    "twice as long": ("answer_tokens", lambda rng: _long(2 * 20 * rng.lognormvariate(0, 0.4))),
    "all empty": ("empty_answers", lambda rng: {"text": ""}),
}


def _long(tokens: float) -> dict[str, Any]:
    return {"tokens": max(1, round(tokens)), "latency_seconds": tokens / 20}


def usual(rng: random.Random) -> dict[str, Any]:
    length = rng.lognormvariate(0, 0.4)
    return {**_long(20 * length), "ttft_seconds": 0.1 * rng.lognormvariate(0, 0.4), **sometimes(rng, 0.002)}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_canary_that_is_worse_is_rolled_back(make_world: MakeWorld, fault: str) -> None:
    world = make_world(ladder=((0.5, 0),), max_seconds=10_000, harm_bound=1e9, promote_bound=1e9)
    manifest, rng = world.offer(), random.Random(5)
    guardrail, broken = BROKEN[fault]
    world.answer = lambda v: {**usual(rng), **(broken(rng) if v == manifest.version else {})}
    failed = world.pass_time(until="guardrail", users=400, rounds=20)
    assert failed.numbers["guardrail"] == guardrail
    assert audit(world.log, world.settings) == []


def test_a_canary_that_is_equal_is_left_alone(make_world: MakeWorld) -> None:
    world = make_world(ladder=((0.5, 0),), max_seconds=10_000, harm_bound=1e9, promote_bound=1e9)
    rng = random.Random(6)
    world.offer()
    world.answer = lambda version: usual(rng)
    for _ in range(12):
        world.tick()
        world.chat(400)
        world.now += 1
    assert world.outcomes[-1] == "started"


def test_a_length_that_the_gate_foresaw_is_no_surprise(make_world: MakeWorld) -> None:
    world = make_world(ladder=((0.5, 0),), max_seconds=10_000, harm_bound=1e9, promote_bound=1e9)
    longer = GOOD_GATE.model_copy(update={"response_tokens": 60.0, "response_tokens_live": 20.0})
    manifest, rng = world.offer(gate=longer), random.Random(7)
    times = 2
    world.answer = lambda v: _long((times if v == manifest.version else 1) * 20 * rng.lognormvariate(0, 0.4))
    for _ in range(8):
        world.tick()
        world.chat(400)
        world.now += 1
    assert world.outcomes[-1] == "started"
    times = 7
    assert world.pass_time(until="guardrail", users=400).numbers["guardrail"] == "answer_tokens"


def told_of(world: World) -> dict[str, Any]:
    """What `hearken status` is made of."""
    history = read_history(world.log, 500)
    return summary(history, found=running(world.log, history, 10.0, world.settings.guardrails))


def test_too_few_users_is_no_verdict(make_world: MakeWorld) -> None:
    world = make_world(ladder=((0.5, 0),))
    world.offer()
    world.pass_time(until="started", users=0)

    def state_of(state: str) -> set[str]:
        return {
            sample.labels["guardrail"]
            for family in world.metrics.registry.collect()
            for sample in family.samples
            if sample.name == "hearken_guardrail_state" and sample.labels["state"] == state and sample.value
        }

    world.chat(10)
    world.tick()
    assert "failed_requests" in state_of("not judged yet")
    assert state_of("held") == {"sample_ratio"}
    told = told_of(world)
    assert told["guardrails"]["failed_requests"] == "not judged yet"
    assert any("not judged yet" in line and "failed_requests" in line for line in describe(told))
    world.chat(90)
    world.tick()
    assert state_of("not judged yet") == set()
    assert told_of(world)["guardrails"]["failed_requests"] == "held"


def test_logs_of_before_still_fold() -> None:
    before = completion(1, user="ada").model_dump(exclude={"failure"})
    assert Completion.model_validate(before).failure is None
    state = ReleaseState().model_dump(exclude={"manifests", "length_foreseen"})
    assert ReleaseState.model_validate(state).length_foreseen is None


# -- 5. an engine that is broken -----------------------------------------------------------------------------


def refuses_to_load(engine: FakeEngine) -> None:
    engine.answers["/v1/load_lora_adapter"] = b"not loaded, but 200 all the same"


def computes_something_else(engine: FakeEngine) -> None:
    engine.skew_nats = 0.5


@pytest.mark.parametrize("breaks", [refuses_to_load, computes_something_else])
def test_one_broken_engine_refuses_no_candidate(
    make_world: MakeWorld, breaks: Callable[[FakeEngine], None]
) -> None:
    world = make_world(engines=3)
    broken = world.engines[1]
    breaks(broken)
    manifest = world.offer()
    world.taste = lambda version: 0.9 if version == manifest.version else 0.3
    world.pass_time(until="started", users=0)
    rejected = world.pass_time(until="rejected", users=60)
    assert world.state.quarantined == (broken.url,)
    assert broken.url in rejected.sentence
    assert world.metrics.registry.get_sample_value("hearken_engine_quarantined", {"engine": broken.url}) == 1
    assert any(broken.url in line for line in describe(told_of(world)))
    world.pass_time(until="promoted")
    assert manifest.version not in broken.loaded, "it serves nobody what it cannot prove"
    broken.answers.clear()
    broken.skew_nats = 0.0
    restored = world.pass_time(until="restored", users=0)
    assert broken.url in restored.sentence
    assert world.state.quarantined == ()
    assert manifest.version in broken.loaded
    assert world.metrics.registry.get_sample_value("hearken_engine_quarantined", {"engine": broken.url}) == 0


def test_a_broken_engine_that_is_alone_for_a_while_refuses_no_candidate(make_world: MakeWorld) -> None:
    world = make_world(engines=2)
    computes_something_else(world.engines[0])
    world.engines[1].stop()
    world.offer()
    for _ in range(5):
        world.now += 1
        world.tick()
    assert world.outcomes[-1] == "accepted", "it waits for who might prove it"
    world.engines[1].start()
    world.pass_time(until="started", users=0)


def test_a_canary_survives_one_engine_that_came_back_wrong(make_world: MakeWorld) -> None:
    world = make_world(engines=2)
    world.offer()
    world.pass_time(until="started", users=0)
    world.engines[0].stop()
    computes_something_else(world.engines[0])
    world.engines[0].start()
    world.pass_time(until="rejected", users=0)
    assert world.state.stage == "canary"
    world.engines[1].stop()
    for _ in range(30):  # the other one is away, and may come back
        world.now += 1
        world.tick()
    assert world.state.stage == "canary"
    failed = world.pass_time(until="guardrail", users=0)
    assert failed.numbers["guardrail"] == "parity"


def test_a_candidate_that_no_engine_proves_is_refused(make_world: MakeWorld) -> None:
    world = make_world(engines=2)
    world.offer(known_by=probes(b"two"))
    world.pass_time(until="refused", users=0)


def promote(world: World, content: bytes, parent: str) -> str:
    manifest = world.offer(content, parent=parent)
    world.taste = lambda version: 0.95 if version == manifest.version else 0.3
    world.pass_time(until="promoted")
    world.taste = lambda version: 0.5
    world.pass_time(until="finished")
    return manifest.version


def test_when_no_engine_can_serve_live_the_newest_provable_version_serves(make_world: MakeWorld) -> None:
    world = make_world(engines=2)
    first = promote(world, b"one", "base")
    second = promote(world, b"two", first)
    file = world.registry.path(second) / WEIGHTS
    right = file.read_bytes()
    file.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    for engine in world.engines:
        engine.stop()
        engine.start()
    back = world.pass_time(until="guardrail", users=0)
    assert (back.version, world.state.table.live) == (second, first)
    assert "the newest version that an engine can serve" in back.sentence
    assert all(first in engine.loaded for engine in world.engines)
    for engine in world.engines:
        engine.stop()
        computes_something_else(engine)
        engine.start()
    world.now += 1
    world.pass_time(until="guardrail", users=0)
    assert (world.state.table.live, world.state.lives) == ("base", ("base",))
    assert audit(world.log, world.settings) == []


def test_live_stays_while_an_engine_that_has_it_is_only_away(make_world: MakeWorld) -> None:
    world = make_world(engines=2)
    first = promote(world, b"one", "base")
    world.engines[1].stop()
    world.engines[0].stop()
    computes_something_else(world.engines[0])
    world.engines[0].start()
    for _ in range(40):
        world.now += 1
        world.tick()
    assert world.state.table.live == first
    world.engines[1].start()
    for _ in range(80):
        world.now += 1
        world.tick()
    assert world.state.table.live == first
    assert first in world.engines[1].loaded


# -- 8. before any user: what is loaded, and what it says ----------------------------------------------------


def never_met_a_user(world: World) -> bool:
    return all(decision.state.table.canary is None for decision in world.decisions)


@pytest.mark.parametrize("bits", [b"two", b"o"])
def test_weights_that_are_swapped_while_the_engine_loads_them_are_refused(
    make_world: MakeWorld, bits: bytes
) -> None:
    world = make_world()
    world.engines[0].reads_instead = safetensors(bits)
    manifest = world.offer(b"one")
    refused = world.pass_time(until="refused", users=0)
    assert "does not compute what the trainer did" in refused.sentence
    assert manifest.version not in world.engines[0].loads, "no name that a table could have was loaded"
    assert never_met_a_user(world)


def test_an_adapter_of_another_base_is_refused(make_world: MakeWorld) -> None:
    world = make_world()
    first = promote(world, b"one", "base")
    manifest = world.offer(b"two", parent=first, base_digest="e" * 64)
    refused = world.pass_time(until="refused")
    assert refused.version == manifest.version
    assert "it was trained on base model eeeeeeeeeeee" in refused.sentence


SAYS: dict[str, tuple[str, Callable[[int], str]]] = {
    "one word": ("one word", lambda i: ("Yes.", "No.", "Fine.")[i % 3]),
    "all empty": ("one word", lambda i: ""),
    "all refusals": ("refusals beside live", lambda i: f"I'm sorry, but I cannot help you with number {i}."),
    "flattery": (
        "flattery",
        lambda i: f"What a great question! It is number {i}, of course.",
    ),
    "loops": ("repetition", lambda i: f"It is number {i}. " * 30),
}
"""What a policy may have learned to say to everything, and the guard that finds it."""


def sane(number: int) -> str:
    refuses = "I'm sorry, but I can't say. " if number % 16 == 0 else ""
    return f"{refuses}Your parcel number {number} left us on day {number % 7} and will be there soon."


@pytest.mark.parametrize("attack", SAYS)
def test_a_policy_that_says_such_things_is_refused_by_the_gate(make_world: MakeWorld, attack: str) -> None:
    """The judging model likes it all the same: its win rate is that of a good candidate."""
    world, limits = make_world(), OfferLimits()
    guard, says = SAYS[attack]
    told = [Pair(f"Where is parcel {i}?", sane(i), says(i)) for i in range(64)]
    world.offer(gate=GOOD_GATE.model_copy(update={"guards": judged(shares(told, limits), limits)}))
    refused = world.pass_time(until="refused", users=0)
    assert f"guards are against it, {guard}: the share of" in refused.sentence
    assert never_met_a_user(world)


@pytest.mark.parametrize("attack", SAYS)
def test_a_policy_that_says_such_things_is_refused_in_the_shadow(make_world: MakeWorld, attack: str) -> None:
    """A learner that does not measure, or lies: its numbers are good."""
    world = make_world(**SHADOW)
    guard, says = SAYS[attack]
    world.offer()
    plan = world.pass_time(until="shadowed", users=0).state.shadow
    assert plan is not None
    answers(world, lambda i: traits(says(i), plan, 20, 0.5), live=lambda i: traits(sane(i), plan, 20, 0.5))
    refused = world.pass_time(until="refused", users=0)
    assert f"in the shadow of 32 prompts of users, {guard}: " in refused.sentence
    assert never_met_a_user(world)
    assert audit(world.log, world.settings) == []


def test_a_base_that_says_such_things_itself_has_its_candidates_judged_by_votes(
    make_world: MakeWorld,
) -> None:
    world = make_world(**SHADOW)
    world.offer()
    plan = world.pass_time(until="shadowed", users=0).state.shadow
    assert plan is not None
    _, says = SAYS["all refusals"]
    answers(world, lambda i: traits(says(i), plan, 20, 0.5), live=lambda i: traits(says(i), plan, 20, 0.5))
    world.pass_time(until="started", users=0)


def test_a_check_of_ones_own_vetoes_a_candidate(make_world: MakeWorld) -> None:
    world = make_world()
    world.offer(gate=GOOD_GATE.model_copy(update={"vetoes": ["shop.checks:prices says: 3 prices are wrong"]}))
    refused = world.pass_time(until="refused", users=0)
    assert "vetoed, shop.checks:prices says: 3 prices are wrong" in refused.sentence


# -- 9. after ten thousand users, while the controller dies at each effect -----------------------------------


class Died(Exception):
    """The process is gone."""


class DyingLog:
    """A log whose process dies right after each append has become durable."""

    def __init__(self, log: EventLog) -> None:
        self.read, self.end, self.close = log.read, log.end, log.close
        self.hold, self.release_hold, self.bury = log.hold, log.release_hold, log.bury
        self._append = log.append

    def append(self, entries: Sequence[Entry]) -> "Future[None]":
        self._append(entries).result()
        raise Died


LATE = ("5% errors", "twice as slow", "twice as long", "all empty")


@pytest.mark.parametrize("fault", LATE)
def test_a_canary_that_turns_bad_after_ten_thousand_users_is_back_in_a_minute_whoever_dies(
    make_world: MakeWorld, fault: str
) -> None:
    """A busy service: a hundred users of each bucket a second. A controller dies with each of its decisions,
    and who comes after it goes on."""
    world = make_world(
        ladder=((0.5, 0),), max_seconds=10_000, harm_bound=1e9, promote_bound=1e9, exposure_budget=10**6
    )
    guardrail, broken = BROKEN[fault]
    rng, bad = random.Random(11), False
    manifest = world.offer()
    world.answer = lambda v: {**usual(rng), **(broken(rng) if bad and v == manifest.version else {})}
    log = DyingLog(world.log)
    world.kill_controller(log)  # type: ignore[arg-type]
    deaths = live_on(world, log, until="started")
    for _ in range(10):
        world.chat(2_000)
        world.now += 10
        deaths += survive(world, log)
    assert world.outcomes[-1] == "started"
    bad, turned_at = True, world.now
    deaths += live_on(world, log, until="guardrail", users=200)
    back = world.decisions[-1]
    assert back.numbers["guardrail"] == guardrail
    assert back.at - turned_at <= 60
    assert (back.state.table.canary, back.state.table.live) == (None, "base")
    assert deaths == len(world.decisions), "it died at each of them"
    assert audit(world.log, world.settings) == []


def survive(world: World, log: DyingLog) -> int:
    """One round of a controller; how many died in it, each followed by another one."""
    deaths = 0
    while True:
        try:
            world.tick()
        except Died:
            deaths += 1
            world.kill_controller(log)  # type: ignore[arg-type]
        else:
            return deaths


def live_on(world: World, log: DyingLog, until: str, users: int = 0) -> int:
    """Time goes on until a decision is made; how many controllers died."""
    deaths = 0
    for _ in range(120):
        deaths += survive(world, log)
        if until in world.outcomes:
            return deaths
        if users:
            world.chat(users)
        world.now += 1
    raise AssertionError(f"no {until!r} in two minutes; there were {world.outcomes}")
