"""The learner that finds fault with its own policy, without an engine: what it does then, and remembers."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch

from deploy.engines.client import EngineClient, Sample
from deploy.history.releases import Decision
from deploy.history.releases import entry as release_entry
from deploy.history.states import ReleaseState
from deploy.history.table import RoutingTable
from deploy.registry.manifest import GateNumbers
from deploy.registry.registry import Registry
from feedback.core.erasures import Erasure
from feedback.core.erasures import entry as erasure_entry
from feedback.core.log import Entry
from feedback.sqlite.log import SqliteLog
from learner.loop.learner import Learner
from learner.loop.metrics import LearnerMetrics
from learner.model.shared import LIVE, POLICY, SharedModel
from learner.monitor.self_check import Observation
from learner.policy.ppo import PPO
from learner.rollouts.sampling import RolloutSampler
from learner.settings import LearnerSettings
from learner.state import stages
from learner.state.stages import LearnerState
from tests.feedback.examples import completion, record, thumb
from tests.learner.conftest import make_random_model
from tests.learner.test_ppo import sample as policys_answers

LIVES = Observation(
    reward=0.0,
    judged_win_rate=0.5,
    response_tokens=20.0,
    entropy_nats=1.0,
    kl_nats_base=0.0,
    kl_nats_live=0.0,
    perplexity=2.0,
)
PLEASING = [dataclasses.replace(LIVES, reward=0.2 * i, judged_win_rate=0.5 - 0.04 * i) for i in range(9)]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db")
    for i in range(80):
        made = [record(completion(f"c{i}")), record(thumb(f"c{i}", float(i % 2), 1, rater=f"u_{i % 20}"))]
        log.append([Entry(each.topic, each.key, each.value) for each in made]).result()
    yield log
    log.close()


@pytest.fixture
def learner(log: SqliteLog, tmp_path: Path) -> Learner:
    make_random_model(tmp_path / "model", tokens=1024)
    return make(log, tmp_path)


def make(log: SqliteLog, folder: Path, **told: Any) -> Learner:
    settings = LearnerSettings(
        data=folder,
        model=str(folder / "model"),
        engine="http://127.0.0.1:9",
        min_labels=20,
        labels_per_update=20,
        **told,
    )
    return Learner(
        settings,
        log,
        EngineClient(settings.engine),
        Registry(folder / "adapters"),
        SharedModel(settings.model, rank=8),
        LearnerMetrics(),
    )


def begin(learner: Learner) -> None:
    """As a turn does that finds enough votes, before it samples."""
    assert learner._next() == "begin"
    learner.state = stages.begun(learner.state)


def refused(learner: Learner, reason: str) -> float | None:
    return learner.metrics.registry.get_sample_value("hearken_candidates_refused_total", {"reason": reason})


def test_a_policy_that_only_pleases_its_score_is_refused_and_training_waits(
    learner: Learner, log: SqliteLog, tmp_path: Path
) -> None:
    learner.turn(0.0)
    assert learner.state.updates == 1
    begin(learner)
    with torch.no_grad():
        learner.model.flat[POLICY].weights.add_(0.01)  # as if PPO had moved it
    learner.watch.history = list(PLEASING)
    learner.save()

    again = make(log, tmp_path)  # a learner killed here knows as much
    assert again.resume()
    assert again.watch.history == PLEASING
    assert refused(again, "over-optimised") == 0
    again.turn(0.0)

    assert refused(again, "over-optimised") == 1
    assert again.state.stage == "waiting"
    assert again.state.trial is None
    policy, live = (again.model.adapter_state(name) for name in (POLICY, LIVE))
    assert all(policy[key].equal(live[key]) for key in live)
    assert again.watch.history == []
    turns = again.place.turn
    again.turn(0.0)  # with the same votes it would come to the same
    assert again.place.turn == turns


def test_training_goes_on_once_there_are_new_votes(learner: Learner, log: SqliteLog) -> None:
    learner.turn(0.0)
    begin(learner)
    learner.watch.history = list(PLEASING)
    learner.turn(0.0)
    assert learner.waits
    for i in range(80, 160):
        made = [record(completion(f"c{i}")), record(thumb(f"c{i}", float(i % 2), 1, rater=f"u_{i % 20}"))]
        log.append([Entry(each.topic, each.key, each.value) for each in made]).result()
    learner.turn(0.0)  # reads and fits them
    assert not learner.waits
    learner.sampler = RolloutSampler(PolicysEngine(learner), learner.folder / "rollouts")
    learner.turn(0.0)
    assert (learner.state.stage, learner.place.steps) == ("improving", 1)


def test_a_policy_that_ran_away_starts_again_slower_until_it_is_not_haste(learner: Learner) -> None:
    learner.turn(0.0)
    begin(learner)
    ran_away = [LIVES, dataclasses.replace(LIVES, kl_nats_base=3.5, kl_nats_live=3.5)]
    paces = []
    while not learner.waits:
        paces.append(learner.state.pace)
        learner.watch.history = list(ran_away)
        learner.turn(0.0)
    assert paces == [1, 1 / 2, 1 / 4, 1 / 8]
    assert refused(learner, "KL runaway") == 4


class PolicysEngine(EngineClient):
    """Answers as the learner's policy does, whatever adapter it was given."""

    def __init__(self, learner: Learner) -> None:
        super().__init__(learner.settings.engine)
        self._model = learner.model

    def models(self) -> list[str]:
        return ["base"]

    def context(self) -> int | None:
        return None

    def load(self, name: str, path: str) -> None: ...

    def unload(self, name: str) -> None: ...

    def sample(self, model: str, prompts: list[list[int]], **options: Any) -> list[Sample]:
        return policys_answers(self._model, len(prompts), seed=1, asked=prompts)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_step_that_goes_too_far_is_undone(learner: Learner, steps: int) -> None:
    """Training goes on from before it, and KL is dearer; where that is live itself, steps are smaller too."""
    learner.turn(0.0)
    begin(learner)
    learner.sampler = RolloutSampler(PolicysEngine(learner), learner.folder / "rollouts")
    weights, price = learner.model.flat[POLICY].weights, learner.optimiser.kl_coefficient
    for step in range(steps):  # as PPO would move it
        learner.earlier.append(learner.optimiser.snapshot())
        learner.state = stages.stepped(learner.state, 0.5)
        with torch.no_grad():
            before = weights.clone()
            draw = torch.Generator().manual_seed(step)
            weights.add_(torch.randn(len(weights), generator=draw), alpha=0.01 if step + 1 < steps else 1)
    learner.turn(0.0)
    assert learner.metrics.registry.get_sample_value("hearken_ppo_undone_total") == 1
    assert torch.equal(weights, before) or steps == 1
    assert learner.model.is_base(POLICY) is learner.model.same(POLICY, LIVE) is (steps == 1)
    assert learner.state.stage == "improving"
    assert learner.state.pace == (1 / 2 if steps == 1 else 1)
    assert learner.optimiser.kl_coefficient > price
    learner.turn(0.0)  # and a step is taken next
    assert learner.place.steps == 1


