"""What the loop does when, without an engine: reading, updating, saving."""

import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from deploy.engines.client import EngineClient
from deploy.registry.registry import Registry
from feedback.core.events import COMPLETIONS, FEEDBACK, RELEASES
from feedback.core.log import Cursor, Entry, LogUnavailable, Place, Record
from feedback.joining.join import Joiner
from feedback.opening import open_sealer
from feedback.sqlite.log import SqliteLog
from learner.loop import scoring
from learner.loop.improving import UNDO_STEPS
from learner.loop.learner import Learner
from learner.loop.metrics import LearnerMetrics
from learner.loop.reading import READ_LIMIT
from learner.loop.scoring import READ_AHEAD
from learner.model.shared import POLICY, SharedModel
from learner.settings import LearnerSettings, PPOSettings
from learner.state import checkpoint
from learner.state.stages import LearnerState
from learner.votes.labels import LabelStore
from tests.feedback.examples import completion, record, thumb
from tests.learner.conftest import make_random_model
from tests.learner.test_ppo import likes, sample

VOTES = 3000


class Slow(SqliteLog):
    """A log that gives little at a time, as a broker may while there is much."""

    def read(
        self, topics: Sequence[str], cursor: Cursor, limit: int = 1000, wait_seconds: float = 0.0
    ) -> tuple[list[Record], dict[str, int]]:
        return super().read(topics, cursor, min(limit, 300), wait_seconds)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Slow]:
    log = Slow(tmp_path / "log.db")
    for i in range(VOTES):
        made = [record(completion(f"c{i}")), record(thumb(f"c{i}", float(i % 2), 1, rater=f"u_{i % 50}"))]
        written = log.append([Entry(each.topic, each.key, each.value) for each in made])
    written.result()
    yield log
    log.close()


def learner(log: SqliteLog, data: Path, model: str, **settings_: object) -> Learner:
    asked = {"min_labels": 10**9, **settings_}
    settings = LearnerSettings(data=data, model=model, engine="http://127.0.0.1:9", **asked)  # type: ignore[arg-type]
    return Learner(
        settings,
        log,
        EngineClient(settings.engine),
        Registry(data / "adapters"),
        SharedModel(model, rank=8),
        LearnerMetrics(),
    )


def test_a_learner_that_is_far_behind_reads_before_it_fits_anything(log: Slow, tmp_path: Path) -> None:
    make_random_model(tmp_path / "model", tokens=1024)
    model = str(tmp_path / "model")
    behind = learner(log, tmp_path, model)
    for _ in range(100):
        if behind.state.updates:
            break
        behind.turn(0.0)
        assert (tmp_path / "learner" / "checkpoint").exists()  # what was read is never far from saved
    assert behind.state.updates == 1
    assert behind.labels.used >= VOTES - READ_LIMIT
    again = learner(log, tmp_path, model)
    assert again.resume()
    assert again.place.cursor == behind.place.cursor
    assert again.labels.training == behind.labels.training

    file = tmp_path / "learner" / "checkpoint" / "tensors.pt"
    tensors = torch.load(file)
    assert tensors["reward"]["serving"] == "words"
    tensors["reward"] = tensors["reward"]["rungs"]["words"]  # as it was before there were several kinds
    torch.save(tensors, file)
    older = learner(log, tmp_path, model)
    assert older.resume()
    votes = older.labels.judging[:20]
    assert older.reward.predictions(votes) == pytest.approx(again.reward.predictions(votes), abs=1e-3)


def test_a_learner_that_waits_reads_the_voted_answers_for_its_next_update(tmp_path: Path) -> None:
    make_random_model(tmp_path / "model", tokens=1024)
    log = SqliteLog(tmp_path / "log.db")
    for i in range(2 * READ_AHEAD + 3):
        made = [record(completion(f"c{i}")), record(thumb(f"c{i}", 1.0, 1, rater=f"u_{i}"))]
        log.append([Entry(each.topic, each.key, each.value) for each in made]).result()
    known = []
    waiting = learner(log, tmp_path, str(tmp_path / "model"), labels_per_update=10**9)
    for turn in range(5):
        waiting.turn(0.0)
        if turn == 0:
            waiting.save()
            waiting = learner(log, tmp_path, str(tmp_path / "model"), labels_per_update=10**9)
            assert waiting.resume()
        answers = [next(waiting.labels.answers_of(vote)) for vote in waiting.labels.votes]
        known.append(sum(map(waiting.features.knows, answers)))
    log.close()
    assert known == [READ_AHEAD, *[2 * READ_AHEAD] * 4]
    assert not waiting.state.updates


