"""A log whose file was cut or whose bits were flipped keeps what is whole, and says what is not.

Each case is a copy of one log, damaged, opened and read by a process of its own, which may find damage while
it reads and end; like a service's, it is then started again.
"""

import contextlib
import json
import os
import random
import shutil
import sqlite3
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from feedback.core.log import Entry
from feedback.sqlite.file import EXIT_IO_ERROR
from feedback.sqlite.log import SqliteLog
from tests.faults.scale import SCALE

pytestmark = pytest.mark.timeout(3600)

TOPICS = ("a", "b")
TAIL = 20_000
"""Bytes at the end of a file: five pages, about the newest commit."""

PAGE, EDGE = 4096, 64
"""Bytes of a page, and of its edges: the first say where its rows are, and the last are its first rows."""

STARTS = 3
"""How often a process may be started until it runs: once to find damage in reading, once more to mend."""

Work = Callable[[Path], dict[str, object]]
Found = dict[str, dict[str, str]]  # topic -> offset -> value


@dataclass(frozen=True)
class Pristine:
    """A log that was written and left by a SIGKILL."""

    folder: Path
    values: Found
    durable_at: list[tuple[int, str, int]]  # (size of the -wal then, topic, offset), in order

    def copy(self, target: Path) -> Path:
        shutil.copytree(self.folder, target)
        return target / "log.db"


def value(number: int, random_: random.Random) -> str:
    length = random_.choice((20, 200, 900, 6_000))  # the last needs pages of its own
    return f"{number}:" + random_.randbytes(length // 2).hex()


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Pristine:
    """80 records in two topics; most lie in the file itself, the others in its -wal."""
    folder = tmp_path_factory.mktemp("pristine")
    random_ = random.Random(7)
    texts = [value(n, random_) for n in range(80)]
    report = in_a_process(lambda: write(folder / "log.db", texts))
    assert report is not None
    return Pristine(folder, report["values"], [tuple(each) for each in report["durable_at"]])


def write(path: Path, texts: list[str]) -> dict[str, object]:
    log = SqliteLog(path)
    values: Found = {topic: {} for topic in TOPICS}
    durable_at = []
    for number, text in enumerate(texts):
        topic = TOPICS[number % 3 == 0]
        log.append([Entry(topic, f"conversation-{number:08d}", text.encode())]).result()
        offset = len(values[topic])
        values[topic][str(offset)] = text
        if number == 50:
            with contextlib.closing(sqlite3.connect(path)) as other:
                other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        durable_at.append((path.with_name("log.db-wal").stat().st_size, topic, offset))
    return {"values": values, "durable_at": durable_at[51:]}


def in_a_process(work: object) -> dict[str, object] | None:
    """The JSON that `work` gives in a fork, which then ends without closing anything; None if it died."""
    source, sink = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(source)
        status = 1
        try:
            with os.fdopen(sink, "w") as pipe:
                json.dump(work(), pipe)  # type: ignore[operator]
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(sink)
    with os.fdopen(source) as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, EXIT_IO_ERROR), f"the process ended with {status}"
    return json.loads(text) if status == 0 else None


def read_and_append(path: Path) -> dict[str, object]:
    log = SqliteLog(path)
    values: Found = {topic: {} for topic in TOPICS}
    end = log.end(TOPICS)
    cursor: dict[str, int] = {}
    while any(cursor.get(place, 0) < offset for place, offset in end.items()):
        before = cursor
        records, cursor = log.read(TOPICS, cursor, limit=40)
        for record in records:
            assert str(record.offset) not in values[record.topic], "twice"
            values[record.topic][str(record.offset)] = record.value.decode()
        if cursor == before:
            break  # what is left was lost at the end
    log.append([Entry(topic, "k", b"after") for topic in TOPICS]).result()
    after, _ = log.read(TOPICS, end)
    return {
        "values": values,
        "skipped": log.damaged,
        "after": [(record.topic, record.offset, record.value.decode()) for record in after],
    }


def relay_and_append(path: Path) -> dict[str, object]:
    """What `read_and_append` gives, of a log that is read and emptied as an outbox."""
    taken = path.with_name("taken.json")  # what the processes before have read
    values: Found = json.loads(taken.read_text()) if taken.exists() else {topic: {} for topic in TOPICS}
    log = SqliteLog(path)
    after = 0
    while batch := log.oldest(30, 1 << 30, after):
        for _, (topic, _, text), _ in batch:
            values[topic][text.decode().partition(":")[0]] = text.decode()
        after = batch[-1].id
        taken.write_text(json.dumps(values))
        log.discard(after).result()
    end = log.end(TOPICS)
    log.append([Entry(topic, "k", b"after") for topic in TOPICS]).result()
    after_it = log.oldest(30, 1 << 30, after)
    return {
        "values": {topic: by_offset(values[topic]) for topic in TOPICS},
        "skipped": log.damaged,
        "after": [(entry.topic, end[f"{entry.topic}/0"], entry.value.decode()) for _, entry, _ in after_it],
    }


def by_offset(texts: dict[str, str]) -> dict[str, str]:
    """Values under their offsets, of values under the numbers that `write` gave them."""
    found = {}
    for number in map(int, texts):
        offset = number // 3 if number % 3 == 0 else number - number // 3 - 1
        found[str(offset)] = texts[str(number)]
    return found


