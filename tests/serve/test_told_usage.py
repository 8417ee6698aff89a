"""What is told of the votes that updates used, folded: once, however often a crash makes it be said."""

from pathlib import Path

from feedback.core.events import UPDATES
from feedback.core.log import Entry, EventLog
from feedback.sqlite.log import SqliteLog
from feedback.updates.usage import Usage, entry, parse, usage_events
from serve.receipts.store import TOPICS, ReceiptStore


def told(log: EventLog) -> list[Usage]:
    found = [parse(record.value) for record in log.read([UPDATES], {})[0]]
    return [event for event in found if event is not None]


def test_what_is_told_twice_is_told_once(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    first = usage_events(1, 1.0, {"feedback/0": 2}, [("fb-1", 5, "training"), ("fb-2", 6, "judging")])
    second = usage_events(2, 2.0, {"feedback/0": 3}, [("fb-1", 5, "evicted")])
    for event in [*first, *first, *second, *first, *second]:  # crashes before the next checkpoint
        log.append([entry(event)]).result()
    assert {event.event_id for event in told(log)} == {"update-1-0", "update-2-0"}
    store = ReceiptStore(tmp_path / "receipts.db")
    records, after = log.read(TOPICS, {}, 100)
    assert store.fold(records, {}, after)
    rows = [(row["since"], row["until"], row["state"]) for row in store.uses("fb-1")]
    assert rows == [(1, 2, "training"), (2, None, "evicted")]
    assert [(row["since"], row["until"]) for row in store.uses("fb-2")] == [(1, None)]
    store.close()
    log.close()


def test_a_record_that_is_no_update_is_skipped(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    log.append([Entry(topic, "k", value) for topic in TOPICS for value in (b"{", b"{}", b"[]")]).result()
    store = ReceiptStore(tmp_path / "receipts.db")
    records, after = log.read(TOPICS, {}, 100)
    assert store.fold(records, {}, after)
    assert store.cursor() == dict(after)
    store.close()
    log.close()
