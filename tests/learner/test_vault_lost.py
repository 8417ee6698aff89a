"""An empty vault is not a crowd that was erased: the learner stands still, says so, and goes on later."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from feedback.core.events import Completion, Feedback
from feedback.core.log import Entry
from feedback.opening import open_sealer
from feedback.sqlite.log import SqliteLog
from learner.loop.learner import Learner
from tests.feedback.examples import completion, record, thumb
from tests.learner.conftest import make_random_model
from tests.learner.test_loop import learner


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    opened = SqliteLog(tmp_path / "log.db")
    yield opened
    opened.close()


@pytest.fixture
def model(tmp_path: Path) -> str:
    make_random_model(tmp_path / "model", tokens=1024)
    return str(tmp_path / "model")


def write(log: SqliteLog, data: Path, *events: Completion | Feedback) -> None:
    sealer = open_sealer(data)
    made = [record(sealer.seal(event)) for event in events]
    sealer.close()
    log.append([Entry(each.topic, each.key, each.value) for each in made]).result()


def is_lost(reader: Learner) -> float | None:
    return reader.metrics.registry.get_sample_value("hearken_learner_vault_lost")


def test_the_cursor_stands_still_while_the_mount_is_empty(tmp_path: Path, log: SqliteLog, model: str) -> None:
    write(log, tmp_path, completion("c0"), thumb("c0", 1.0, 1))
    reader = learner(log, tmp_path, model)
    reader.turn(0.0)
    reader.save()
    assert (reader.labels.used, is_lost(reader)) == (1, 0.0)
    write(log, tmp_path, completion("c1"), thumb("c1", 1.0, 1))
    (tmp_path / "vault").rename(tmp_path / "elsewhere")
    (tmp_path / "vault").mkdir()
    before = dict(reader.place.cursor), reader.place.turn
    reader.turn(0.0)
    assert (dict(reader.place.cursor), reader.place.turn) == before
    assert (reader.labels.used, is_lost(reader)) == (1, 1.0)
    assert list((tmp_path / "vault").iterdir()) == []
    (tmp_path / "vault").rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / "vault")
    reader.turn(0.0)
    assert (reader.labels.used, is_lost(reader)) == (2, 0.0)
    texts = [answer.text for label in reader.labels.votes for answer in label.answers]
    assert texts == ["answer 0", "answer 0"]


@pytest.mark.parametrize("far_behind", [False, True])
def test_a_new_learner_beside_an_empty_vault_reads_nothing(
    tmp_path: Path, log: SqliteLog, model: str, far_behind: bool
) -> None:
    """It remembers no vault; the seals in the log name theirs, also where answers would not be opened."""
    service, data = tmp_path / "service", tmp_path / "learner"
    for folder in (service, data):
        folder.mkdir()
    write(log, service, completion("c0"), thumb("c0", 1.0, 1))
    shutil.copy(service / "secret", data / "secret")
    reader = learner(log, data, model)
    if far_behind:
        reader.reading.far_behind = 0
    reader.turn(0.0)
    assert (dict(reader.place.cursor), reader.labels.used, is_lost(reader)) == ({}, 0, 1.0)
    shutil.copytree(service / "vault", data / "vault")
    reader.turn(0.0)
    assert (reader.labels.used, is_lost(reader)) == (1, 0.0)
    assert reader.place.cursor != {}


def test_not_even_completions_without_votes_are_passed_over(
    tmp_path: Path, log: SqliteLog, model: str
) -> None:
    service, data = tmp_path / "service", tmp_path / "learner"
    for folder in (service, data):
        folder.mkdir()
    write(log, service, completion("c0"))
    shutil.copy(service / "secret", data / "secret")
    reader = learner(log, data, model)
    reader.turn(0.0)
    assert (dict(reader.place.cursor), is_lost(reader)) == ({}, 1.0)