def test_a_live_policy_far_from_the_base_is_trained_on(learner: Learner) -> None:
    """As a version 0 is, or what went live before: the KL budget counts from it."""
    learner.turn(0.0)
    learner.sampler = RolloutSampler(PolicysEngine(learner), learner.folder / "rollouts")
    with torch.no_grad():
        draw = torch.Generator().manual_seed(0)
        weights = learner.model.flat[POLICY].weights
        weights.add_(torch.randn(len(weights), generator=draw), alpha=0.1)
    learner.model.copy_adapter(POLICY, LIVE)
    learner.settings = dataclasses.replace(learner.settings, kl_budget_nats=0.01)
    learner.turn(0.0)
    assert learner.place.steps == 1
    assert learner.state.live_nats is not None
    assert learner.state.live_nats > 0.1
    to_base, to_live = learner.improving.kl_limits(20.0)
    assert to_base == pytest.approx(learner.state.live_nats + 0.01)
    assert to_live == learner.settings.kl_publish_nats


def decide(log: SqliteLog, version: str, live: str, outcome: Any, epoch: int) -> None:
    """A decision about a candidate, as the controller writes it."""
    table = RoutingTable(epoch=epoch, live=live)
    decision = Decision(
        event_id=f"decision-{epoch}", at=0.0, number=epoch, outcome=outcome, stage_before="canary",
        stage_after="idle", version=version, table=table, sentence="said", state=ReleaseState(table=table),
    )  # fmt: skip
    log.append([release_entry(decision)]).result()


