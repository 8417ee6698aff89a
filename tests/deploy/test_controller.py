"""The controller against a real log, a real registry and engines on real sockets, with users who vote."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.audit.replay import audit
from deploy.engines.client import EngineClient
from deploy.engines.fleet import Fleet
from deploy.engines.one_engine import Problem
from deploy.engines.parity import ROUNDS_ONCE
from deploy.evidence.reader import TOPICS
from deploy.history.releases import append_command, entry
from deploy.history.states import ReleaseState
from deploy.registry.manifest import Manifest
from feedback.core.log import Cursor, Entry, EventLog, Record
from tests.deploy.builders import GOOD_GATE, many_probes, publish
from tests.deploy.world import MakeWorld, World


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()


def likes(world: World, version: str, chance: float) -> None:
    world.taste = lambda served: chance if served == version else 0.4


def metric(world: World, name: str, **labels: str) -> float | None:
    return world.metrics.registry.get_sample_value(name, labels)


def test_begins_with_the_base_model(world: World) -> None:
    world.tick()
    world.tick()
    (begun,) = world.decisions
    assert begun.table is not None
    assert (begun.table.epoch, begun.table.live, begun.number) == (1, "base", 1)


def test_begins_with_version_0_if_there_is_one(world: World, tmp_path: Path) -> None:
    first = publish(world.registry, tmp_path / "sft", b"zero", after_seq=-1)
    assert first.version.startswith("policy-0-")
    world.tick()
    (begun,) = world.decisions
    assert begun.table is not None
    assert begun.table.live == first.version
    assert first.version in world.engines[0].loaded
    assert begun.state.lives == ("base", first.version)  # so that one can go back to the base
    assert publish(world.registry, tmp_path / "next", b"next", parent=first.version).seq == 1


def test_a_better_candidate_is_promoted_and_its_holdback_ends(world: World) -> None:
    manifest = world.offer()
    likes(world, manifest.version, 0.8)
    promoted = world.pass_time(until="promoted")
    assert world.outcomes[:4] == ["begun", "accepted", "started", "raised"]
    assert f"Promoted {manifest.version}" in promoted.sentence
    assert "against a bound of 20" in promoted.sentence
    assert world.state.stage == "holdback"
    assert metric(world, "hearken_promotions_total") == 1
    assert metric(world, "hearken_policy_seq") == 1
    assert metric(world, "hearken_release_stage", stage="holdback") == 1
    world.pass_time(until="finished")
    assert world.state.table.adapters == {manifest.version}
    assert audit(world.log, world.settings) == []


def test_no_table_names_an_adapter_before_every_engine_has_it(make_world: MakeWorld) -> None:
    world = make_world(engines=2)
    manifest = world.offer()
    world.pass_time(until="started", users=0)
    for engine in world.engines:
        assert engine.loads == [f"probe-{manifest.version}", manifest.version]
        assert list(engine.loaded) == [manifest.version]
    started = world.decisions[-1]
    assert started.numbers["parity_nats"] == 0.0
    labels = {"engine": world.engines[1].url, "version": manifest.version}
    digest = manifest.files["adapter_model.safetensors"]
    world.now += 1
    world.tick()
    assert metric(world, "hearken_engine_adapter_info", **labels, digest=digest) == 1
    assert metric(world, "hearken_engine_parity_nats", **labels) == 0.0


def test_a_harmful_candidate_is_rolled_back_and_drained(world: World) -> None:
    manifest = world.offer()
    world.taste = lambda version: 0.1 if version == manifest.version else 0.8
    harmful = world.pass_time(until="harmful")
    assert harmful.table is not None
    assert (harmful.table.live, harmful.table.weight) == ("base", 0.0)
    assert metric(world, "hearken_rollbacks_total") == 1
    for _ in range(7):
        world.now += 1
        world.tick()
    assert list(world.engines[0].loaded) == [manifest.version], "drain_seconds are not over"
    for _ in range(5):
        world.now += 1
        world.tick()
    assert world.engines[0].loaded == {}
    assert world.registry.verify(manifest.version) == manifest, "files are never deleted"
    assert audit(world.log, world.settings) == []


def test_harm_after_the_promotion_brings_the_previous_version_back(world: World) -> None:
    manifest = world.offer()
    likes(world, manifest.version, 0.9)
    world.pass_time(until="promoted")
    world.taste = lambda version: 0.05 if version == manifest.version else 0.9
    harmful = world.pass_time(until="harmful", users=300)
    assert harmful.stage_before == "holdback"
    assert world.state.table.live == "base"
    assert audit(world.log, world.settings) == []


def test_a_guardrail_rolls_back_without_votes(world: World) -> None:
    manifest = world.offer()
    world.answer = lambda version: {"text": ""} if version == manifest.version else {}
    failed = world.pass_time(until="guardrail", users=400)
    assert failed.numbers["guardrail"] == "empty_answers"
    assert world.state.table.weight == 0.0
    assert audit(world.log, world.settings) == []


def test_an_engine_that_rounds_proves_what_is_right_and_no_other(world: World) -> None:
    """Its logprobs are off by up to a half, and a version is told from another one all the same."""
    world.engines[0].noise_nats = 0.07
    right = world.offer(known_by=many_probes(b"one"))
    started = world.pass_time(until="started", users=0)
    assert started.version == right.version
    nats, size, effect = (started.numbers[f"parity_{name}"] for name in ("nats", "size", "effect"))
    assert isinstance(nats, float)
    assert 0.05 < nats < 1
    assert size == pytest.approx(1, abs=0.1)
    assert effect == pytest.approx(1, abs=0.02)
    world.now += 1
    world.tick()
    used = metric(world, "hearken_engine_parity_of_limit", engine=world.engines[0].url, version=right.version)
    assert used is not None
    assert 0 < used < 1
    assert world.engines[0].probes.count("base") == 1, "its base is asked for once"
    assert metric(world, "hearken_swap_seconds_count") == 1, "once for an engine and a version"
    last_round = metric(world, "hearken_controller_last_round_timestamp_seconds")
    assert last_round == pytest.approx(time.time(), abs=60)


def test_an_engine_that_rounds_refuses_another_version(world: World) -> None:
    world.engines[0].noise_nats = 0.07
    world.offer(known_by=many_probes(b"two"))
    refused = world.pass_time(until="refused", users=0)
    assert "the adapter does" in refused.sentence
    assert "of what the trainer's does" in refused.sentence
    assert world.engines[0].loaded == {}


@pytest.mark.parametrize("rounds_once", [True, False])
def test_an_engine_that_serves_all_of_an_adapter_says_so_and_is_held_to_it(
    world: World, rounds_once: bool
) -> None:
    """The manifest says that a half would be left by an engine that rounds twice."""
    engine = world.engines[0]
    engine.noise_nats = 0.07
    if rounds_once:
        engine.answers["/version"] = f'{{"version": "0.32.0+{ROUNDS_ONCE}"}}'.encode()
    half = [
        probe.model_copy(
            update={
                "bf16_logprobs": [
                    (a + b) / 2 for a, b in zip(probe.logprobs, probe.base_logprobs, strict=True)
                ]
            }
        )
        for probe in many_probes(b"one")
    ]
    world.offer(known_by=half)
    decided = world.pass_time(until="started" if rounds_once else "refused", users=0)
    effect = decided.numbers["parity_effect"]
    assert isinstance(effect, float)
    assert (abs(effect - 1) < 0.02) == rounds_once


def test_an_engine_that_computes_something_else_refuses_the_candidate(world: World) -> None:
    world.engines[0].skew_nats = 0.31
    world.offer()
    refused = world.pass_time(until="refused", users=0)
    assert "differ by up to 0.31 nats, 0.02 is allowed" in refused.sentence
    assert refused.numbers["parity_nats"] == pytest.approx(0.31)
    assert world.state.stage == "idle"
    assert refused.numbers["tolerance_nats"] == 0.02
    assert refused.numbers["engine"] == world.engines[0].url
    assert all(d.table is None or d.table.adapters == set() for d in world.decisions)
    assert world.engines[0].loaded == {}, "not even under its private name"


def test_the_gate_refuses_by_the_manifests_numbers(world: World) -> None:
    world.offer(gate=GOOD_GATE.model_copy(update={"kl_nats_live": 9.0}))
    refused = world.pass_time(until="refused", users=0)
    assert "KL to live is 9.000 nats, over the budget of 2.000" in refused.sentence
    assert refused.settled
    assert world.engines[0].loads == []
    assert metric(world, "hearken_gate_rejections_total") == 1


def test_files_that_changed_are_refused(world: World) -> None:
    manifest = world.offer()
    (world.registry.path(manifest.version) / "adapter_config.json").write_text("{}")
    refused = world.pass_time(until="refused", users=0)
    assert manifest.files["adapter_config.json"] in refused.sentence


def test_a_candidate_of_another_parent_is_refused_when_its_turn_comes(world: World) -> None:
    first = world.offer(b"one")
    likes(world, first.version, 0.9)
    world.pass_time(until="started")
    second = world.offer(b"two")  # trained from base, but the first is promoted before its turn
    world.pass_time(until="promoted")
    refused = world.pass_time(until="refused")
    assert refused.version == second.version
    assert f"trained from base and compared with it, but {first.version} is live now" in refused.sentence


def test_the_newest_candidate_waits_and_goes_on_from_a_promotion(world: World) -> None:
    first = world.offer(b"one")
    likes(world, first.version, 0.9)
    world.pass_time(until="started")
    second = world.offer(b"two", parent=first.version)
    third = world.offer(b"three", parent=first.version)
    superseded = world.pass_time(until="superseded")
    assert superseded.version == second.version
    world.pass_time(until="promoted")
    world.taste = lambda version: 0.9
    world.pass_time(until="finished")
    assert world.decisions[-1].outcome == "started"
    assert (world.state.table.canary, world.state.table.control) == (third.version, first.version)


def test_a_restarted_engine_is_loaded_and_probed_again(world: World) -> None:
    manifest = world.offer()
    likes(world, manifest.version, 0.9)
    world.pass_time(until="promoted")
    engine = world.engines[0]
    engine.stop()
    for _ in range(3):
        world.now += 1
        world.tick()  # nothing answers: the controller goes on
    engine.start()
    engine.probes.clear()
    world.now += 1
    world.tick()
    assert set(engine.loaded) == {manifest.version}
    assert engine.probes == [f"probe-{manifest.version}", manifest.version]


def test_an_engine_that_is_away_delays_a_candidate(world: World) -> None:
    world.engines[0].stop()
    world.offer()
    for _ in range(3):
        world.now += 1
        world.tick()
    assert world.outcomes == ["begun", "accepted"]
    world.engines[0].start()
    world.now += 1
    world.tick()
    assert world.outcomes[-1] == "started"


def test_a_canary_whose_engine_came_back_wrong_is_rolled_back(world: World) -> None:
    world.offer()
    world.pass_time(until="started")
    world.engines[0].stop()
    world.engines[0].skew_nats = 0.5
    world.engines[0].start()
    failed = world.pass_time(until="guardrail")
    assert failed.numbers["guardrail"] == "parity"
    assert failed.numbers["parity_nats"] == pytest.approx(0.5)
    assert world.engines[0].loaded == {}


def promoted(world: World) -> Manifest:
    manifest = world.offer()
    likes(world, manifest.version, 0.9)
    world.pass_time(until="promoted")
    return manifest


def test_a_live_policy_is_kept_from_an_engine_that_came_back_wrong(make_world: MakeWorld) -> None:
    world = make_world(engines=2)
    manifest = promoted(world)
    broken, sound = world.engines
    broken.stop()
    broken.skew_nats = 0.5
    broken.start()
    rejected = world.pass_time(until="rejected", users=0)
    assert rejected.sentence == (
        f"Kept {manifest.version} from users of one engine: {broken.url} does not compute what the trainer "
        "did: logprobs differ by up to 0.5 nats, 0.02 is allowed."
    )
    assert rejected.numbers["parity_nats"] == pytest.approx(0.5)
    assert rejected.numbers["engine"] == broken.url
    assert broken.loads[2:] == [f"probe-{manifest.version}"], "users' name was never there"
    assert (broken.loaded, list(sound.loaded)) == ({}, [manifest.version])
    assert metric(world, "hearken_adapter_rejections_total", engine=broken.url) == 1

    broken.skew_nats = 0.0
    for _ in range(61):
        world.now += 1
        world.tick()
    assert list(broken.loaded) == [manifest.version], "tried again"
    assert world.outcomes.count("rejected") == 1
    assert world.state.table.live == manifest.version
    assert audit(world.log, world.settings) == []


def flip_a_bit(world: World, version: str) -> None:
    file = world.registry.path(version) / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_one_flipped_bit_is_refused(world: World) -> None:
    manifest = world.offer()
    flip_a_bit(world, manifest.version)
    refused = world.pass_time(until="refused", users=0)
    assert f"but the manifest recorded {manifest.files['adapter_model.safetensors']}" in refused.sentence
    assert world.engines[0].loads == []


def test_files_are_hashed_before_each_load_and_not_only_before_the_first(world: World) -> None:
    manifest = promoted(world)
    flip_a_bit(world, manifest.version)
    engine = world.engines[0]
    engine.stop()
    engine.start()
    engine.loads.clear()
    rejected = world.pass_time(until="rejected", users=0)
    assert "but the manifest recorded" in rejected.sentence
    assert engine.loads == []


def test_what_an_engine_has_for_long_is_proven_anew(world: World) -> None:
    """An engine re-reads an adapter that it evicted: by then the file may be another one."""
    manifest = promoted(world)
    engine = world.engines[0]
    engine.loaded[manifest.version] = b"evicted, and read again from a damaged disk"
    world.now += 700
    rejected = world.pass_time(until="rejected", users=0)
    parity = rejected.numbers["parity_nats"]
    assert isinstance(parity, float)
    assert parity > 0.02
    assert engine.loaded == {}


def test_an_error_while_proving_anew_is_no_reason_to_roll_back(world: World) -> None:
    manifest = promoted(world)
    engine = world.engines[0]
    engine.fails = True
    world.now += 700
    world.tick()
    assert list(engine.loaded) == [manifest.version]
    assert "rejected" not in world.outcomes
    engine.fails, probed = False, len(engine.probes)
    world.now += 1
    world.tick()
    assert len(engine.probes) == probed + 1


def test_a_version_that_a_gateway_holds_is_not_unloaded(world: World) -> None:
    manifest = promoted(world)
    append_command(world.log, "rollback", who="ann")
    world.pass_time(until="rolled_back", users=0)
    world.gateway_holds(manifest.version)
    for _ in range(100):
        world.now += 1
        world.tick()
    engine = world.engines[0]
    assert list(engine.loaded) == [manifest.version]
    world.gateway_holds()
    for _ in range(8):
        world.now += 1
        world.tick()
    assert engine.loaded == {}


def test_without_any_lease_a_version_stays_for_the_longest_answer(make_world: MakeWorld) -> None:
    world = make_world(longest_answer_seconds=50)
    promoted(world)
    append_command(world.log, "rollback", who="ann")
    world.pass_time(until="rolled_back", users=0)
    world.shared.delete("lease/gateway/gateway")
    for _ in range(49):
        world.now += 1
        world.tick()
    assert world.engines[0].loaded
    for _ in range(3):
        world.now += 1
        world.tick()
    assert world.engines[0].loaded == {}


def test_going_back_twice_loads_before_it_routes(world: World) -> None:
    """The one before the previous version was unloaded long ago."""
    versions = ["base"]
    for content in (b"one", b"two", b"three"):
        manifest = world.offer(content, parent=versions[-1])
        likes(world, manifest.version, 0.9)
        world.pass_time(until="promoted")
        versions.append(manifest.version)
        world.taste = lambda version: 0.9
        world.pass_time(until="finished")
    engine = world.engines[0]
    for _ in range(15):
        world.now += 1
        world.tick()
    assert set(engine.loaded) == set(versions[2:])
    for back in (versions[2], versions[1]):
        append_command(world.log, "rollback", who="ann")
        world.tick()
        assert world.state.table.live == back
        assert back in engine.loaded


def test_a_private_name_that_a_dead_controller_left_is_unloaded(world: World) -> None:
    manifest = promoted(world)
    engine = world.engines[0]
    engine.loaded["probe-policy-7-aaaaaaaa"] = b"x"
    for _ in range(20):
        world.now += 1
        world.tick()
    assert list(engine.loaded) == [manifest.version]


def test_two_controllers_refuse_none_of_each_others_candidates(make_world: MakeWorld) -> None:
    world = make_world(engines=2)
    fleets = [
        Fleet(
            [EngineClient(url, 5.0) for url in world.settings.engines],
            world.registry,
            world.settings.parity_limits,
            owner,
            30.0,  # a round waits for its engines, however busy this machine is
        )
        for owner in ("0a1b2c", "0d1e2f")
    ]
    versions = [publish(world.registry, world.folder, b"weights %d" % n).version for n in range(10)]
    together = threading.Barrier(len(fleets))

    def bring(fleet: Fleet) -> list[Problem]:
        found = []
        for version in versions:
            together.wait(30)
            fleet.look()
            found += fleet.prepare(version, world.now)
        return found

    with ThreadPoolExecutor(len(fleets)) as threads:
        assert list(threads.map(bring, fleets)) == [[], []]
    for engine in world.engines:
        assert set(engine.loaded) == set(versions)  # each under its name, and nothing private is left
    for fleet in fleets:
        assert {version for _, version in fleet.proofs()} == set(versions)
        fleet.close()


def run_killing(world: World, every: int | None) -> list[str]:
    manifest = world.offer()
    likes(world, manifest.version, 0.75)
    for i in range(80):
        world.tick()
        if world.state.stage == "holdback":
            break
        world.chat(60)
        world.now += 1.0
        if every is not None and i % every == 0:
            world.kill_controller()
    return [decision.sentence for decision in world.decisions]


def test_a_killed_controller_is_continued_to_the_same_verdicts(make_world: MakeWorld) -> None:
    undisturbed = run_killing(make_world(), every=None)
    killed = run_killing(make_world(), every=3)
    assert undisturbed[-1].startswith("Promoted")
    assert killed == undisturbed


class Sips:
    """A log that gives a few records at a time, so that one round of a controller is not all there is."""

    def __init__(self, log: EventLog) -> None:
        self.append, self.end, self.close = log.append, log.end, log.close
        self.hold, self.release_hold, self.bury = log.hold, log.release_hold, log.bury
        self._read = log.read

    def read(
        self, topics: Sequence[str], cursor: Cursor, limit: int = 1000, wait_seconds: float = 0.0
    ) -> tuple[list[Record], dict[str, int]]:
        return self._read(topics, cursor, min(limit, 10), wait_seconds)


def test_no_verdict_before_all_that_is_in_the_log_was_read(world: World) -> None:
    manifest = world.offer()
    world.pass_time(until="started", users=0)
    world.taste = lambda version: 0.1 if version == manifest.version else 0.8
    for _ in range(6):  # much more than it takes, while no controller looks
        world.serve("canary", 60)
        world.serve("control", 60)
        world.now += 10
    world.kill_controller(Sips(world.log))
    rounds = 0
    while "harmful" not in world.outcomes and rounds < 30:
        world.tick()
        rounds += 1
    assert world.decisions[-1].outcome == "harmful"
    assert world.decisions[-1].cursor == world.log.end(TOPICS)
    assert rounds > 2, "or nothing was ever half read"


class Crash(Exception):
    """The process died."""


class CrashingLog:
    """A log whose process dies right after each append has become durable."""

    def __init__(self, log: EventLog) -> None:
        self.read, self.end, self.close = log.read, log.end, log.close
        self.hold, self.release_hold, self.bury = log.hold, log.release_hold, log.bury
        self._append = log.append

    def append(self, entries: Sequence[Entry]) -> "Future[None]":
        self._append(entries).result()
        raise Crash


def test_a_crash_after_any_decision_is_continued(world: World) -> None:
    log = CrashingLog(world.log)
    world.offer(b"one")
    newest = world.offer(b"two")
    likes(world, newest.version, 0.9)
    crashes = 0
    world.kill_controller(log)
    while "promoted" not in world.outcomes:
        try:
            world.tick()
        except Crash:
            crashes += 1
            world.kill_controller(log)
        else:
            world.chat(60)
            world.now += 1.0
    assert crashes == len(world.decisions)
    assert [decision.number for decision in world.decisions] == list(range(1, crashes + 1))
    assert [o for o in world.outcomes if o != "raised"] == [
        "begun", "accepted", "superseded", "accepted", "started", "promoted",
    ]  # fmt: skip
    assert world.decisions[-1].version == newest.version
    world.kill_controller()
    assert audit(world.log, world.settings) == []


def test_an_operator_rolls_back_in_a_canary_and_after_it(world: World) -> None:
    manifest = world.offer()
    likes(world, manifest.version, 0.9)
    world.pass_time(until="promoted")
    append_command(world.log, "rollback", reason="odd answers", who="ann")
    back = world.pass_time(until="rolled_back", users=0)
    assert back.sentence == f"Rolled back {manifest.version} to base for ann: odd answers."
    world.tick()
    assert world.outcomes.count("rolled_back") == 1, "one command, one decision"
    append_command(world.log, "rollback", who="ann")
    world.tick()
    assert world.outcomes[-1] == "not_done"


def test_a_pause_keeps_candidates_waiting_until_the_resume(world: World) -> None:
    world.tick()
    append_command(world.log, "pause", who="ann")
    world.offer()
    for _ in range(3):
        world.now += 1
        world.tick()
    assert world.outcomes == ["begun", "paused", "accepted"]
    world.kill_controller()
    append_command(world.log, "resume", who="ann")
    world.now += 1
    world.tick()
    assert world.outcomes[3:] == ["resumed", "started"]


def test_without_traffic_no_rung_is_climbed(world: World) -> None:
    world.offer()
    world.pass_time(until="started", users=0)
    for _ in range(30):
        world.now += 1
        world.tick()
    assert world.outcomes[-1] == "started"


def test_an_undecided_canary_ends_inconclusive(make_world: MakeWorld) -> None:
    world = make_world(max_seconds=5, margin=0.0)
    world.offer()
    ended = world.pass_time(until="inconclusive", users=10)
    assert "base stays live" in ended.sentence
    assert world.state == ReleaseState.model_validate(ended.state)


def test_a_second_controller_does_not_fork_the_history(world: World) -> None:
    world.tick()
    rival = world.new_controller()
    rival.tick()
    world.offer(b"one")
    for _ in range(3):
        world.now += 1
        world.tick()
        rival.tick()
    numbers = [decision.number for decision in world.decisions]
    assert numbers == sorted(set(numbers))
    assert rival.state == world.state


class OvertakenLog:
    """A log in which another controller's entry arrives just before our first one."""

    def __init__(self, log: EventLog, theirs: Entry) -> None:
        self.read, self.end, self.close = log.read, log.end, log.close
        self.hold, self.release_hold, self.bury = log.hold, log.release_hold, log.bury
        self._append, self._theirs = log.append, [theirs]

    def append(self, entries: Sequence[Entry]) -> "Future[None]":
        theirs, self._theirs = self._theirs, []
        return self._append([*theirs, *entries])