def test_what_the_learner_does_next_waits_for_no_more_than_some_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_random_model(tmp_path / "model", tokens=1024)
    log = SqliteLog(tmp_path / "log.db")
    for i in range(4 * READ_AHEAD):
        made = [record(completion(f"c{i}")), record(thumb(f"c{i}", 1.0, 1, rater=f"u_{i}"))]
        log.append([Entry(each.topic, each.key, each.value) for each in made]).result()
    hurried = learner(log, tmp_path, str(tmp_path / "model"), labels_per_update=10**9)
    hurried.turn(0.0)  # it reads as many as it does in any turn in which it waits
    hurried.state = dataclasses.replace(hurried.state, updates=1)
    monkeypatch.setattr(scoring, "LISTEN_SECONDS", 0.0)
    hurried.scoring.listen()
    assert len(hurried.unread) == 3 * READ_AHEAD
    monkeypatch.undo()
    hurried.scoring.listen()
    assert len(hurried.unread) < READ_AHEAD
    log.close()


def test_a_learner_that_dies_at_every_turn_comes_to_the_same(log: Slow, tmp_path: Path) -> None:
    make_random_model(tmp_path / "model", tokens=1024)
    model = str(tmp_path / "model")
    whole = learner(log, tmp_path / "whole", model)
    while not whole.state.updates:
        whole.turn(0.0)
    deaths, dying = 0, learner(log, tmp_path / "dying", model)
    while not dying.state.updates:
        dying.turn(0.0)
        dying.save()
        if not dying.state.updates:
            assert dying.reading._read_some(0.0)  # what is not in a checkpoint is to leave no trace
            dying.memory.close()  # the kernel does that for a process that dies
            deaths, dying = deaths + 1, learner(log, tmp_path / "dying", model)
            assert dying.resume()
    assert deaths > 5
    assert dying.place.cursor == whole.place.cursor
    assert dying.labels.state() == whole.labels.state()
    assert dying.agreement.state() == whole.agreement.state()
    assert dying.joiner.completions == whole.joiner.completions
    votes = whole.labels.judging[:50]
    assert dying.reward.predictions(votes) == whole.reward.predictions(votes)


def test_steps_of_before_a_restart_can_be_undone(tmp_path: Path) -> None:
    make_random_model(tmp_path / "model")
    log, model = SqliteLog(tmp_path / "log.db"), str(tmp_path / "model")
    ppo = PPOSettings(critic_warmup_steps=0, learning_rate=1e-2)
    stepping = learner(log, tmp_path, model, ppo=ppo)
    stepping.state = LearnerState(stage="improving", updates=1)
    passed = []  # the policy before each step that can be undone
    for step in range(1 + UNDO_STEPS):
        if step:  # the first one leaves live, to which nobody goes back step by step
            passed.append(stepping.model.flat[POLICY].weights.detach().clone())
            stepping.earlier.append(stepping.optimiser.snapshot())
        rollouts = sample(stepping.model, 8, seed=step)
        stepping.optimiser.step(stepping.optimiser.measure(rollouts), likes(rollouts))
    assert not torch.equal(passed[0], passed[1])
    stepping.save()
    stepping.memory.close()

    again = learner(log, tmp_path, model, ppo=ppo)
    assert again.resume()
    measured = again.optimiser.measure(sample(again.model, 8, seed=9))
    for before in reversed(passed):
        again.improving.undo(measured)
        assert torch.equal(again.model.flat[POLICY].weights, before)
    again.memory.close()
    log.close()


def test_a_checkpoint_of_before_there_was_a_memory_is_gone_on_from(log: Slow, tmp_path: Path) -> None:
    make_random_model(tmp_path / "model", tokens=1024)
    model = str(tmp_path / "model")
    known = learner(log, tmp_path, model)
    while not known.state.updates:
        known.turn(0.0)
    found = checkpoint.load(known.folder)
    assert found is not None
    tensors, state = found
    joiner, at = Joiner(), dict[str, int]()
    while at != known.place.cursor:
        records, at = log.read((COMPLETIONS, FEEDBACK, RELEASES), at, 1000)
        joiner.feed(records)
    sums = {rater: list(pair) for rater, pair in known.memory.raters.items()}
    state |= {"joiner": joiner.state(), "labels": known.labels.state()}
    state["agreement"] = {"seen": state["agreement"]["seen"], "sums": sums}
    tensors["features"] = known.features.state()
    del tensors["scores"]
    older = tmp_path / "older"
    checkpoint.save(older / "learner", known.place.turn, tensors, state, {})
    for _ in range(2):  # and from the checkpoint that it makes then
        again = learner(log, older, model)
        assert again.resume()
        assert again.joiner.completions == joiner.completions
        assert again.labels.state() == known.labels.state()
        assert dict(again.memory.raters) == dict(known.memory.raters)
        assert again.agreement.mean == pytest.approx(known.agreement.mean)
        votes = known.labels.judging[:20]
        assert again.reward.predictions(votes) == known.reward.predictions(votes)
        again.save()
        again.memory.close()
    (older / "learner" / "memory.db").unlink()
    with pytest.raises(checkpoint.CheckpointLost, match="Move the folder"):
        learner(log, older, model).resume()