def examine(path: Path, pristine: Pristine, work: Work = read_and_append) -> set[tuple[str, int]]:
    """The records that the damage cost. Fails when a wrong one came, or when a loss was not reported."""
    report = None
    starts = 0
    while report is None:
        assert starts < STARTS, "it never got going again"
        report = in_a_process(lambda: work(path))
        starts += 1
    lost = set()
    for topic, values in pristine.values.items():
        found = report["values"][topic]  # type: ignore[index]
        for offset, text in found.items():
            written = values.get(offset, "after")  # by a process that found the damage only then
            assert written == text, f"{topic} {offset} is not what was written"
        lost |= {(topic, int(offset)) for offset in values.keys() - found.keys()}
    reports = [json.loads(file.read_text()) for file in path.parent.glob("*-damaged-*/report.json")]
    reported = report["skipped"] + sum(each["lost_records"] for each in reports)  # type: ignore[operator]
    assert len(lost) <= reported, f"lost {len(lost)}, reported {reported}: {sorted(lost)[:5]}"
    after = {topic: (offset, text) for topic, offset, text in report["after"]}  # type: ignore[attr-defined]
    for topic in TOPICS:
        assert after[topic][1] == "after"
        assert after[topic][0] >= len(pristine.values[topic]), "an offset was given out twice"
    return lost


def test_the_undamaged_log_is_whole(pristine: Pristine, tmp_path: Path) -> None:
    assert examine(pristine.copy(tmp_path / "copy"), pristine) == set()


def cuts(size: int, frame: int) -> Iterator[int]:
    """Where to cut a file of `size` bytes: at every byte of its tail and all borders, or at a sample."""
    borders = range(size % frame, size, frame)
    near = [cut for border in borders for cut in (border - 1, border, border + 1, border + 25) if cut >= 0]
    if SCALE.every_byte:
        yield from near
        yield from range(size - TAIL, size)
    else:
        yield from near[-24:]
        yield from random.Random(1).sample(range(size), 20)


def test_a_log_cut_at_any_byte_keeps_what_lies_before(pristine: Pristine, tmp_path: Path) -> None:
    size = (pristine.folder / "log.db-wal").stat().st_size
    for cut in cuts(size, 4096 + 24):
        path = pristine.copy(tmp_path / str(cut))
        os.truncate(path.with_name("log.db-wal"), cut)
        lost = examine(path, pristine)
        assert not lost & {(topic, offset) for at, topic, offset in pristine.durable_at if at <= cut}
        shutil.rmtree(path.parent)


def test_a_closed_log_cut_at_any_byte_keeps_what_lies_before(pristine: Pristine, tmp_path: Path) -> None:
    whole = pristine.copy(tmp_path / "whole")
    SqliteLog(whole).close()  # the -wal is now part of the file
    size = whole.stat().st_size
    for cut in cuts(size, 4096):
        folder = tmp_path / str(cut)
        shutil.copytree(whole.parent, folder)
        os.truncate(folder / "log.db", cut)
        lost = examine(folder / "log.db", pristine)
        assert len(lost) <= 2 + (size - cut) // 500, f"cut {size - cut} bytes and lost {len(lost)} records"
        shutil.rmtree(folder)


@pytest.mark.parametrize("work", [read_and_append, relay_and_append], ids=["log", "outbox"])
@pytest.mark.parametrize("change", ["topic = 'q'", "next = 70", "first = 'x'", "latest = 1e300"])
def test_a_topic_whose_line_is_damaged_loses_nothing(
    change: str, work: Work, pristine: Pristine, tmp_path: Path
) -> None:
    path = pristine.copy(tmp_path / "closed")
    SqliteLog(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE heads SET {change} WHERE topic = 'a'")
    assert examine(path, pristine, work) == set()


def roots(path: Path) -> list[int]:
    """Where the pages begin at which SQLite starts to look for anything."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        pages = connection.execute("SELECT rootpage FROM sqlite_master WHERE name NOT LIKE '%letters%'")
        return [0, *((page - 1) * PAGE for (page,) in pages)]


@pytest.mark.parametrize("work", [read_and_append, relay_and_append], ids=["log", "outbox"])
def test_any_flipped_bit_is_harmless_or_reported(work: Work, pristine: Pristine, tmp_path: Path) -> None:
    random_ = random.Random(11)
    closed = pristine.copy(tmp_path / "closed")
    SqliteLog(closed).close()
    starts = roots(closed)
    costs = []
    for number in range(SCALE.flips):
        source = random_.choice((pristine.folder, closed.parent))
        folder = tmp_path / str(number)
        shutil.copytree(source, folder)
        files = [path for path in sorted(folder.iterdir()) if path.suffix != ".db-lock"]
        sizes = [path.stat().st_size for path in files]
        file = random_.choices(files, sizes)[0]
        data = bytearray(file.read_bytes())
        place = random_.randrange(len(data) * 8)
        if file.name == "log.db" and random_.random() < 0.5:  # where one bit hides many records
            place = 8 * random_.choice(starts) + random_.randrange(-8 * EDGE, 8 * EDGE) % (8 * PAGE)
        data[place // 8] ^= 1 << place % 8
        file.write_bytes(data)
        try:
            costs.append(len(examine(folder / "log.db", pristine, work)))
        except BaseException as error:
            error.add_note(f"flip {number}: bit {place % 8} of byte {place // 8} of {file.name}")
            raise
        shutil.rmtree(folder)
    print(f"\n{len(costs)} flips: {sum(c > 0 for c in costs)} cost records, at most {max(costs)}")
    assert max(costs) <= 40  # the rows of a page, or of its neighbours