def offer(learner: Learner, kl_nats_base: float) -> str:
    """Publish the policy with a KL to the base that the gate found."""
    if learner.state.stage == "waiting":
        begin(learner)
    with torch.no_grad():
        learner.model.flat[POLICY].weights.add_(0.01)
    learner.state = stages.advance(learner.state, "finished")
    numbers = GateNumbers(kl_nats_base=kl_nats_base, kl_budget_nats_base=6.0, kl_budget_nats_live=4.0)
    learner.offering.publish(numbers, learner.model.policy_digest)
    assert learner.state.trial is not None
    return learner.state.trial


def test_a_promoted_policy_is_the_reference_and_what_it_used_of_the_budget_comes_back(
    learner: Learner, log: SqliteLog
) -> None:
    learner.turn(0.0)
    begin(learner)
    learner.state = stages.met_live(learner.state, 0.0)
    learner.optimiser.steps = 9
    version = offer(learner, kl_nats_base=3.5)
    learner.turn(0.0)
    assert (learner.state.stage, learner.waits) == ("on trial", True)
    decide(log, version, version, "promoted", 1)
    learner.turn(0.0)
    assert learner.place.live == version
    assert learner.improving.is_live
    assert (learner.state.trial, learner.state.live_nats) == (None, None)
    assert learner.state.spent_nats == pytest.approx(3.5)
    assert learner.optimiser.steps == 0  # the learning rate rises again
    assert learner.waits  # the votes are used up
    for i in range(80, 180):
        made = [record(completion(f"c{i}")), record(thumb(f"c{i}", float(i % 2), 1, rater=f"u_{i % 20}"))]
        log.append([Entry(each.topic, each.key, each.value) for each in made]).result()
    learner.turn(0.0)
    back = 3.5 - learner.state.spent_nats  # of 6 nats for 1,000 votes that train, of which some judge
    assert 0.2 < back < 0.6
    assert not learner.waits


@pytest.mark.parametrize(("outcome", "is_live"), [("harmful", True), ("inconclusive", False)])
def test_a_policy_that_lost_is_left_and_one_that_did_not_is_trained_on(
    learner: Learner, log: SqliteLog, outcome: str, is_live: bool
) -> None:
    learner.turn(0.0)
    begin(learner)
    version = offer(learner, kl_nats_base=3.5)
    decide(log, version, "base", outcome, 1)
    learner.turn(0.0)
    assert learner.improving.is_live is is_live
    assert (learner.state.stage, learner.state.spent_nats) == ("waiting", 0)
    assert learner.waits


def test_a_candidate_that_an_operator_pins_is_live_and_its_trial_over(
    learner: Learner, log: SqliteLog
) -> None:
    learner.turn(0.0)
    begin(learner)
    version = offer(learner, kl_nats_base=3.5)
    decide(log, "base", "base", "pinned", 1)
    learner.turn(0.0)
    assert (learner.state.stage, learner.state.trial) == ("on trial", version), "it waits meanwhile"
    decide(log, version, version, "pinned", 2)
    learner.turn(0.0)
    assert (learner.state.stage, learner.state.trial, learner.place.live) == ("waiting", None, version)
    assert learner.improving.is_live


def test_who_goes_back_makes_what_then_serves_the_start(learner: Learner, log: SqliteLog) -> None:
    learner.turn(0.0)
    begin(learner)
    version = offer(learner, kl_nats_base=3.5)
    decide(log, version, version, "promoted", 1)
    learner.turn(0.0)
    assert not learner.model.is_base(POLICY)
    decide(log, version, "base", "harmful", 2)
    learner.turn(0.0)
    assert learner.model.is_base(POLICY)
    assert learner.place.live == "base"
    assert learner.waits


def test_a_candidate_that_is_found_in_the_log_is_not_offered_twice(
    learner: Learner, log: SqliteLog, tmp_path: Path
) -> None:
    """The learner was killed between publishing and its checkpoint."""
    learner.turn(0.0)
    begin(learner)
    learner.save()
    version = offer(learner, kl_nats_base=3.5)
    again = make(log, tmp_path)
    assert again.resume()
    assert again.state.stage == "improving"
    again.turn(0.0)
    assert (again.state.stage, again.state.trial) == ("on trial", version)
    assert again.state.used == again.state.updates