def test_a_vote_on_what_the_log_lost_is_counted_and_told(tmp_path: Path) -> None:
    make_random_model(tmp_path / "model", tokens=1024)
    log = SqliteLog(tmp_path / "log.db")
    made = record(completion("c0"))
    log.append([Entry(made.topic, made.key, made.value)]).result()
    waits = learner(log, tmp_path, str(tmp_path / "model"))
    waits.turn(0.0)
    waits.save()
    waits.memory.close()
    assert log.prune(COMPLETIONS, 1e12, 10) == 1
    waits = learner(log, tmp_path, str(tmp_path / "model"))
    assert waits.resume()
    vote = record(thumb("c0", 1.0, 1))
    log.append([Entry(vote.topic, vote.key, vote.value)]).result()
    waits.turn(0.0)
    log.close()
    assert waits.metrics.registry.get_sample_value("hearken_learner_votes_lost_total") == 1
    [(_, revision, state)] = waits.labels.take_news()
    assert (revision, state) == (1, "discarded")


class Away(SqliteLog):
    """A log of which single records cannot be had for a while, as from a broker that is away."""

    is_away = False

    def fetch(self, places: Sequence[Place], wait_seconds: float = 0.0) -> list[Record | None]:
        if self.is_away:
            raise LogUnavailable("away")
        return super().fetch(places, wait_seconds)


def test_a_vote_is_not_lost_while_its_answer_cannot_be_read(tmp_path: Path) -> None:
    make_random_model(tmp_path / "model", tokens=1024)
    log = Away(tmp_path / "log.db")
    made = record(completion("c0"))
    log.append([Entry(made.topic, made.key, made.value)]).result()
    known = learner(log, tmp_path, str(tmp_path / "model"))
    known.turn(0.0)
    known.save()
    known.memory.close()
    known = learner(log, tmp_path, str(tmp_path / "model"))
    assert known.resume()
    more = [record(completion("c1")), record(thumb("c0", 1.0, 1)), record(thumb("c1", 1.0, 1))]
    log.append([Entry(each.topic, each.key, each.value) for each in more]).result()
    log.is_away = True
    before = known.place.cursor
    known.turn(0.0)
    assert (known.place.cursor, known.labels.used) == (before, 0)
    log.is_away = False
    known.turn(0.0)
    assert known.labels.used == 2
    assert [answers[0].completion_id for answers in known.joiner.completions.values()] == ["c0", "c1"]
    log.close()


def test_answers_of_labels_that_stay_are_opened_once_a_learner_has_caught_up(
    tmp_path: Path, log: Slow
) -> None:
    make_random_model(tmp_path / "model", tokens=1024)
    sealer = open_sealer(tmp_path)
    for name, user in (("s0", "u_ada"), ("s1", "u_bob")):
        asked = completion(name).model_copy(update={"user": user})
        events = [sealer.seal(asked), thumb(name, 1.0, 1, rater=user)]
        log.append([Entry(r.topic, r.key, r.value) for r in map(record, events)]).result()
    ends = []
    for limit in (10**9, 1000):  # none is far behind, and nearly all
        found = learner(log, tmp_path, str(tmp_path / "model"), labels_per_update=10**9)
        found.labels = LabelStore(found.settings.judge_share, capacity=500)
        found.reading.far_behind = limit
        while found.place.cursor.get("completions/0", 0) < VOTES + 2:
            found.saving.next_save = 0.0
            found.turn(0.0)
        assert 450 <= len(found.labels.votes) <= 500
        ends.append((found.labels.state(), found.labels.training, found.labels.ledger()))
        found.memory.clear()
        found.memory.commit(0)
        found.memory.close()
        shutil.rmtree(tmp_path / "learner")
    assert ends[0][0]["labels"] == ends[1][0]["labels"]
    assert ends[0][1:] == ends[1][1:]
