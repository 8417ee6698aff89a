"""A clock that is moved by an hour or a day: the vote that was cast last still wins, and arrives."""

import re
import time
from pathlib import Path

import httpx
import pytest

from feedback.core.events import FEEDBACK, Feedback
from feedback.core.ids import Signer
from feedback.core.log import Record
from feedback.joining.join import Joiner
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


RIGHT_AGAIN_SECONDS = 10.0


class Relayed:
    """A gateway with a broker behind it, and a clock that can be moved."""

    def __init__(self, gateway: GatewayProcess, kafka: str) -> None:
        self.gateway, self.kafka = gateway, kafka
        self._votes = 0

    def start(self) -> None:
        self.gateway.start()
        self.gateway.wait_ready()

    def vote(self) -> None:
        self._votes += 1
        body = {"kind": "comment", "completion_id": Signer(SECRET).new_completion_id(), "text": "fine"}
        answer = httpx.post(self.gateway.url + "/v1/feedback", json=body | {"user": f"u{self._votes}"})
        assert answer.status_code == 202

    def waiting(self) -> tuple[float, float]:
        """How many events wait for the broker, and for how long the oldest has: as the metrics say it."""
        text = httpx.get(self.gateway.url + "/metrics").text
        told = dict(re.findall(r"^hearken_relay_(lag_events|age_seconds) (\S+)$", text, re.M))
        return float(told["lag_events"]), float(told["age_seconds"])

    def seconds_until_empty(self) -> float:
        started = time.monotonic()
        while self.waiting()[0]:
            assert time.monotonic() - started < 60.0, self.gateway.output.read_text()[-3000:]
            time.sleep(0.05)  # a metric can only be asked for
        return time.monotonic() - started

    def on_broker(self, data: Path) -> int:
        log = open_log(data, self.kafka, "tester")
        try:
            return sum(log.end([FEEDBACK], wait_seconds=30.0).values())
        finally:
            log.close()


@pytest.mark.kafka
def test_a_gateway_whose_clock_is_a_day_ahead_relays_and_shows_what_waits(
    tmp_path: Path, data: Path, engine: FakeVllm, kafka_bootstrap: str
) -> None:
    shim = Shim(tmp_path)
    kafka = tmp_path / "client.properties"
    kafka.write_text(f"bootstrap.servers={kafka_bootstrap}\ntopic.prefix={tmp_path.name}.\n")
    gateway = GatewayProcess(data, engine.url, "--kafka", str(kafka), environment=shim.environment)
    service = Relayed(gateway, str(kafka))
    service.start()
    try:
        service.vote()
        service.seconds_until_empty()
        shim.set(clock_seconds=DAY)  # the broker has agreed with the clock before: nothing waits
        service.vote()
        assert service.seconds_until_empty() < RIGHT_AGAIN_SECONDS
        gateway.kill()
        service.start()  # now nothing but the wrong clock is known
        service.vote()
        while "put it right" not in gateway.output.read_text():
            time.sleep(0.05)
        events, age = service.waiting()
        assert events == 1
        assert 0 < age < 300
        while service.waiting()[1] < age + 1.0:  # it grows, although the event lies in the future
            time.sleep(0.05)
        shim.set(clock_seconds=0)
        assert service.seconds_until_empty() < RIGHT_AGAIN_SECONDS
        assert service.waiting() == (0.0, 0.0)
        assert service.on_broker(data) == 3
    finally:
        gateway.kill()
