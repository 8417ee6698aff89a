"""What every `EventLog` promises, checked on the embedded log and on Kafka with a real broker."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from feedback.core.log import Entry, EventLog, LogError, LogUnavailable, Record
from feedback.core.log import Place as Spot
from feedback.core.replay import replay
from feedback.kafka.log import KafkaLog
from feedback.kafka.settings import KafkaSettings
from feedback.sqlite.log import SqliteLog

# Opens a log, appends one numbered entry after the other, and prints each number once it is acknowledged.
_WRITER = """
import sys
from tests.feedback.test_log_contract import Entry, open_kind
log = open_kind(*sys.argv[1:5])
for number in range(1_000_000):
    log.append([Entry(sys.argv[5], "k", str(number).encode())]).result()
    print(number, flush=True)
"""


def open_kind(kind: str, path: str, bootstrap: str, topics: str) -> EventLog:
    """A log of a kind. `topics`: "name:partitions,name:partitions"."""
    if kind == "sqlite":
        return SqliteLog(Path(path))
    partitions = {name: int(count) for name, count in (t.split(":") for t in topics.split(","))}
    # Every partition answers in the end, and only with all of them is an order promised.
    return KafkaLog(SqliteLog(Path(path)), KafkaSettings(bootstrap), partitions, patience_seconds=60.0)


@dataclass
class Place:
    """Where the logs of one test live: logs opened at one place see each other's events."""

    kind: str
    folder: Path
    bootstrap: str
    a: str = field(default_factory=lambda: f"a-{uuid.uuid4().hex[:8]}")
    b: str = field(default_factory=lambda: f"b-{uuid.uuid4().hex[:8]}")
    opened: list[EventLog] = field(default_factory=list)

    def arguments(self, writer: str = "one") -> tuple[str, str, str, str]:
        name = "log.db" if self.kind == "sqlite" else f"outbox-{writer}.db"
        return (self.kind, str(self.folder / name), self.bootstrap, f"{self.a}:4,{self.b}:4")

    def open(self, writer: str = "one") -> EventLog:
        log = open_kind(*self.arguments(writer))
        self.opened.append(log)
        return log


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    bootstrap = request.getfixturevalue("kafka_bootstrap") if request.param == "kafka" else ""
    place = Place(request.param, tmp_path, bootstrap)
    yield place
    for log in place.opened:
        log.close()


@pytest.fixture
def log(place: Place) -> EventLog:
    return place.open()


def read_until(
    log: EventLog, topics: list[str], enough: Callable[[list[Record]], bool], limit: int = 1000
) -> tuple[list[Record], dict[str, int]]:
    """Read from the beginning until there is enough; give up after 30 seconds without anything new."""
    records: list[Record] = []
    cursor: dict[str, int] = {}
    while not enough(records):
        more, cursor = log.read(topics, cursor, limit, wait_seconds=30.0)
        assert more, f"nothing more came after {len(records)} records"
        assert len(more) <= limit
        records += more
    return records, cursor


def values(records: list[Record]) -> list[bytes]:
    return [record.value for record in records]


def entries(topic: str, count: int, key: str = "k") -> list[Entry]:
    return [Entry(topic, key, f"{key}-{i}".encode()) for i in range(count)]


def test_what_was_appended_is_read_back_with_topic_key_and_bytes(place: Place, log: EventLog) -> None:
    value = bytes(range(256))
    log.append([Entry(place.a, "schlüssel", value)]).result()
    [record], cursor = read_until(log, [place.a], bool)
    assert (record.topic, record.key, record.value) == (place.a, "schlüssel", value)
    assert cursor[f"{place.a}/{record.partition}"] == record.offset + 1


def test_an_empty_log_answers_nothing_and_keeps_the_cursor(place: Place, log: EventLog) -> None:
    records, cursor = log.read([place.a, place.b], {"elsewhere/7": 3})
    assert records == []
    at = {where: offset for where, offset in cursor.items() if "/" in where}  # others tell topics apart
    assert at.pop("elsewhere/7") == 3
    assert set(at.values()) <= {0}  # nothing lies before
    assert log.read([place.a, place.b], cursor) == ([], cursor)


def test_an_empty_append_is_acknowledged(log: EventLog) -> None:
    assert log.append([]).result(timeout=10) is None


def test_records_are_fetched_from_where_they_lie(place: Place, log: EventLog) -> None:
    for name, count in ((place.a, 700), (place.b, 3)):
        log.append([entry for key in "kxyz" for entry in entries(name, count, key)]).result()
    records, _ = read_until(log, [place.a, place.b], lambda r: len(r) >= 4 * 703)
    wanted = [records[i] for i in (2100, 3, 2700, 4, 999, 3)]
    beyond = Spot(place.a, 0, 10_000)
    spots = [*(Spot(*record[:3]) for record in wanted), beyond, Spot(place.b, 0, 10_000)]
    assert log.fetch(spots, wait_seconds=30.0) == [*wanted, None, None]
    assert log.fetch([]) == []


