"""A disk that is full refuses votes and nothing else; a disk that fails ends the process."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from feedback.core.events import COMPLETIONS
from feedback.core.ids import Signer
from feedback.core.log import Entry
from feedback.opening import open_log
from feedback.sqlite.file import EXIT_IO_ERROR
from feedback.sqlite.log import SqliteLog
from tests.faults.ledger import Ledger, everything
from tests.faults.processes import GatewayProcess, LearnerNursery
from tests.faults.shim import Shim
from tests.faults.traffic import SECRET, Mix, Traffic
from tests.feedback.examples import completion
from tests.serve.fake_vllm import FakeVllm

VOTES_ONLY = Mix(clients=4, chats=0.0)


def vote(url: str, completion_id: str) -> httpx.Response:
    body = {"kind": "thumbs", "completion_id": completion_id, "value": "up", "user": "ada"}
    return httpx.post(url + "/v1/feedback", json=body, timeout=20)


def vote_until_refused(gateway: GatewayProcess, ledger: Ledger) -> httpx.Response:
    """The first refusal of single votes: one may still fit where a batch did not."""
    signer = Signer(SECRET)
    for _ in range(200):
        completion_id = signer.new_completion_id()
        answer = vote(gateway.url, completion_id)
        ledger.note(completion_id, 1.0, answer.status_code)
        if answer.status_code != 202:
            return answer
    raise AssertionError("200 votes found room on a full disk")


def see_503_then_202(gateway: GatewayProcess, ledger: Ledger, make_room: object) -> None:
    """The refusal is one that a client understands; with room again the same gateway goes on."""
    answer = vote_until_refused(gateway, ledger)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["code"] == "log_unavailable"
    make_room()  # type: ignore[operator]
    accepted = Signer(SECRET).new_completion_id()
    answer = vote(gateway.url, accepted)
    ledger.note(accepted, 1.0, answer.status_code)
    assert answer.status_code == 202


def wait_until_refused(traffic: Traffic, ledger: Ledger) -> None:
    while ledger.statuses[503] < 3:
        traffic.wait_for(traffic.sent + 1, seconds=60)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 4 MB at `folder`. Raises `PermissionError` where mounting is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "hearken", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        raise PermissionError("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_refuses_votes_until_there_is_room(tmp_path: Path, data: Path, engine: FakeVllm) -> None:
    """On a small file system where that can be mounted, else with writes that fail as on a full one."""
    ledger = Ledger()
    try:
        with small_disk(data):
            (data / "secret").write_bytes(SECRET)
            ballast = data / "ballast"
            ballast.write_bytes(bytes(1_000_000))
            fill_and_check(data, engine, ledger, {}, lambda: None, ballast.unlink)
    except PermissionError:
        shim = Shim(tmp_path)
        fill_and_check(
            data,
            engine,
            ledger,
            shim.environment,
            lambda: shim.set(disk_is_full=1),
            lambda: shim.set(disk_is_full=0),
        )


def fill_and_check(
    data: Path,
    engine: FakeVllm,
    ledger: Ledger,
    environment: dict[str, str],
    fill: object,
    make_room: object,
) -> None:
    gateway = GatewayProcess(data, engine.url, environment=environment)
    gateway.start()
    gateway.wait_ready()
    try:
        with Traffic(gateway.url, None, ledger, VOTES_ONLY).flowing() as traffic:
            traffic.wait_for(200)
            fill()  # type: ignore[operator]
            wait_until_refused(traffic, ledger)
        see_503_then_202(gateway, ledger, make_room)
        assert gateway.end() == 0
    finally:
        gateway.kill()
    log = open_log(data, None, "tester")
    ledger.check(everything(log))
    log.close()


def test_an_fsync_that_fails_ends_the_gateway_and_costs_no_vote(
    tmp_path: Path, data: Path, engine: FakeVllm
) -> None:
    shim = Shim(tmp_path)
    ledger = Ledger()
    gateway = GatewayProcess(data, engine.url, environment=shim.environment)
    gateway.start()
    gateway.wait_ready()
    assert gateway.process is not None
    try:
        with Traffic(gateway.url, None, ledger, VOTES_ONLY).flowing() as traffic:
            for round_ in range(3):
                traffic.wait_for(traffic.sent + 200)
                shim.set(fsync_fails=1)
                assert gateway.process.wait(30) == EXIT_IO_ERROR
                assert gateway.output.read_text().count("Ending this process") == round_ + 1
                shim.set(fsync_fails=0)
                gateway.start()
                gateway.wait_ready()
            traffic.wait_for(traffic.sent + 200)
        assert gateway.end() == 0
    finally:
        gateway.kill()
    assert ledger.count("unknown") > 0
    log = open_log(data, None, "tester")
    ledger.check(everything(log))
    log.close()


def new_checkpoint(link: Path, old: Path | None, log: SqliteLog) -> Path:
    """The next checkpoint of a learner that reads what is appended here."""
    while not link.exists() or link.readlink() == old:
        event = completion(Signer(SECRET).new_completion_id())
        log.append([Entry(COMPLETIONS, event.user, event.model_dump_json().encode())]).result()
        time.sleep(0.05)
    return link.readlink()


def test_an_fsync_that_fails_ends_the_learner_and_leaves_the_checkpoint_before(
    tmp_path: Path, data: Path, model: str
) -> None:
    shim = Shim(tmp_path)
    learners = LearnerNursery(data, model, environment=shim.environment)
    shim.set(fsync_fails=1)
    log = None
    try:
        learners.start()
        assert learners.wait() != 0  # its own log, or its first checkpoint, cannot be made durable
        assert not (data / "learner" / "checkpoint").exists()
        shim.set(fsync_fails=0)
        learners.start()
        log = SqliteLog(data / "log.db")
        checkpoint = data / "learner" / "checkpoint"
        before = new_checkpoint(checkpoint, None, log)
        shim.set(fsync_fails=1)
        assert learners.end() != 0  # SIGTERM: it saves once more
        shim.set(fsync_fails=0)
        assert checkpoint.readlink() >= before
        learners.start()
        assert new_checkpoint(checkpoint, checkpoint.readlink(), log) > before
    finally:
        learners.close()
        if log is not None:
            log.close()
