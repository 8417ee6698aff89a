"""What is old is deleted from the embedded log, but for releases and for what a reader may read again."""

import math
import sqlite3
import threading
from pathlib import Path

import pytest

from feedback.core.events import COMPLETIONS, FEEDBACK, RELEASES
from feedback.core.log import Entry
from feedback.core.replay import replay
from feedback.sqlite.log import SqliteLog
from feedback.sqlite.retention import BATCH, prune

COUNT = 2 * BATCH + 50
DAY = 24 * 3600


@pytest.fixture
def log(tmp_path: Path) -> SqliteLog:
    """Records of each topic, the first 450 of them 40 days old as far as the file knows."""
    log = SqliteLog(tmp_path / "log.db")
    topics = (COMPLETIONS, FEEDBACK, RELEASES)
    log.append([Entry(topic, "k", b"%d" % i) for topic in topics for i in range(COUNT)]).result()
    with sqlite3.connect(tmp_path / "log.db") as db:
        db.execute("UPDATE records SET at = at - ?, crc = NULL WHERE offset < 420", (40 * DAY,))
    return log


def left(log: SqliteLog, topic: str) -> list[int]:
    return [record.offset for record in log.read([topic], {}, limit=5000)[0]]


def test_only_old_completions_and_votes_go(log: SqliteLog) -> None:
    assert prune(log, 50, threading.Event()) == 0
    assert prune(log, 30, threading.Event()) == 2 * 420
    assert left(log, COMPLETIONS) == left(log, FEEDBACK) == list(range(420, COUNT))
    assert left(log, RELEASES) == list(range(COUNT))
    log.append([Entry(FEEDBACK, "k", b"new")]).result()
    assert left(log, FEEDBACK)[-1] == COUNT
    log.close()


def test_what_a_reader_holds_stays_until_it_lets_go(log: SqliteLog) -> None:
    log.hold("learner", {f"{FEEDBACK}/0": 300, f"{COMPLETIONS}/0": 10**6}).result()
    log.hold("controller", {f"{FEEDBACK}/0": 100}).result()
    prune(log, 30, threading.Event())
    assert left(log, FEEDBACK)[0] == 100
    assert left(log, COMPLETIONS)[0] == 420
    log.release_hold("controller").result()
    prune(log, 30, threading.Event())
    assert left(log, FEEDBACK)[0] == 300
    log.close()


def test_a_reader_comes_to_the_end_of_a_topic_of_which_all_was_deleted(log: SqliteLog) -> None:
    log.prune(COMPLETIONS, math.inf, COUNT)
    read = [record for records, _ in replay(log, [COMPLETIONS, FEEDBACK], {}, 1.0) for record in records]
    assert [record.topic for record in read] == [FEEDBACK] * COUNT
    _, cursor = log.read([COMPLETIONS], {})
    assert cursor == {f"{COMPLETIONS}/0": COUNT}
    log.append([Entry(COMPLETIONS, "k", b"new")]).result()
    assert [record.value for record in log.read([COMPLETIONS], cursor)[0]] == [b"new"]
    log.close()


def test_a_log_whose_beginning_was_deleted_is_whole_when_it_is_opened(log: SqliteLog, tmp_path: Path) -> None:
    prune(log, 30, threading.Event())
    log.close()
    reopened = SqliteLog(tmp_path / "log.db")
    assert left(reopened, FEEDBACK)[0] == 420
    reopened.close()
    assert not list(tmp_path.glob("*damaged*"))