def test_entries_of_one_key_keep_their_order(place: Place, log: EventLog) -> None:
    for i in range(300):
        log.append([Entry(place.a, f"key-{i % 7}", str(i).encode())])
    records, _ = read_until(log, [place.a], lambda r: len(r) >= 300)
    for key in {record.key for record in records}:
        numbers = [int(record.value) for record in records if record.key == key]
        assert numbers == sorted(numbers)
        assert len({record.partition for record in records if record.key == key}) == 1


def test_threads_append_at_once_and_nothing_is_lost(place: Place, log: EventLog) -> None:
    def write(name: int) -> None:
        for entry in entries(place.a, 50, key=f"writer-{name}"):
            log.append([entry]).result()

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records, _ = read_until(log, [place.a], lambda r: len(r) >= 400)
    assert sorted(values(records)) == sorted(
        e.value for n in range(8) for e in entries(place.a, 50, f"writer-{n}")
    )
    for n in range(8):
        assert [r.value for r in records if r.key == f"writer-{n}"] == [
            e.value for e in entries(place.a, 50, f"writer-{n}")
        ]


def test_two_processes_worth_of_writers_share_a_log(place: Place) -> None:
    one, two = place.open("one"), place.open("two")
    one.append(entries(place.a, 100, "one"))
    two.append(entries(place.a, 100, "two"))
    for reader in (one, two):
        records, _ = read_until(reader, [place.a], lambda r: len(r) >= 200)
        for key in ("one", "two"):
            mine = [r.value for r in records if r.key == key]
            assert mine == [e.value for e in entries(place.a, 100, key)]


def test_offsets_of_a_partition_have_no_gaps(place: Place, log: EventLog) -> None:
    for i in range(100):
        log.append([Entry(place.a, str(i), b"x"), Entry(place.b, str(i), b"y")])
    records, _ = read_until(log, [place.a, place.b], lambda r: len(r) >= 200)
    for where in {(r.topic, r.partition) for r in records}:
        offsets = [r.offset for r in records if (r.topic, r.partition) == where]
        assert offsets == list(range(len(offsets)))


def test_reading_in_small_pieces_equals_reading_at_once(place: Place, log: EventLog) -> None:
    for i in range(120):
        log.append([Entry((place.a, place.b)[i % 2], f"key-{i % 5}", str(i).encode())])
    whole, end = read_until(log, [place.a, place.b], lambda r: len(r) >= 120)
    pieces, same_end = read_until(log, [place.a, place.b], lambda r: len(r) >= 120, limit=7)
    assert sorted(pieces) == sorted(whole)
    assert same_end == end


def test_any_cursor_is_a_place_to_resume_from(place: Place, log: EventLog) -> None:
    log.append([Entry(place.a, f"key-{i % 5}", str(i).encode()) for i in range(60)])
    records: list[Record] = []
    cursors: list[dict[str, int]] = [{}]
    while len(records) < 60:
        more, cursor = log.read([place.a], cursors[-1], limit=20, wait_seconds=30.0)
        assert more
        records += more
        cursors.append(cursor)
    other = place.open("reader")
    for start in cursors:
        rest = [r for r in records if r.offset >= start.get(f"{place.a}/{r.partition}", 0)]
        found: list[Record] = []
        cursor = start
        while len(found) < len(rest):
            more, cursor = other.read([place.a], cursor, wait_seconds=30.0)
            assert more
            found += more
        assert sorted(found) == sorted(rest)


def test_a_topic_is_read_alone_and_its_cursor_leaves_others_alone(place: Place, log: EventLog) -> None:
    log.append([Entry(place.a, "k", b"in a"), Entry(place.b, "k", b"in b")]).result()
    records, cursor = read_until(log, [place.b], bool)
    assert values(records) == [b"in b"]
    assert not any(name.startswith(place.a) for name in cursor)
    records, cursor = log.read([place.a], cursor, wait_seconds=30.0)
    assert values(records) == [b"in a"]


