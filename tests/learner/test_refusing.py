"""The learner that finds fault with its own policy, without an engine: what it does then, and remembers."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from deploy.engine import EngineClient, Sample
from deploy.registry import Registry
from feedback.erasures import Erasure
from feedback.erasures import entry as erasure_entry
from feedback.log import Entry
from feedback.sqlite_log import SqliteLog
from learner.loop import Learner
from learner.metrics import LearnerMetrics
from learner.model import LIVE, POLICY, SharedModel
from learner.rollouts import RolloutSampler
from learner.self_check import Observation
from learner.settings import LearnerSettings
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


def make(log: SqliteLog, folder: Path) -> Learner:
    settings = LearnerSettings(
        data=folder,
        model=str(folder / "model"),
        engine="http://127.0.0.1:9",
        min_labels=20,
        labels_per_update=20,
    )
    return Learner(
        settings,
        log,
        EngineClient(settings.engine),
        Registry(folder / "adapters"),
        SharedModel(settings.model, rank=8),
        LearnerMetrics(),
    )


def refused(learner: Learner, reason: str) -> float | None:
    return learner.metrics.registry.get_sample_value("hearken_candidates_refused_total", {"reason": reason})


def test_a_policy_that_only_pleases_its_score_is_refused_and_training_waits(
    learner: Learner, log: SqliteLog, tmp_path: Path
) -> None:
    learner.turn(0.0)
    assert learner.place.reward_updates == 1
    with torch.no_grad():
        learner.model.flat[POLICY].weights.add_(0.01)  # as if PPO had moved it
    learner.watch.history, learner.place.at_limit = list(PLEASING), True
    learner.save()

    again = make(log, tmp_path)  # a learner killed here knows as much
    assert again.resume()
    assert again.watch.history == PLEASING
    assert refused(again, "over-optimised") == 0
    again.turn(0.0)

    assert refused(again, "over-optimised") == 1
    assert again.place.trial is None
    policy, live = (again.model.adapter_state(name) for name in (POLICY, LIVE))
    assert all(policy[key].equal(live[key]) for key in live)
    assert again.watch.history == []
    turns = again.place.turn
    again.turn(0.0)  # with the same votes it would come to the same
    assert again.place.turn == turns


def test_training_goes_on_once_there_are_new_votes(learner: Learner, log: SqliteLog) -> None:
    learner.turn(0.0)
    learner.watch.history, learner.place.at_limit = list(PLEASING), True
    learner.turn(0.0)
    assert learner.place.gave_up_at == learner.place.reward_updates == 1
    for i in range(80, 160):
        made = [record(completion(f"c{i}")), record(thumb(f"c{i}", float(i % 2), 1, rater=f"u_{i % 20}"))]
        log.append([Entry(each.topic, each.key, each.value) for each in made]).result()
    learner.turn(0.0)  # reads them
    learner.turn(0.0)  # and fits them
    assert learner.place.reward_updates > learner.place.gave_up_at


def test_a_policy_that_ran_away_starts_again_slower_until_it_is_not_haste(learner: Learner) -> None:
    learner.turn(0.0)
    ran_away = [LIVES, dataclasses.replace(LIVES, kl_nats_base=3.5, kl_nats_live=3.5)]
    paces = []
    while not learner.place.gave_up_at:
        paces.append(learner.place.pace)
        learner.watch.history, learner.place.at_limit = list(ran_away), True
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
    """What was made before it is offered next; where that is live itself, the next steps are smaller."""
    learner.turn(0.0)
    learner.sampler = RolloutSampler(PolicysEngine(learner), learner.folder / "rollouts")
    weights = learner.model.flat[POLICY].weights
    for step in range(steps):  # as PPO would move it
        learner.earlier.append(learner.ppo.snapshot())
        learner.place.steps_since_offer += 1
        with torch.no_grad():
            before = weights.clone()
            draw = torch.Generator().manual_seed(step)
            weights.add_(torch.randn(len(weights), generator=draw), alpha=0.01 if step + 1 < steps else 1)
    learner.turn(0.0)
    assert learner.metrics.registry.get_sample_value("hearken_ppo_undone_total") == 1
    assert torch.equal(weights, before) or steps == 1
    assert learner.place.trial is None
    assert learner.model.is_base(POLICY) is learner.model.same(POLICY, LIVE) is (steps == 1)
    assert learner.place.at_limit is (steps == 2)
    assert learner.place.pace == (1 / 2 if steps == 1 else 1)


@pytest.mark.parametrize("share", [0.95, 1.05])
def test_live_at_its_kl_limit_is_sampled_once_for_the_same_votes(learner: Learner, share: float) -> None:
    learner.turn(0.0)
    engine = PolicysEngine(learner)
    learner.sampler = RolloutSampler(engine, learner.folder / "rollouts")
    with torch.no_grad():
        draw = torch.Generator().manual_seed(0)
        weights = learner.model.flat[POLICY].weights
        weights.add_(torch.randn(len(weights), generator=draw), alpha=0.1)
    learner.model.copy_adapter(POLICY, LIVE)
    answers = engine.sample("", [[1, 500, 2]] * learner.settings.rollouts_per_step)
    budget = learner.ppo.measure(answers).kl_nats_base / share
    learner.settings = dataclasses.replace(learner.settings, kl_budget_nats=budget)
    for _ in range(3):
        learner.turn(0.0)
    assert learner.place.rollouts == 1
    assert learner.place.gave_up_at == learner.place.reward_updates
    assert learner.place.steps == 0


def rollouts(count: int) -> list[Sample]:
    """Rollouts on the log's prompt, all different."""
    return [Sample([1, 500, 2], [500, i % 2, 5 + i, 2], [-1.0] * 4, "", "stop") for i in range(count)]


def observe(learner: Learner, samples: list[Sample]) -> None:
    update = learner.place.reward_updates
    learner.watch.observe(learner.ppo.measure(samples), learner._scores(samples), learner._owners(), update)


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
