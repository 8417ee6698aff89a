"""What is particular to the embedded log: several processes, full and failing disks, the outbox's head."""

import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from feedback.core.log import Entry, LogError, LogUnavailable
from feedback.sqlite.file import EXIT_IO_ERROR
from feedback.sqlite.log import SqliteLog
from tests.faults.shim import Shim

_APPEND_500 = """
import sys
from pathlib import Path
from feedback.core.log import Entry
from feedback.sqlite.log import SqliteLog
log = SqliteLog(Path(sys.argv[1]))
futures = [log.append([Entry("t", sys.argv[2], str(i).encode())]) for i in range(500)]
for future in futures:
    future.result()
log.close()
"""

# Fills a disk, sees appends refused, makes room, sees them accepted. Waits for a line before it fills it and
# before it goes on.
_FILL_DISK = """
import sys
from pathlib import Path
from feedback.core.log import Entry, LogUnavailable
from feedback.sqlite.log import SqliteLog
folder = Path(sys.argv[1])
(folder / "ballast").write_bytes(bytes(1_000_000))
log = SqliteLog(folder / "log.db")
log.append([Entry("t", "k", b"before")]).result()
print("begun", flush=True)
input()
accepted, refused = 1, 0
while refused < 3:
    try:
        log.append([Entry("t", "k", bytes(50_000))]).result()
        accepted += 1
        assert accepted < 100, "5 MB, and it is not full"
    except LogUnavailable:
        refused += 1
print("full", flush=True)
(folder / "ballast").unlink()
input()
log.append([Entry("t", "k", b"after")]).result()
records, _ = log.read(["t"], {})
assert len(records) == accepted + 1, (len(records), accepted)
assert [r.offset for r in records] == list(range(accepted + 1))
log.close()
"""

# A file size limit makes write() fail as a broken disk would (EFBIG), which SQLite calls an I/O error.
_FAIL_WRITE = """
import resource, sys
from pathlib import Path
from feedback.core.log import Entry
from feedback.sqlite.log import SqliteLog
log = SqliteLog(Path(sys.argv[1]))
log.append([Entry("t", "k", b"before")]).result()
print("acknowledged", flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
log.append([Entry("t", "k", bytes(1_000_000))]).result()
print("acknowledged what the disk refused", flush=True)
"""


def python(
    code: str,
    *arguments: object,
    prefix: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
) -> "subprocess.Popen[str]":
    command = [*prefix, sys.executable, "-c", code, *map(str, arguments)]
    environment = {"PYTHONPATH": ":".join(sys.path), **(environment or {})}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)


def test_processes_write_one_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.db"  # nobody has made it yet: they also race to create it
    writers = [python(_APPEND_500, path, f"writer-{n}") for n in range(4)]
    for writer in writers:
        assert writer.wait() == 0, writer.communicate()
    log = SqliteLog(path)
    records, cursor = log.read(["t"], {}, limit=5000)
    log.close()
    assert [record.offset for record in records] == list(range(2000))
    assert cursor == {"t/0": 2000}
    for n in range(4):
        assert [int(r.value) for r in records if r.key == f"writer-{n}"] == list(range(500))


