"""SIGKILL at any instant: what was acknowledged is in the log once, and in the learner's state once."""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from feedback.opening import open_log
from hearken.data.audit import audit, wait_until_read
from tests.faults.ledger import Ledger, everything
from tests.faults.processes import GatewayProcess, LearnerNursery
from tests.faults.scale import SCALE
from tests.faults.traffic import Traffic
from tests.serve.fake_vllm import FakeVllm

pytestmark = pytest.mark.timeout(4 * 3600)


class Killer(threading.Thread):
    """Kills and restarts one process `kills` times, at a random instant of its life, its start included."""

    def __init__(
        self, process: GatewayProcess | LearnerNursery, kills: int, longest: float, seed: int
    ) -> None:
        super().__init__(daemon=True)
        self.kills = 0
        self.failure: BaseException | None = None
        self._process = process
        self._wanted = kills
        self._longest = longest
        self._random = random.Random(seed)
        self._halted = threading.Event()

    def run(self) -> None:
        try:
            while self.kills < self._wanted and not self._halted.is_set():
                if isinstance(self._process, GatewayProcess) and self._random.random() < 0.9:
                    self._process.wait_ready()
                self._halted.wait(self._random.uniform(0.0, self._longest))
                self._process.kill()
                self.kills += 1
                self._process.start()
        except BaseException as error:
            self.failure = error

    def join_all(self) -> None:
        """Wait for the last kill; raises what went wrong."""
        self.join()
        if self.failure is not None:
            raise self.failure

    def halt(self) -> None:
        self._halted.set()
        if self.ident is not None:
            self.join()


def settled(condition: Callable[[], bool], what: str, seconds: float = 600.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.05)


def test_gateway_and_learner_are_killed_while_votes_flow(data: Path, engine: FakeVllm, model: str) -> None:
    log = open_log(data, None, "tester")
    ledger = Ledger()
    gateway = GatewayProcess(data, engine.url)
    learners = LearnerNursery(data, model)
    gateway.start()
    learners.start()
    gateway.wait_ready()
    killers = [
        Killer(gateway, SCALE.gateway_kills, longest=1.5, seed=1),
        Killer(learners, SCALE.learner_kills, longest=3.0, seed=2),
    ]
    try:
        with Traffic(gateway.url, log, ledger).flowing() as traffic:
            for killer in killers:
                killer.start()
            for killer in killers:
                killer.join_all()
            traffic.wait_for(SCALE.votes, seconds=3600)
        gateway.wait_ready()
        assert gateway.end() == 0
        assert wait_until_read(log, data, 600.0, threading.Event()), learners.output.read_text()[-3000:]
        assert learners.end() == 0
        records = everything(log)
        checked = audit(log, data)
    finally:
        for killer in killers:
            killer.halt()
        gateway.kill()
        learners.close()
        log.close()
    print(f"\n{sum(k.kills for k in killers)} kills, {len(records)} events, answers {dict(ledger.statuses)}")
    ledger.check(records)
    assert checked is not None
    assert checked.votes_used_once
    assert ledger.count("accepted") <= checked.labels_in_log <= len(ledger.outcomes)
