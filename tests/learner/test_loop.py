"""What the loop does when, without an engine: reading, updating, saving."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from deploy.engine import EngineClient
from deploy.registry import Registry
from feedback.log import Cursor, Entry, Record
from feedback.sqlite_log import SqliteLog
from learner.loop import Learner
from learner.metrics import LearnerMetrics
from learner.model import SharedModel
from learner.reading import READ_LIMIT
from learner.scoring import READ_AHEAD
from learner.settings import LearnerSettings
from tests.feedback.examples import completion, record, thumb
from tests.learner.conftest import make_random_model

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


def learner(log: SqliteLog, data: Path, model: str, **settings_: int) -> Learner:
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