def test_a_decision_that_another_controller_made_first_is_followed(world: World) -> None:
    """Our decision is in the log second: we go on from the first."""
    world.tick()
    theirs = world.decisions[0].model_copy(update={"event_id": "theirs", "number": 2})
    world.kill_controller(OvertakenLog(world.log, entry(theirs)))
    append_command(world.log, "pause", who="ann")
    world.tick()
    assert not world.state.paused, "its own decision was second"
    assert world.state == theirs.state
    world.tick()
    assert [decision.event_id for decision in world.decisions][1] == "theirs"
    assert world.outcomes == ["begun", "begun", "paused"], "the command is answered after all"
    assert world.state == world.decisions[-1].state


def test_replay_gives_the_same_verdicts_and_notices_other_ones(world: World) -> None:
    manifest = world.offer()
    likes(world, manifest.version, 0.8)
    world.pass_time(until="promoted")
    assert audit(world.log, world.settings) == []
    promoted = world.decisions[-1]
    forged = promoted.model_copy(
        update={"number": promoted.number + 1, "event_id": "forged", "outcome": "harmful", "sentence": "x"}
    )
    world.log.append([entry(forged)]).result()
    (difference,) = audit(world.log, world.settings)
    assert f"decision {forged.number}" in difference


def test_a_controller_is_ready_to_lead_once_it_has_read_the_stage(world: World) -> None:
    world.offer()
    world.pass_time(until="started")
    for _ in range(11):  # of more records than a round reads
        world.chat(1000)
    world.kill_controller()
    world.tick()
    assert not world.controller.is_ready
    assert world.controller.leads, "operators are obeyed meanwhile"
    world.tick()
    assert world.controller.is_ready