def test_topics_come_interleaved_as_they_were_written(place: Place, log: EventLog) -> None:
    # A reader that starts far behind must not get all of one topic before the first of another.
    for i in range(40):
        log.append([Entry(place.a, "k", b"a%d" % i)]).result()
        log.append([Entry(place.b, "k", b"b%d" % i)]).result()
        time.sleep(0.002)  # Kafka's clock has milliseconds: give each pair one of its own
    log.end([place.a, place.b], wait_seconds=30.0)  # all of it is there before the reading begins
    records, _ = read_until(place.open("reader"), [place.a, place.b], lambda r: len(r) >= 80)
    numbers = [int(r.value[1:]) for r in records]
    assert max(abs(n - i // 2) for i, n in enumerate(numbers)) <= 1


@pytest.mark.parametrize("count", [2300, 3100, 6000])
def test_a_long_backlog_is_read_to_its_end_once(place: Place, log: EventLog, count: int) -> None:
    # Two keys, one much busier than the other, and a second topic with few but large entries.
    busy = [Entry(place.a, "busy" if i % 5 < 3 else "calm", b"a%d" % i) for i in range(count)]
    log.append(busy).result()
    log.append([Entry(place.b, f"key-{i % 3}", b"b%d" % i + bytes(20_000)) for i in range(60)]).result()
    log.end([place.a, place.b], wait_seconds=30.0)  # all of it is there before the reading begins
    found, _ = read_until(place.open("reader"), [place.a, place.b], lambda r: len(r) >= count + 60)
    expected = [entry.value for entry in busy] + [b"b%d" % i for i in range(60)]
    assert sorted(value.rstrip(b"\0") for value in values(found)) == sorted(expected)


def test_a_reader_that_waits_wakes_when_something_arrives(place: Place, log: EventLog) -> None:
    _, cursor = log.read([place.a], {})
    timer = threading.Timer(0.3, lambda: log.append([Entry(place.a, "k", b"late")]))
    timer.start()
    started = time.monotonic()
    records, _ = log.read([place.a], cursor, wait_seconds=60.0)
    assert values(records) == [b"late"]
    assert time.monotonic() - started < 30.0  # woken, not timed out
    timer.join()


def test_a_reader_that_waits_in_vain_comes_back_empty(place: Place, log: EventLog) -> None:
    started = time.monotonic()
    records, _ = log.read([place.a], {}, wait_seconds=0.5)
    assert records == []
    assert time.monotonic() - started >= 0.5


def test_concurrent_readers_each_see_everything(place: Place, log: EventLog) -> None:
    log.append(entries(place.a, 200)).result()
    seen: list[int] = []

    def follow() -> None:
        records, _ = read_until(log, [place.a], lambda r: len(r) >= 200, limit=33)
        seen.append(len(records))

    threads = [threading.Thread(target=follow) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [200, 200, 200]


def test_an_append_can_be_awaited(place: Place, log: EventLog) -> None:
    async def append() -> None:
        await asyncio.wrap_future(log.append([Entry(place.a, "k", b"from asyncio")]))

    asyncio.run(append())
    assert values(read_until(log, [place.a], bool)[0]) == [b"from asyncio"]


def test_giving_up_the_wait_does_not_take_the_append_back(place: Place, log: EventLog) -> None:
    assert not log.append([Entry(place.a, "k", b"still there")]).cancel()
    assert values(read_until(log, [place.a], bool)[0]) == [b"still there"]


def test_an_entry_that_cannot_be_stored_is_refused_alone(place: Place, log: EventLog) -> None:
    good = log.append([Entry(place.a, "k", b"good")])
    with pytest.raises(ValueError, match="at most"):
        log.append([Entry(place.a, "k", b"x" * (9 * 1024 * 1024))])
    with pytest.raises(ValueError):
        log.append([Entry(place.a, "\ud800", b"a lone surrogate")])
    with pytest.raises(ValueError):
        log.append([Entry("", "k", b"no topic")])
    good.result()


def test_closing_finishes_what_was_handed_over(place: Place) -> None:
    first = place.open()
    futures = [first.append([entry]) for entry in entries(place.a, 500)]
    first.close()
    assert all(future.result(timeout=0) is None for future in futures)
    with pytest.raises(LogUnavailable):
        first.append([Entry(place.a, "k", b"too late")]).result()
    with pytest.raises(LogError):
        first.end([place.a])
    records, _ = read_until(place.open(), [place.a], lambda r: len(r) >= 500)
    assert values(records) == [e.value for e in entries(place.a, 500)]


def test_replay_ends_where_the_log_ends_and_sees_ones_own_appends(place: Place, log: EventLog) -> None:
    assert [batch for batch, _ in replay(log, [place.a], {})] == [[]]
    log.append([Entry(place.a, f"key-{i}", str(i).encode()) for i in range(50)]).result()
    batches = list(replay(log, [place.a, place.b], {}))
    assert sorted(int(r.value) for batch, _ in batches for r in batch) == list(range(50))
    assert [batch for batch, _ in replay(log, [place.a, place.b], batches[-1][1])] == [[]]


def test_every_acknowledged_append_survives_the_death_of_its_writer(place: Place) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _WRITER, *place.arguments(), place.a]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(150)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in writer.stdout.read().split(b"\n")[:-1]]
    records, _ = read_until(
        place.open(), [place.a], lambda r: {int(v) for v in values(r)} >= set(acknowledged)
    )
    # At least once: with Kafka what was in flight may come twice, but never out of order.
    first_seen = list(dict.fromkeys(int(v) for v in values(records)))
    assert first_seen == list(range(len(first_seen)))
