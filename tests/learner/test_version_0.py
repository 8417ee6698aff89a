"""A version 0 of another rank than the learner's: what serves is trained on, whatever its rank is."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from deploy.decide import release
from deploy.engines.client import EngineClient
from deploy.history.releases import Decision, entry
from deploy.registry.manifest import GateNumbers
from deploy.registry.registry import Registry
from feedback.sqlite.log import SqliteLog
from learner.loop.learner import Learner
from learner.loop.metrics import LearnerMetrics
from learner.main import with_rank
from learner.model.shared import LIVE, POLICY, SharedModel
from learner.policy.candidate import publish
from learner.policy.probing import make_probes
from learner.settings import LearnerSettings
from tests.learner.conftest import make_random_model
from tests.learner.test_model import ITEMS, disturb
from tests.learner.test_ppo import likes, sample


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db")
    yield log
    log.close()


def start(data: Path, log: SqliteLog, rank: int = 8) -> Learner:
    """A learner as `run` makes it."""
    if not (data / "model").exists():
        make_random_model(data / "model")
    settings = with_rank(
        LearnerSettings(data=data, model=str(data / "model"), engine="http://127.0.0.1:9", rank=rank)
    )
    registry = Registry(data / "adapters")
    model = SharedModel(settings.model, rank=settings.rank, device="cpu")
    return Learner(settings, log, EngineClient(settings.engine), registry, model, LearnerMetrics())


def put_version_0_live(data: Path, log: SqliteLog, rank: int) -> SharedModel:
    """As `hearken sft` publishes it and a controller begins with it."""
    make_random_model(data / "model")
    made = SharedModel(str(data / "model"), rank=rank, device="cpu")
    disturb(made, POLICY)
    manifest = publish(
        Registry(data / "adapters"),
        made,
        parent="base",
        training={},
        offsets={},
        gate=GateNumbers(),
        probes=make_probes(made),
        first=True,
    )
    step = release.begin(1.0, manifest.version)
    decision = Decision(
        event_id="begun",
        at=1.0,
        number=1,
        outcome=step.outcome,
        stage_before="idle",
        stage_after="idle",
        version=manifest.version,
        table=step.state.table,
        sentence=step.sentence,
        state=step.state,
    )
    log.append([entry(decision)]).result()
    return made


@pytest.mark.parametrize("rank", [4, 16])
def test_the_learner_trains_on_from_a_version_0_of_any_rank(
    log: SqliteLog, tmp_path: Path, rank: int
) -> None:
    made = put_version_0_live(tmp_path, log, rank)
    learner = start(tmp_path, log)
    learner.turn(0.0)
    assert learner.place.live.startswith("policy-0-")
    for adapter in (LIVE, POLICY):
        said = learner.model.answer_logprobs(ITEMS, adapter)
        torch.testing.assert_close(said, made.answer_logprobs(ITEMS, POLICY), atol=1e-5, rtol=0)
    learner.save()
    again = start(tmp_path, log)
    assert again.resume()
    assert again.model.policy_digest == learner.model.policy_digest


def test_a_rank_that_was_raised_goes_on_with_what_was_learnt(log: SqliteLog, tmp_path: Path) -> None:
    learner = start(tmp_path, log)
    rollouts = sample(learner.model, 8, seed=1)
    for _ in range(2):  # the first is the critic's
        learner.optimiser.step(learner.optimiser.measure(rollouts), likes(rollouts))
    learner.earlier = [learner.optimiser.snapshot()]
    learner.save()
    again = start(tmp_path, log, rank=16)
    assert again.resume()
    said, before = (each.model.answer_logprobs(ITEMS, POLICY) for each in (again, learner))
    torch.testing.assert_close(said, before, atol=1e-5, rtol=0)
    weights = again.model.flat[POLICY].weights.detach().clone()
    again.optimiser.restore(again.earlier.pop())
    again.optimiser.step(again.optimiser.measure(rollouts), likes(rollouts))
    assert not torch.equal(again.model.flat[POLICY].weights, weights)
