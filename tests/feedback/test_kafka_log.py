"""What is particular to Kafka: brokers that are absent, die and come back, and records they refuse."""

import logging
import re
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from feedback.core import losses
from feedback.core.events import COMPLETIONS, FEEDBACK, RELEASES
from feedback.core.log import Entry, EventLog, LogUnavailable, Place, Record
from feedback.kafka.checks import KafkaRefused
from feedback.kafka.log import KafkaLog
from feedback.kafka.settings import KafkaSettings
from feedback.kafka.topics import KafkaTopics
from feedback.opening import open_log
from feedback.sqlite.log import SqliteLog
from tests.servers import KafkaServer, need

pytestmark = pytest.mark.kafka


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[KafkaServer]:
    """A broker of one's own, not started yet."""
    need("java", "mvn")
    server = KafkaServer(tmp_path / "kafka")
    yield server
    server.kill()


def read_all(log: EventLog, topic: str, wanted: set[bytes]) -> list[Record]:
    """Read until everything wanted was seen; give up after 60 seconds without anything new."""
    records: list[Record] = []
    cursor: dict[str, int] = {}
    while not {record.value for record in records} >= wanted:
        more, cursor = log.read([topic], cursor, wait_seconds=60.0)
        assert more, f"nothing more came after {len(records)} records"
        records += more
    return records


def assert_complete_and_in_order(records: list[Record], count: int) -> None:
    """Every number came; first sightings of each key are in order, whatever came twice."""
    first_seen = list(dict.fromkeys((record.key, int(record.value)) for record in records))
    assert {number for _, number in first_seen} == set(range(count))
    for key in {key for key, _ in first_seen}:
        numbers = [number for k, number in first_seen if k == key]
        assert numbers == sorted(numbers)


def numbered(count: int, start: int = 0) -> list[Entry]:
    return [Entry(FEEDBACK, f"key-{i % 5}", str(i).encode()) for i in range(start, start + count)]


def test_a_broker_that_is_absent_dies_and_comes_back(
    broker: KafkaServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="feedback")
    log = open_log(tmp_path, broker.bootstrap, "gateway")
    assert isinstance(log, KafkaLog)

    # Absent: appends are acknowledged, reads come back empty in time, and it is said once.
    for entry in numbered(300):
        log.append([entry]).result()
    for _ in range(3):
        assert log.read([FEEDBACK], {"feedback/0": 3}, wait_seconds=0.2) == ([], {"feedback/0": 3})
    assert log.lag()[0] == 300
    assert log.lag()[1] > 0
    with pytest.raises(LogUnavailable, match="300 events"):
        log.end([FEEDBACK], wait_seconds=0.1)
    threads = threading.active_count()
    log.read([FEEDBACK], {}, wait_seconds=1.5)
    assert threading.active_count() <= threads
    warnings = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert sum("nothing can be read" in w for w in warnings) == 1
    assert sum("wait in the outbox" in w for w in warnings) <= 1

    # Started: what waited is relayed, in order.
    broker.start()
    assert sum(log.end([FEEDBACK], wait_seconds=60.0).values()) == 300
    assert_complete_and_in_order(read_all(log, FEEDBACK, {b"%d" % i for i in range(300)}), 300)
    assert log.lag() == (0, 0.0)

    # Killed while a writer goes on: no append waits for the broker.
    half_way, killed = threading.Event(), threading.Event()

    def write() -> None:
        for entry in numbered(2000, start=300):
            log.append([entry]).result()
            if entry.value == b"1000":
                half_way.set()
                killed.wait(60)

    writer = threading.Thread(target=write)
    writer.start()
    assert half_way.wait(60)
    broker.kill()
    killed.set()
    writer.join(60)
    assert not writer.is_alive()
    assert log.lag()[0] >= 1000  # what no broker has acknowledged is still in the outbox, sent or not

    # A process that ends meanwhile does not hang, and its next start relays what it could not.
    other = open_log(tmp_path, broker.bootstrap, "controller")
    other.append([Entry(RELEASES, "r", b"%d" % i) for i in range(50)]).result()
    started = time.monotonic()
    other.close()
    assert time.monotonic() - started < 30

    # Started again: everything arrives, from both.
    broker.start()
    assert_complete_and_in_order(read_all(log, FEEDBACK, {b"%d" % i for i in range(2300)}), 2300)
    other = open_log(tmp_path, broker.bootstrap, "controller")
    assert_complete_and_in_order(read_all(other, RELEASES, {b"%d" % i for i in range(50)}), 50)
    other.close()
    log.close()


def test_topics_are_made_once_and_an_operators_stay(kafka_bootstrap: str, tmp_path: Path) -> None:
    mine, theirs = f"mine-{uuid.uuid4().hex[:8]}", f"theirs-{uuid.uuid4().hex[:8]}"
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    admin.create_topics({theirs: {"num_partitions": 3, "replication_factor": 1}})
    logs = [
        KafkaLog(SqliteLog(tmp_path / f"{n}.db"), KafkaSettings(kafka_bootstrap), {mine: 2, theirs: 5})
        for n in range(3)
    ]
    for log in logs:
        assert log.end([mine, theirs], wait_seconds=30.0) == {}
    counts = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics([mine, theirs])}
    assert counts == {mine: 2, theirs: 3}
    for log in logs:
        log.close()
    admin.close()


