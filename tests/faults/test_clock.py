"""A clock that is moved by an hour or a day: the vote that was cast last still wins, also after a restart."""

from pathlib import Path

import httpx
import pytest

from feedback.events import FEEDBACK, Feedback
from feedback.ids import Signer
from feedback.join import Joiner
from feedback.log import Record
from feedback.opening import open_log
from tests.faults.processes import GatewayProcess
from tests.faults.shim import Shim
from tests.faults.traffic import SECRET
from tests.feedback.examples import completion, record
from tests.serve.fake_vllm import FakeVllm

HOUR, DAY = 3600, 24 * 3600
STEPS = (0, HOUR, -HOUR, DAY, -DAY, 0)


@pytest.mark.parametrize("restarts", [False, True])
def test_the_last_vote_wins_whatever_the_clock_says(
    tmp_path: Path, data: Path, engine: FakeVllm, restarts: bool
) -> None:
    shim = Shim(tmp_path)
    gateway = GatewayProcess(data, engine.url, environment=shim.environment)
    gateway.start()
    gateway.wait_ready()
    signer = Signer(SECRET)
    always_same, last_word = signer.new_completion_id(), {}
    try:
        for number, seconds in enumerate(STEPS):
            if restarts:
                gateway.kill()
            shim.set(clock_seconds=seconds)
            if restarts:
                gateway.start()
                gateway.wait_ready()
            fresh = signer.new_completion_id()
            for completion_id in (always_same, fresh):
                word = ("up", "down")[number % 2]
                body = {"kind": "thumbs", "completion_id": completion_id, "value": word, "user": "ada"}
                assert httpx.post(gateway.url + "/v1/feedback", json=body).status_code == 202
                last_word[completion_id] = word
        assert gateway.end() == 0
    finally:
        gateway.kill()
    log = open_log(data, None, "tester")
    records, _ = log.read([FEEDBACK], {})
    log.close()
    revisions = [Feedback.model_validate_json(each.value).revision for each in records]
    assert len(records) == 2 * len(STEPS)
    assert revisions == sorted(set(revisions))
    known: list[Record] = [record(completion(completion_id)) for completion_id in last_word]
    labels = Joiner().feed([*known, *reversed(records)])
    assert {label.answers[0].completion_id: label.label for label in labels} == last_word
