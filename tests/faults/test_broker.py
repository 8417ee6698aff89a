"""A broker that ends, dies, hangs or is not there yet: every vote is taken, and arrives once it can.

The broker is reached as companies do it: over TLS, with a password, beside another service on its cluster.
"""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from feedback.core.events import COMPLETIONS, FEEDBACK, RELEASES
from feedback.core.log import Entry
from feedback.opening import open_log
from hearken.data.audit import audit, wait_until_read
from tests.faults.ledger import Ledger, everything
from tests.faults.processes import GatewayProcess, LearnerNursery
from tests.faults.scale import SCALE
from tests.faults.traffic import Mix, Traffic
from tests.serve.fake_vllm import FakeVllm
from tests.servers import KAFKA_PASSWORD, KAFKA_USER, KafkaServer, need

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(1800)]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[KafkaServer]:
    """A broker of one's own, not started yet."""
    need("java", "mvn", "openssl")
    server = KafkaServer(tmp_path / "kafka", secured=True)
    yield server
    server.kill()


def client_settings(broker: KafkaServer, folder: Path, prefix: str) -> str:
    """The file of a service whose topics have a prefix."""
    assert broker.authority is not None
    path = folder / f"{prefix}properties"
    path.write_text(
        f"bootstrap.servers={broker.sasl_ssl}\nsecurity.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\n"
        f"sasl.username={KAFKA_USER}\nsasl.password={KAFKA_PASSWORD}\n"
        f"ssl.ca.location={broker.authority.ca}\ntopic.prefix={prefix}\n"
    )
    return str(path)


def away(broker: KafkaServer, how: str) -> None:
    """The broker is gone, or does not move, for a while."""
    if how == "STOP":
        broker.freeze()
        time.sleep(SCALE.broker_away_seconds)  # what is tested is time that passes
        broker.thaw()
        return
    if how == "TERM":
        broker.stop()
    else:
        broker.kill()
    time.sleep(SCALE.broker_away_seconds)
    broker.start()


def test_votes_are_taken_whatever_the_broker_does(
    data: Path, engine: FakeVllm, model: str, broker: KafkaServer
) -> None:
    ledger = Ledger()
    kafka = client_settings(broker, data.parent, "chat.")
    neighbour = open_log(data, client_settings(broker, data.parent, "shop."), "neighbour")
    for topic in (COMPLETIONS, FEEDBACK, RELEASES):
        neighbour.append([Entry(topic, f"k{n}", b"theirs") for n in range(50)]).result()
    engine_log = open_log(data, kafka, "engine")
    gateway = GatewayProcess(data, engine.url, "--kafka", kafka)
    learners = LearnerNursery(data, model, kafka=kafka)
    gateway.start()
    gateway.wait_ready()
    learners.start()
    try:
        # Not more than the process itself needs: what waits for a broker is bounded by its speed afterwards.
        with Traffic(gateway.url, engine_log, ledger, Mix(clients=2)).flowing() as traffic:
            traffic.wait_for(300)  # the broker is absent at boot
            broker.start()
            for how in ("TERM", "KILL", "STOP"):
                before = traffic.sent
                away(broker, how)
                traffic.wait_for(before + 200)
        gateway.kill()  # and what its outbox still holds is relayed by the next one
        gateway.start()
        gateway.wait_ready()
        engine_log.append([Entry(RELEASES, "nobody", b"{}")]).result()
        everything(engine_log, wait_seconds=60.0)
        records = whole(data, kafka, ledger, gateway)
        assert {record.value for record in everything(neighbour, wait_seconds=60.0)} == {b"theirs"}
        log = open_log(data, kafka, "tester")
        assert wait_until_read(log, data, 600.0, threading.Event()), learners.output.read_text()[-3000:]
        assert learners.end() == 0
        checked = audit(log, data)
        log.close()
    finally:
        gateway.kill()
        learners.close()
        engine_log.close()
        neighbour.close()
    print(f"\n{len(records)} records, answers {dict(ledger.statuses)}")
    ledger.check(records, repeats=True)
    assert ledger.count("accepted") > 0
    assert ledger.statuses[503] == 0
    assert ledger.count("unknown") == 0  # nobody waited for the broker
    assert checked is not None
    assert checked.votes_used_once
    assert checked.labels_in_log == ledger.count("accepted")


def whole(data: Path, kafka: str, ledger: Ledger, gateway: GatewayProcess) -> list[object]:
    """Everything on the broker, once the gateway's outbox is empty."""
    assert gateway.end() == 0
    outbox = open_log(data, kafka, "gateway")  # relays what is left
    try:
        return list(everything(outbox, wait_seconds=60.0))
    finally:
        outbox.close()