def test_the_services_topics_keep_a_conversation_together(kafka_bootstrap: str, tmp_path: Path) -> None:
    log = open_log(tmp_path, kafka_bootstrap, "gateway")
    keys = [f"conversation-{i}" for i in range(40)]
    log.append([Entry(topic, key, b"{}") for key in keys for topic in (COMPLETIONS, FEEDBACK)])
    log.append([Entry(RELEASES, "r", b"{}")]).result()
    where: dict[str, dict[str, int]] = {COMPLETIONS: {}, FEEDBACK: {}, RELEASES: {}}
    cursor: dict[str, int] = {}
    while not (len(where[COMPLETIONS]) == len(where[FEEDBACK]) == 40 and where[RELEASES]):
        records, cursor = log.read(list(where), cursor, wait_seconds=30.0)
        assert records
        for record in records:
            where[record.topic][record.key] = record.partition
    assert {key: where[FEEDBACK][key] for key in keys} == {key: where[COMPLETIONS][key] for key in keys}
    assert set(where[COMPLETIONS].values()) == {0, 1, 2, 3}
    assert where[RELEASES] == {"r": 0}
    log.close()


def test_a_record_that_the_broker_refuses_is_set_aside_and_blocks_nobody(
    kafka_bootstrap: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    topic = f"small-{uuid.uuid4().hex[:8]}"
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    small = {"num_partitions": 1, "replication_factor": 1, "configs": {"max.message.bytes": "1000"}}
    admin.create_topics({topic: small})
    admin.close()
    log = KafkaLog(SqliteLog(tmp_path / "outbox.db"), KafkaSettings(kafka_bootstrap), {topic: 1})
    values = [b"first", b"x" * 5000, b"last"]
    log.append([Entry(topic, "k", value) for value in values]).result()
    records = read_all(log, topic, {b"first", b"last"})
    assert list(dict.fromkeys(record.value for record in records)) == [b"first", b"last"]
    log.close()
    with sqlite3.connect(tmp_path / "outbox.db") as db:
        assert [row[0] for row in db.execute("SELECT value FROM refused")] == [values[1]]
        assert db.execute("SELECT count(*) FROM records").fetchone() == (0,)
    assert any("set aside" in record.message for record in caplog.records)


def test_large_entries_go_through(kafka_bootstrap: str, tmp_path: Path) -> None:
    topic = f"large-{uuid.uuid4().hex[:8]}"
    log = KafkaLog(SqliteLog(tmp_path / "outbox.db"), KafkaSettings(kafka_bootstrap), {topic: 1})
    values = [bytes([i]) * (7 * 1024 * 1024) for i in range(3)]
    log.append([Entry(topic, "k", value) for value in values]).result()
    assert [record.value for record in read_all(log, topic, set(values))] == values
    log.close()


def accept_what_was_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As the operator does who reads the log."""
    (code,) = {match[1] for match in re.finditer(r"`hearken accept-loss (\w+) ", caplog.text)}
    assert losses.CODE.fullmatch(code)
    losses.accept(folder, code)
    caplog.clear()


def test_what_retention_deleted_before_it_was_read_stops_the_reader_until_it_is_accepted(
    kafka_bootstrap: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    topic = f"old-{uuid.uuid4().hex[:8]}"
    log = KafkaLog(SqliteLog(tmp_path / "outbox.db"), KafkaSettings(kafka_bootstrap), {topic: 1})
    log.append([Entry(topic, "k", b"%d" % i) for i in range(1000)]).result()
    log.end([topic], wait_seconds=60.0)
    records, at_100 = log.read([topic], {}, limit=100, wait_seconds=30.0)
    assert len(records) == 100
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    admin.delete_records({TopicPartition(topic, 0): 700})
    admin.close()
    other = KafkaLog(SqliteLog(tmp_path / "other.db"), KafkaSettings(kafka_bootstrap), {topic: 1})
    for wait in (0.0, 1.0):
        assert other.read([topic], at_100, wait_seconds=wait) == ([], at_100)
    assert other.losses.lost() == {topic: 600}
    assert other.losses.standing() == {(topic, "retention")}
    assert f"600 records of {topic} were deleted by the broker before they were read here" in caplog.text
    begins, _ = other.read([topic], {}, wait_seconds=30.0)
    assert begins[0].value == b"700"  # who begins begins with what is left
    accept_what_was_told(tmp_path, caplog)
    records, after = other.read([topic], at_100, wait_seconds=30.0)
    assert [record.value for record in records] == [b"%d" % i for i in range(700, 1000)]
    assert after[f"{topic}/0"] == 1000
    assert other.losses.standing() == set()
    log.close()
    other.close()


def test_a_topic_that_was_made_anew_stops_its_readers_until_that_is_accepted(
    kafka_bootstrap: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    topic = f"anew-{uuid.uuid4().hex[:8]}"
    log = KafkaLog(SqliteLog(tmp_path / "outbox.db"), KafkaSettings(kafka_bootstrap), {topic: 1})
    log.append([Entry(topic, "k", b"old %d" % i) for i in range(20)]).result()
    log.end([topic], wait_seconds=60.0)
    cursor: dict[str, int] = {}
    while cursor.get(f"{topic}/0") != 20:
        _, cursor = log.read([topic], cursor, wait_seconds=30.0)
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    admin.delete_topics([topic])
    admin.close()
    writer = KafkaLog(SqliteLog(tmp_path / "writer.db"), KafkaSettings(kafka_bootstrap), {topic: 1})
    # More than were read of the old one: by the offsets alone nobody would see it.
    writer.append([Entry(topic, "k", b"new %d" % i) for i in range(30)]).result()
    writer.end([topic], wait_seconds=60.0)
    writer.close()
    anew = KafkaLog(SqliteLog(tmp_path / "anew.db"), KafkaSettings(kafka_bootstrap), {topic: 1})
    assert anew.read([topic], cursor, wait_seconds=1.0) == ([], cursor)
    assert anew.losses.standing() == {(topic, "made anew")}
    assert anew.losses.lost()[topic] > 0
    assert f"{topic} was deleted and made anew" in caplog.text
    accept_what_was_told(tmp_path, caplog)
    records, _ = anew.read([topic], cursor, wait_seconds=30.0)
    assert [record.value for record in records] == [b"new %d" % i for i in range(30)]
    anew.close()
    log.close()


def test_two_services_share_a_cluster_by_their_prefixes(kafka_bootstrap: str, tmp_path: Path) -> None:
    name = uuid.uuid4().hex[:8]
    told = [KafkaSettings(kafka_bootstrap, prefix=f"{name}-{letter}.", partitions=3) for letter in "ab"]
    for each in told:
        log = KafkaLog(SqliteLog(tmp_path / f"{each.prefix}.db"), each)
        log.append([Entry(FEEDBACK, f"k{n}", each.prefix.encode()) for n in range(10)]).result()
        end = log.end([FEEDBACK], wait_seconds=60.0)
        assert sum(end.values()) == 10
        assert end.keys() <= {"feedback/0", "feedback/1", "feedback/2"}
        log.close()
    for each in told:
        log = KafkaLog(SqliteLog(tmp_path / f"{each.prefix}.db"), each)
        records, cursor = log.read([FEEDBACK], {}, wait_seconds=30.0)
        assert {(record.topic, record.value) for record in records} == {(FEEDBACK, each.prefix.encode())}
        assert log.fetch([Place(FEEDBACK, *record[1:3]) for record in records], 30.0) == records
        assert sum(offset for at, offset in cursor.items() if at.startswith("feedback/")) == 10
        log.close()


def test_a_topic_in_which_votes_would_be_lost_is_refused_and_an_odd_one_is_told(
    kafka_bootstrap: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prefix = f"{uuid.uuid4().hex[:8]}."
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    made = {"num_partitions": 1, "replication_factor": 1}
    configs = {"max.message.bytes": "1000000", "retention.ms": "3600000"}
    admin.create_topics({prefix + RELEASES: made | {"configs": configs}})
    settings = KafkaSettings(kafka_bootstrap, prefix=prefix, replication=1, min_insync=1)
    KafkaTopics(settings).found()
    asked = [ConfigResource(ConfigResourceType.TOPIC, prefix + FEEDBACK, ["min.insync.replicas"])]
    told = admin.describe_configs(asked, config_filter="all")["topic"][prefix + FEEDBACK]
    assert told["min.insync.replicas"]["value"] == "1"
    warnings = "\n".join(record.getMessage() for record in caplog.records)
    assert "max.message.bytes=1000000: larger events are set aside" in warnings
    assert "retention.ms=3600000: the state of releases is replayed from it" in warnings
    prefix = f"{uuid.uuid4().hex[:8]}."
    admin.create_topics({prefix + FEEDBACK: made | {"configs": {"cleanup.policy": "compact"}}})
    with pytest.raises(KafkaRefused, match=r"cleanup\.policy=compact: compaction keeps one record"):
        KafkaTopics(KafkaSettings(kafka_bootstrap, prefix=prefix)).found()
    admin.close()


def test_a_topic_that_the_log_does_not_have_is_an_error(kafka_bootstrap: str, tmp_path: Path) -> None:
    log = KafkaLog(SqliteLog(tmp_path / "outbox.db"), KafkaSettings(kafka_bootstrap))
    with pytest.raises(ValueError, match="no topic 'gossip'"):
        log.append([Entry("gossip", "k", b"v")])
    with pytest.raises(ValueError, match="no topic 'gossip'"):
        log.read(["gossip"], {})
    log.close()
