"""Each step of a learner is told in the log once, wherever between step, checkpoint and log it is killed."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest

from feedback.core.events import UPDATES
from feedback.core.log import Entry
from feedback.sqlite.log import SqliteLog
from feedback.updates import usage
from feedback.updates.steps import KEY, StepRecord, entry, parse, step_record
from hearken.story.log import read_story
from hearken.story.series import told as story_of
from learner.loop.learner import Learner
from learner.rollouts.sampling import RolloutSampler
from tests.feedback.examples import completion, record, thumb
from tests.learner.conftest import make_random_model
from tests.learner.test_refusing import PolicysEngine, begin, make


class Killed(Exception):
    """The process ends here."""


class Log(SqliteLog):
    """A log whose process is killed just before or just after it appends a step, when a test says so."""

    kill: str | None = None

    def append(self, entries: Sequence[Entry]) -> "Future[None]":
        if not any(each.key == KEY for each in entries):
            return super().append(entries)
        if self.kill == "before":
            raise Killed
        super().append(entries).result()
        if self.kill == "after":
            raise Killed
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def steps(self) -> list[StepRecord]:
        """All step records, repetitions included."""
        found = [parse(each.value) for each in self.read([UPDATES], {})[0] if each.key == KEY]
        return [each for each in found if each is not None]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    log = Log(tmp_path / "log.db")
    for i in range(80):
        made = [record(completion(f"c{i}")), record(thumb(f"c{i}", float(i % 2), 1, rater=f"u_{i % 20}"))]
        log.append([Entry(each.topic, each.key, each.value) for each in made]).result()
    make_random_model(tmp_path / "model", tokens=1024)
    return log


def resumed(log: Log, folder: Path) -> Learner:
    """The learner that goes on from the checkpoint."""
    log.kill = None
    again = make(log, folder)
    assert again.resume()
    again.sampler = RolloutSampler(PolicysEngine(again), again.folder / "rollouts")
    return again


def improving(log: Log, folder: Path) -> Learner:
    """A learner whose next turn takes its first step."""
    learner = make(log, folder)
    learner.turn(0.0)
    begin(learner)
    learner.save()
    learner.sampler = RolloutSampler(PolicysEngine(learner), learner.folder / "rollouts")
    return learner


def step(learner: Learner) -> None:
    steps = learner.place.steps
    while learner.place.steps == steps:
        learner.turn(0.0)


def test_a_step_is_told_with_what_was_measured(log: Log, tmp_path: Path) -> None:
    learner = improving(log, tmp_path)
    step(learner)
    [told] = log.steps()
    assert told.step == learner.place.steps == 1
    metric = learner.metrics.registry.get_sample_value
    assert told.reward == pytest.approx(metric("hearken_reward_mean"), rel=1e-4)
    assert told.kl_nats == pytest.approx(metric("hearken_kl_nats", {"reference": "base"}), abs=1e-4)
    assert told.kl_budget_nats == pytest.approx(
        metric("hearken_kl_budget_nats", {"reference": "base"}), rel=1e-4
    )
    assert told.entropy_nats == pytest.approx(metric("hearken_entropy_nats"), rel=1e-4)
    assert told.response_tokens == pytest.approx(metric("hearken_response_tokens"), rel=1e-4)
    assert told.accuracy == pytest.approx(metric("hearken_reward_accuracy_ratio"), rel=1e-4)
    cut_off, rollouts = metric("hearken_rollouts_cut_off_total"), metric("hearken_rollouts_total")
    assert cut_off is not None
    assert rollouts is not None
    assert told.cut_off == pytest.approx(cut_off / rollouts, rel=1e-4)
    assert (told.votes, told.grew_from) == (80, "base")
    assert metric("hearken_step_seconds_count") == 1
    assert metric("hearken_learner_last_step_timestamp_seconds") == pytest.approx(told.at, abs=5)
    target, budget = metric("hearken_kl_target_nats"), metric("hearken_kl_budget_nats", {"reference": "live"})
    assert target is not None
    assert budget is not None
    assert 0 < target < budget
    assert metric("hearken_reward_objective", {"objective": "helpful"}) is not None
    assert metric("hearken_reward_objective", {"objective": "safe"}) is None, "nobody spoke of safety"
    assert metric("hearken_feedback_delay_seconds_count") == 80
    drawn = story_of(read_story(log, None, 10.0))["steps"]
    assert drawn["series"]["kl_nats"] == [[told.at, told.kl_nats]]
    assert drawn["series"]["accuracy"] == [[told.at, told.accuracy]]
    assert (drawn["count"], drawn["votes_used"]) == (1, 80)


def killed_before_the_checkpoint(learner: Learner, log: Log) -> None:
    """The step is taken, and nothing of it is saved."""
    rollouts = learner.improving.sample()
    assert rollouts is not None
    learner.improving.step(rollouts)
    assert learner.place.steps == 1


def killed_before_the_log_has_it(learner: Learner, log: Log) -> None:
    log.kill = "before"
    with pytest.raises(Killed):
        step(learner)


def killed_when_the_log_has_it(learner: Learner, log: Log) -> None:
    log.kill = "after"
    with pytest.raises(Killed):
        step(learner)


@pytest.mark.parametrize(
    ("kill", "records"),
    [
        (killed_before_the_checkpoint, 1),
        (killed_before_the_log_has_it, 1),
        (killed_when_the_log_has_it, 2),  # in the same words
    ],
)
def test_a_killed_learner_tells_each_step_once(
    kill: Callable[[Learner, Log], None], records: int, log: Log, tmp_path: Path
) -> None:
    learner = improving(log, tmp_path)
    kill(learner, log)
    learner.memory.close()
    again = resumed(log, tmp_path)
    if not again.place.steps:
        step(again)
    told = log.steps()
    assert len(told) == records
    assert [each.step for each in {each.event_id: each for each in told}.values()] == [1]
    assert all(each == told[0] for each in told)
    assert again.accuracy is not None, "it outlives the process"
    step(again)
    assert {each.step for each in log.steps()} == {1, 2}
    assert len(log.steps()) == records + 1
    assert read_story(log, None, 10.0).steps.told()["count"] == 2


def test_a_record_is_small_and_has_no_infinity() -> None:
    told = step_record(
        123_456_789, 1_700_000_000.123456, "policy-1234-1c9ab2d4", 12_345_678,
        kl_nats=-12.3456789, kl_budget_nats=float("inf"), reward=float("nan"), accuracy=0.123456789,
        entropy_nats=1.23456789e-7, response_tokens=1234.56789, cut_off=1 / 3,
    )  # fmt: skip
    assert (told.kl_budget_nats, told.reward, told.kl_nats) == (None, None, -12.346)
    assert parse(entry(told).value) == told
    assert len(entry(told.model_copy(update={"kl_budget_nats": -12.345, "reward": -12.345})).value) < 500
    assert parse(b"{}") is None
    assert usage.parse(entry(told).value) is None, "who reads what updates used passes it over"
