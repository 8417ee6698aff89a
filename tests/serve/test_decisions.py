"""What operators read of the history: the same as the topic has, and read once."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from deploy.history.releases import Decision, decision_of, entry, make_command, read_history
from deploy.history.states import ReleaseState, step
from deploy.reports.status import summary
from feedback.core.log import Cursor, Record
from feedback.sqlite.log import SqliteLog
from serve.releases.decisions import KEPT, Decisions


class CountingLog(SqliteLog):
    """A log that knows how many records were read from it."""

    records_read = 0

    def read(
        self, topics: Sequence[str], cursor: Cursor, limit: int = 1000, wait_seconds: float = 0.0
    ) -> tuple[list[Record], dict[str, int]]:
        records, after = super().read(topics, cursor, limit, wait_seconds)
        self.records_read += len(records)
        return records, after


@pytest.fixture
def log(tmp_path: Path) -> Iterator[CountingLog]:
    events = CountingLog(tmp_path / "log.db")
    yield events
    events.close()


def decide(log: CountingLog, first: int, count: int) -> None:
    """Log decisions of these numbers: a pause and a resumption in turn."""
    entries = []
    for number in range(first, first + count):
        before = ReleaseState(paused=number % 2 == 0)
        outcome = "resumed" if before.paused else "paused"
        taken = step(before, outcome, None, f"Decision {number}.", paused=not before.paused)
        entries.append(entry(decision_of(taken, before, number, float(number))))
    log.append(entries).result()


def look(decisions: Decisions, limit: int, before: int | None = None) -> list[Decision]:
    return asyncio.run(decisions.look(limit, before))[2]


@pytest.mark.parametrize("count", [0, 3, KEPT, 2 * KEPT + 7])
def test_every_page_is_what_the_topic_has(log: CountingLog, count: int) -> None:
    decide(log, 1, count)
    decisions = Decisions(log)
    for limit in (1, 21, KEPT - 1, KEPT, KEPT + 1, 1000):
        for before in (None, 1, 2, count // 2, count - 5, count, count + 1, 10_000):
            if before is None or before > 0:
                wanted = list(read_history(log, limit, 5.0, before).decisions)
                assert look(decisions, limit, before) == wanted, (limit, before)


def test_the_state_and_what_nobody_answered_are_the_newest(log: CountingLog) -> None:
    decide(log, 1, 4)
    decisions = Decisions(log)
    assert asyncio.run(decisions.look(1, None))[0] == read_history(log).state
    decide(log, 5, 1)
    log.append([entry(make_command("pause", reason="the fair"))]).result()
    state, told, page = asyncio.run(decisions.look(1, None))
    history = read_history(log)
    assert state == history.state
    assert told == summary(history, 0) | {"lineage": ["base"]}
    assert told["paused"]
    assert len(told["unanswered"]) == 1
    assert [each.number for each in page] == [5]


def test_what_was_read_once_is_not_read_again(log: CountingLog) -> None:
    decide(log, 1, 2 * KEPT)
    decisions = Decisions(log)
    look(decisions, 21)
    assert log.records_read == 2 * KEPT
    decide(log, 2 * KEPT + 1, 2)
    assert look(decisions, 21)[-1].number == 2 * KEPT + 2
    assert log.records_read == 2 * KEPT + 2
    look(decisions, 21, before=KEPT + 100)
    assert log.records_read == 2 * KEPT + 2


def test_looks_at_the_same_time_see_the_same(log: CountingLog) -> None:
    decide(log, 1, 50)
    decisions = Decisions(log)

    async def together() -> list[list[Decision]]:
        looks = await asyncio.gather(*(decisions.look(10, None) for _ in range(8)))
        return [page for _, _, page in looks]

    pages = asyncio.run(together())
    assert all([each.number for each in page] == list(range(41, 51)) for page in pages)
    assert log.records_read == 50