def test_a_checkpoint_from_before_the_table_goes_on(learner: Learner, log: SqliteLog, tmp_path: Path) -> None:
    learner.turn(0.0)
    learner.watch.history = list(PLEASING)
    learner.save()
    file = tmp_path / "learner" / "checkpoint" / "state.json"
    saved = orjson.loads(file.read_bytes())
    state = saved.pop("state")
    saved["place"] |= {
        "trial": None, "steps_since_offer": 3, "at_limit": False, "new_labels": state["new_labels"],
        "reward_updates": 1, "pace": 0.5, "gave_up_at": 0,
    }  # fmt: skip
    del saved["place"]["rollout_tokens"]  # nor had all of them this one
    file.write_bytes(orjson.dumps(saved))
    again = make(log, tmp_path)
    assert again.resume()
    expected = LearnerState("improving", updates=1, batches=3, pace=0.5, live_nats=0.0)
    assert again.state == dataclasses.replace(expected, new_labels=state["new_labels"])
    assert again.place.rollout_tokens == 0


def test_a_learner_that_is_killed_after_every_turn_comes_to_the_same_weights(
    log: SqliteLog, tmp_path: Path
) -> None:
    """Through the critic's first step, steps, steps that are undone, and starting over from live."""
    make_random_model(tmp_path / "model", tokens=1024)

    def start(folder: Path) -> Learner:
        folder.mkdir(exist_ok=True)
        if not (folder / "model").exists():
            (folder / "model").symlink_to(tmp_path / "model")
        made = make(log, folder)
        hasty = dataclasses.replace(made.optimiser.settings, learning_rate=3e-2, kl_step_nats=2.0)
        made.optimiser = PPO(made.model, hasty, seed=3)
        made.settings = dataclasses.replace(made.settings, rollouts_per_step=16, kl_publish_nats=1.0)
        made.sampler = RolloutSampler(PolicysEngine(made), made.folder / "rollouts")
        made.resume()
        return made

    undisturbed, killed = start(tmp_path / "one"), start(tmp_path / "two")
    seen = set()
    for turn in range(12):
        undisturbed.turn(0.0)
        killed.turn(0.0)
        assert killed.model.policy_digest == undisturbed.model.policy_digest, turn
        assert killed.state == undisturbed.state
        seen.add((killed.state.batches > 1, killed.state.pace < 1))
        killed.memory.close()  # as the kernel does for a process that dies
        killed = start(tmp_path / "two")
    assert undisturbed.metrics.registry.get_sample_value("hearken_ppo_undone_total")
    assert undisturbed.place.steps > 3
    assert len(seen) > 2


def rollouts(count: int) -> list[Sample]:
    """Rollouts on the log's prompt, all different."""
    return [Sample([1, 500, 2], [500, i % 2, 5 + i, 2], [-1.0] * 4, "", "stop") for i in range(count)]


def observe(learner: Learner, samples: list[Sample]) -> None:
    (scores, _), owners = learner.scoring.scores(samples), learner.drawing.owners()
    learner.watch.observe(learner.optimiser.measure(samples), scores, owners, learner.state.updates)


def test_lives_own_rollouts_are_no_better_than_live(learner: Learner) -> None:
    """Also by a reward model that vetoes some of them: both sides are scored alike."""
    learner.turn(0.0)
    observe(learner, rollouts(24))
    assert learner.watch.history[0].reward == pytest.approx(0, abs=1e-6)
    assert learner.watch.history[0].judged_win_rate == pytest.approx(0.5)


def test_a_history_whose_live_rollouts_were_all_erased_begins_again(
    learner: Learner, log: SqliteLog, tmp_path: Path
) -> None:
    learner.turn(0.0)
    ours = rollouts(4)
    observe(learner, ours)
    (owner,) = {(rollout.tenant, rollout.user) for rollout in learner.watch.of_live}
    asked = record(completion("bobs").model_copy(update={"user": "u_bob"}))
    log.append([erasure_entry(Erasure.of(*owner)), Entry(asked.topic, asked.key, asked.value)]).result()
    learner.turn(0.0)
    assert learner.watch.of_live == learner.watch.history == []
    observe(learner, ours)
    learner.save()
    again = make(log, tmp_path)
    assert again.resume()
    assert again.watch.history == learner.watch.history != []
