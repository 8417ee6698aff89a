"""A decision counts when it is back from the log, and until then nothing is decided on top of it."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest

from deploy.history.releases import Candidate, Decision, entry
from deploy.history.topic import Overtaken, Topic
from feedback.core.log import Entry, LogUnavailable
from feedback.sqlite.log import SqliteLog
from tests.deploy.test_releases import decision


class Outbox:
    """A log as Kafka's is: what is appended is durable, and arrives when the broker takes it."""

    def __init__(self, log: SqliteLog) -> None:
        self.read, self.end = log.read, log.end
        self._log = log
        self._waiting: list[Entry] = []

    def append(self, entries: Sequence[Entry]) -> "Future[None]":
        self._waiting += entries
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def relay(self) -> None:
        self._log.append(self._waiting).result()
        self._waiting = []


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db")
    yield log
    log.close()


def topic_on(log: object, made: list[Decision], confirm_seconds: float = 5.0) -> Topic:
    topic = Topic(log, made.append, confirm_seconds)  # type: ignore[arg-type]
    topic.follow()
    return topic


def test_an_appended_decision_is_in_the_history(log: SqliteLog) -> None:
    made: list[Decision] = []
    topic = topic_on(log, made)
    candidate = Candidate.announce("policy-1-aaaaaaaa", at=1.0)
    log.append([entry(candidate)]).result()
    topic.append(decision(1))
    assert made == [decision(1)]
    assert topic.history.decisions[-1] == decision(1)
    assert topic.history.candidates == [candidate], "what came before it was read on the way"


def test_a_decision_that_waits_for_the_broker_is_pending_until_it_is_there(log: SqliteLog) -> None:
    made: list[Decision] = []
    outbox = Outbox(log)
    topic = topic_on(outbox, made, confirm_seconds=0.05)
    with pytest.raises(LogUnavailable, match="decision 1 has not come back"):
        topic.append(decision(1))
    topic.follow()
    assert topic.pending == decision(1)
    assert topic.history.state is None
    outbox.relay()
    topic.follow()
    assert (topic.pending, made, topic.history.reached.number) == (None, [decision(1)], 1)


def test_another_controllers_decision_that_is_first_is_told_and_is_the_history(log: SqliteLog) -> None:
    made: list[Decision] = []
    outbox = Outbox(log)
    topic = topic_on(outbox, made, confirm_seconds=0.05)
    with pytest.raises(LogUnavailable):
        topic.append(decision(1, event_id="ours"))
    log.append([entry(decision(1, event_id="theirs"))]).result()
    outbox.relay()
    log.append([entry(decision(2))]).result()
    with pytest.raises(Overtaken):
        topic.follow()
    assert (topic.pending, made) == (None, [])
    assert [each.event_id for each in topic.history.decisions] == ["theirs", "d2"], "all of it was read"


def test_a_decision_under_an_older_lease_is_overtaken_too(log: SqliteLog) -> None:
    topic = topic_on(log, [])
    log.append([entry(decision(1, fence=8))]).result()
    with pytest.raises(Overtaken, match="decision 2 does not count"):
        topic.append(decision(2, fence=7))
    topic.append(decision(2, fence=8))
