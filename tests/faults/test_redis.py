"""Redis killed and flushed in the middle: votes and their idempotency keys still count once."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import redis

from feedback.core.ids import Signer
from feedback.joining.join import Joiner
from feedback.opening import open_log
from tests.faults.ledger import Ledger, everything
from tests.faults.processes import GatewayProcess
from tests.faults.traffic import SECRET, Mix, Traffic
from tests.feedback.examples import completion, record
from tests.serve.fake_vllm import FakeVllm
from tests.servers import RedisServer, need

pytestmark = pytest.mark.redis


@pytest.fixture
def server() -> Iterator[RedisServer]:
    need("redis-server")
    server = RedisServer()
    server.start()
    yield server
    server.stop()


def test_redis_is_killed_and_flushed_while_votes_flow(
    data: Path, engine: FakeVllm, server: RedisServer
) -> None:
    ledger = Ledger()
    gateway = GatewayProcess(data, engine.url, "--redis", server.url)
    gateway.start()
    gateway.wait_ready()
    signer = Signer(SECRET)
    answered: dict[str, int] = {}  # completion id -> 2xx answers to votes that are sent again and again
    stop = threading.Event()

    def insist(user: str) -> None:
        """A client that repeats each vote with its key until it was accepted, and then twice more."""
        while not stop.is_set():
            completion_id = signer.new_completion_id()
            vote = {"kind": "thumbs", "completion_id": completion_id, "value": "up", "user": user}
            headers = {"idempotency-key": completion_id}
            statuses: list[int] = []
            while sum(status // 100 == 2 for status in statuses) < 3:
                answer = httpx.post(gateway.url + "/v1/feedback", json=vote, headers=headers, timeout=20)
                statuses.append(answer.status_code)
                assert answer.status_code in (202, 409), answer.text
            answered[completion_id] = sum(status == 202 for status in statuses)

    try:
        with (
            ThreadPoolExecutor(2) as pool,
            Traffic(gateway.url, None, ledger, Mix(clients=2, chats=0)).flowing() as traffic,
        ):
            insisting = [pool.submit(insist, f"insistent-{i}") for i in range(2)]
            for _ in range(2):
                traffic.wait_for(traffic.sent + 150)
                with redis.Redis.from_url(server.url) as client:
                    client.flushall()
                traffic.wait_for(traffic.sent + 150)
                server.kill()
                traffic.wait_for(traffic.sent + 150)
                server.start()
            stop.set()
            for each in insisting:
                each.result()
        assert gateway.end() == 0
    finally:
        stop.set()
        gateway.kill()
    log = open_log(data, None, "tester")
    records = everything(log)
    log.close()
    ours = {c.encode() for c in answered}
    theirs = [each for each in records if not any(c in each.value for c in ours)]
    ledger.check(theirs)
    assert ledger.count("unknown") == 0
    known = [record(completion(c)) for c in (*answered, *ledger.outcomes)]
    labels = Joiner().feed([*known, *records])
    counted = [label.answers[0].completion_id for label in labels]
    assert len(counted) == len(set(counted)) == ledger.count("accepted") + len(answered)