def test_a_reader_notices_what_another_process_wrote(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    writer = python(_APPEND_500, tmp_path / "log.db", "k")
    records, _ = log.read(["t"], {}, wait_seconds=60.0)
    assert records
    assert writer.wait() == 0
    log.close()


def see_refused_then_accepted(
    process: "subprocess.Popen[str]", fill: Callable[[], None], make_room: Callable[[], None]
) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    for said, then in (("begun\n", fill), ("full\n", make_room)):
        assert process.stdout.readline() == said, process.communicate()
        then()
        process.stdin.write("\n")
        process.stdin.flush()
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def test_a_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    """On a file system of 2 MB where a user may mount one, else with writes that fail as on a full one."""
    mount = 'mount -t tmpfs -o size=2m hearken "$1" && shift && exec "$@"'
    prefix = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", str(tmp_path))
    may_mount = (
        shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    )
    if may_mount:
        process = python(_FILL_DISK, tmp_path, prefix=prefix)
        see_refused_then_accepted(process, lambda: None, lambda: None)
        return
    shim = Shim(tmp_path)
    process = python(_FILL_DISK, tmp_path, environment=shim.environment)
    see_refused_then_accepted(process, lambda: shim.set(disk_is_full=1), lambda: shim.set(disk_is_full=0))


def test_a_failed_write_ends_the_process_before_anything_is_acknowledged(tmp_path: Path) -> None:
    process = python(_FAIL_WRITE, tmp_path / "log.db")
    output, errors = process.communicate()
    assert process.returncode == EXIT_IO_ERROR
    assert output == "acknowledged\n"
    assert "I/O error" in errors
    assert str(tmp_path / "log.db") in errors
    log = SqliteLog(tmp_path / "log.db")
    assert [record.value for record in log.read(["t"], {})[0]] == [b"before"]
    log.close()


def test_a_locked_file_refuses_and_recovers(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", busy_seconds=0.05)
    other = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LogUnavailable, match="locked"):
        log.append([Entry("t", "k", b"refused")]).result()
    other.execute("ROLLBACK")
    log.append([Entry("t", "k", b"accepted")]).result()
    assert [record.value for record in log.read(["t"], {})[0]] == [b"accepted"]
    other.close()
    log.close()


def test_a_path_that_cannot_be_a_log_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for path in (tmp_path, tmp_path / "file" / "log.db"):
        with pytest.raises(LogUnavailable, match="cannot open the log"):
            SqliteLog(path)
    (tmp_path / "text").write_text("this is not a database, whatever its name says " * 100)
    with pytest.raises(LogError):
        SqliteLog(tmp_path / "text")


def test_discarding_the_head_keeps_offsets_and_order(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    log.append([Entry("t", "k", str(i).encode()) for i in range(10)]).result()
    first = log.oldest(limit=4, max_bytes=1_000_000)
    assert [stored.entry.value for stored in first] == [b"0", b"1", b"2", b"3"]
    log.discard(first[-1].id).result()
    assert log.backlog()[0] == 6
    log.append([Entry("t", "k", b"10")]).result()
    records, _ = log.read(["t"], {})
    assert [(r.offset, r.value) for r in records] == [(i, str(i).encode()) for i in range(4, 11)]
    everything = log.oldest(limit=100, max_bytes=1_000_000, after=first[-1].id)
    log.discard(everything[-1].id).result()
    assert (log.backlog(), log.span(), log.oldest(9, 9)) == ((0, 0.0), None, [])
    log.close()
    reopened = SqliteLog(tmp_path / "log.db")
    reopened.append([Entry("t", "k", b"11")]).result()
    assert [r.offset for r in reopened.read(["t"], {})[0]] == [11]
    assert reopened.oldest(9, 9)[0].id > everything[-1].id  # an id that was discarded never comes back
    reopened.close()


def test_the_head_is_cut_by_bytes_but_never_empty(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    log.append([Entry("t", "k", bytes(1000)) for _ in range(5)]).result()
    assert len(log.oldest(limit=100, max_bytes=2500)) == 2
    assert len(log.oldest(limit=100, max_bytes=10)) == 1
    log.close()


def test_what_is_set_aside_keeps_its_reason(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    log.append([Entry("t", "k", b"odd")]).result()
    [stored] = log.oldest(1, 1)
    log.set_aside(stored, "too odd").result()
    log.set_aside(stored, "too odd").result()  # a relay that died in between does it again
    with sqlite3.connect(tmp_path / "log.db") as db:
        rows = db.execute("SELECT topic, key, value, reason FROM refused").fetchall()
    assert rows == [("t", "k", b"odd", "too odd")]
    log.close()


def test_the_backlog_has_an_age(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    before = time.time()
    log.append([Entry("t", "k", b"1")]).result()
    log.append([Entry("t", "k", b"2")]).result()
    time.sleep(0.05)
    events, age_seconds = log.backlog()
    assert events == 2
    assert 0.05 <= age_seconds <= time.time() - before
    log.close()


def test_many_who_wait_share_an_fsync(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    before = log.wait_for_write(-1, 0)
    futures = [log.append([Entry("t", "k", b"x")]) for _ in range(2000)]
    for future in futures:
        future.result()
    transactions = log.wait_for_write(-1, 0) - before
    assert transactions < 1000
    log.close()
