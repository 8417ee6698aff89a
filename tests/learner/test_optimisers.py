"""The seam: an optimiser of one's own, found by its import path, learns in the learner's place of PPO."""

import sys
from pathlib import Path

import pytest
import torch

from deploy.engines.client import EngineClient
from deploy.registry.registry import Registry
from feedback.sqlite.log import SqliteLog
from learner.loop.learner import Learner
from learner.loop.metrics import LearnerMetrics
from learner.model.shared import LIVE, POLICY, SharedModel
from learner.optimiser_names import OPTIMISERS
from learner.optimisers import find
from learner.policy.ppo import PPO
from learner.settings import LearnerSettings, PPOSettings
from tests.learner.conftest import make_random_model
from tests.learner.test_ppo import likes, sample

OWN = '''
import torch
from learner.optimiser import Lesson, Moved, Optimiser, StepMetrics
from learner.policy.ppo import PPO

class Praise(Optimiser):
    """Makes the likelier what scored above the mean: REINFORCE."""

    def learn(self, lesson: Lesson) -> StepMetrics:
        moved = Moved()
        moved.learning_rate = self.set_learning_rate(lesson.pace, self.steps)
        self.zero_grad()
        praise = lesson.scores - lesson.scores.mean()
        from learner.batching import make_batch
        for item, worth in zip(lesson.measured.items, praise, strict=True):
            (-worth * self.policy_logprobs(make_batch([item])).sum()).backward()
        self.take(moved)
        return StepMetrics(**self.common(lesson, moved))

class Unfinished(Optimiser):
    pass

class Other(PPO):
    pass

number = 3
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of somebody else's."""
    (tmp_path / "somebodys_way.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "somebodys_way", raising=False)
    return "somebodys_way"


def test_ours_are_found_by_their_short_names() -> None:
    assert find("ppo") is PPO
    for name in OPTIMISERS:
        assert find(name).kind == name


def test_a_subclass_of_ours_is_a_way_of_its_own(own: str) -> None:
    assert find(f"{own}:Other").kind == f"{own}:Other"


def test_what_cannot_be_used_is_refused_with_what_would_be_right(own: str, tmp_path: Path) -> None:
    (tmp_path / "broken_way.py").write_text("raise RuntimeError('not\\ntoday')")
    for name, said in {
        "pp0": "it must be ppo, .*or the import path of a class of your own, package.module:Class",
        "a b:C": "it must be ppo",
        "no_such_way:C": r"No module named 'no_such_way'\); it must be a module that this Python finds",
        "broken_way:C": r"cannot be imported \(RuntimeError: not\); ",
        f"{own}:Prise": "Prise is no subclass of .*Optimiser there; .* are Praise, Unfinished, Other",
        f"{own}:number": "number is no subclass",
        "json:loads": "loads is no subclass .*; json has none",
        f"{own}:Unfinished": "Unfinished must define learn$",
    }.items():
        with pytest.raises(ValueError, match=said) as refused:
            find(name)
        assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="it must be ppo"):
        LearnerSettings(data=tmp_path, model="m", engine="e", optimiser="pp0")


def learner(folder: Path, log: SqliteLog, optimiser: str) -> Learner:
    model = str(folder / "model")
    ppo = PPOSettings(learning_rate=1e-2, critic_warmup_steps=0)
    settings = LearnerSettings(
        data=folder, model=model, engine="http://127.0.0.1:9", optimiser=optimiser, ppo=ppo
    )
    return Learner(
        settings,
        log,
        EngineClient(settings.engine),
        Registry(folder / "adapters"),
        SharedModel(model, rank=4),
        LearnerMetrics(),
    )


def test_ones_own_learns_is_saved_and_goes_on_where_another_was(own: str, tmp_path: Path) -> None:
    make_random_model(tmp_path / "model")
    log = SqliteLog(tmp_path / "log.db")
    made = learner(tmp_path, log, f"{own}:Praise")
    assert made.optimiser.kind == f"{own}:Praise"
    rollouts = sample(made.model, 16, seed=1)
    report = made.optimiser.step(made.optimiser.measure(rollouts), likes(rollouts))
    made.metrics.show_step(report)
    assert report.learning_rate > 0
    assert made.optimiser.steps == 1
    assert not made.model.same(POLICY, LIVE)
    weights = made.model.flat[POLICY].weights.detach().clone()
    made.save()
    made.memory.close()

    again = learner(tmp_path, log, f"{own}:Praise")
    assert again.resume()
    assert again.optimiser.steps == 1
    assert again.optimiser.snapshot()["optimizer"]["state"]
    again.memory.close()

    other = learner(tmp_path, log, "ppo")  # the settings were changed: the policy stays, all else is new
    assert other.resume()
    assert torch.equal(other.model.flat[POLICY].weights, weights)
    assert other.optimiser.steps == 0
    assert other.optimiser.snapshot()["optimizer"]["state"] == {}
    assert other.optimiser.kl_coefficient == other.settings.ppo.kl_coefficient
    log.close()
