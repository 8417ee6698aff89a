"""After an erasure nobody can read the user again: not from the files, not from Kafka, not from an export."""

import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from kafka import KafkaConsumer, TopicPartition
from transformers import AutoTokenizer

from feedback.core.events import COMPLETIONS, FEEDBACK
from feedback.core.ids import Signer
from feedback.core.log import EventLog
from feedback.core.secret import load_secret
from feedback.exchange.exports import EXPORTS
from feedback.opening import open_log, open_shared
from feedback.rows.examples import Example
from feedback.rows.tables import read_rows, write_rows
from hearken.cli import main
from hearken.data.audit import wait_until_read
from serve.app import create_app
from serve.settings import GatewaySettings
from serve.storage.redis import open_stored
from tests.faults.processes import LearnerNursery
from tests.serve.conftest import Server, eventually
from tests.serve.fake_vllm import FakeVllm

pytestmark = pytest.mark.kafka

WORDS = ("Zanzibar", "marmalade")
TALK = ({"role": "user", "content": "I live in Zanzibar."},)
_NUMBERS = re.compile(rb"\[(\d{1,7}(?:, ?\d{1,7})+)\]")


def spells(raw: bytes, tokenizer: Any) -> list[str]:
    """The words that can be read in some bytes, as they stand or as token ids."""
    spelled = [
        tokenizer.decode([i for i in map(int, found[1].split(b",")) if i < tokenizer.vocab_size])
        for found in _NUMBERS.finditer(raw)
    ]
    return [word for word in WORDS if word.encode() in raw or any(word in text for text in spelled)]


def kafka_records(bootstrap: str, prefix: str) -> bytes:
    """Every key and value of the topics with texts."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, consumer_timeout_ms=2000, enable_auto_commit=False)
    try:
        places = [
            TopicPartition(prefix + t, p)
            for t in (COMPLETIONS, FEEDBACK)
            for p in consumer.partitions_for_topic(prefix + t)
        ]
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        return b"".join(record.key + record.value for record in consumer)
    finally:
        consumer.close()


def files(folder: Path) -> bytes:
    while True:
        try:
            return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
        except FileNotFoundError:  # a checkpoint made way for the next one: look at all of it again
            continue


def redis_values(url: str) -> bytes:
    """Every key and value in Redis."""
    with redis.Redis.from_url(url) as db:
        return b"".join(key + (db.dump(key) or b"") + b"".join(_fields(db, key)) for key in db.scan_iter())


def _fields(db: Any, key: bytes) -> Iterator[bytes]:
    if db.type(key) == b"hash":
        for name, value in db.hgetall(key).items():
            yield name + value


@dataclass(frozen=True)
class Service:
    """A gateway with Kafka behind it, and a learner that reads what it writes."""

    url: str
    data: Path
    kafka: str  # its client settings: topics of its own, for a service with another vault reads none of them
    bootstrap: str
    prefix: str
    redis: str | None
    log: EventLog

    def raw(self) -> bytes:
        """All that it keeps anywhere."""
        held = b"" if self.redis is None else redis_values(self.redis)
        return files(self.data) + kafka_records(self.bootstrap, self.prefix) + held


@pytest.fixture(params=["files", "redis"])
def service(
    request: pytest.FixtureRequest, tmp_path: Path, kafka_bootstrap: str, tiny_model: Path
) -> Iterator[Service]:
    url = request.getfixturevalue("redis_url") if request.param == "redis" else None
    data = tmp_path / "data"
    data.mkdir()
    prefix, client = f"{request.param}.", tmp_path / "kafka.properties"
    client.write_text(f"bootstrap.servers={kafka_bootstrap}\ntopic.prefix={prefix}\n")
    kafka = str(client)
    with ExitStack() as stack:
        engine = FakeVllm().start()
        stack.callback(engine.stop)
        log = open_log(data, kafka, "gateway")
        stack.callback(log.close)
        shared, stored = open_shared(data, url), open_stored(data, url)
        stack.callback(shared.close)
        stack.callback(stored.close)
        signer = Signer(load_secret(data / "secret"))
        settings = GatewaySettings(data=data, engines=(engine.url,), kafka=kafka, redis=url)
        gateway = stack.enter_context(Server(create_app(settings, log, shared, signer, stored)))
        learners = LearnerNursery(data, str(tiny_model), kafka=kafka)
        stack.callback(learners.close)
        learners.start()
        yield Service(gateway, data, kafka, kafka_bootstrap, prefix, url, log)


def test_an_erased_user_cannot_be_read_anywhere(service: Service, tmp_path: Path, tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    data = service.data
    signer = Signer(load_secret(data / "secret"))
    ada, bob = (signer.pseudonym("default", name) for name in ("ada", "bob"))
    examples = [
        Example("correction", TALK, ("You like marmalade.", "Hello."), 1.0, rater=ada, comment="Zanzibar!"),
        Example("thumbs", TALK, ("Hello from marmalade.",), 1.0, rater=bob),
    ]
    write_rows(tmp_path / "in.jsonl", map(EXPORTS["hearken"], examples))
    where = ["--data", str(data), "--kafka", service.kafka]
    assert main(["import", str(tmp_path / "in.jsonl"), "--model", str(tiny_model), *where]) == 0
    with httpx.Client(base_url=service.url, timeout=30) as http:
        eventually(lambda: http.get("/readyz").status_code == 200, "the gateway is ready")
        body = {"model": "hearken", "messages": list(TALK), "user": "ada", "store": True}
        completion_id = http.post("/v1/chat/completions", json=body).json()["id"]
        vote = {"kind": "comment", "completion_id": completion_id, "text": "marmalade", "user": "ada"}
        again = {"idempotency-key": "once"}
        assert http.post("/v1/feedback", json=vote, headers=again).status_code == 202
        assert wait_until_read(service.log, data, 120.0, threading.Event())
        assert spells(service.raw(), tokenizer) == ["Zanzibar"]  # in the answer that is stored for its client
        assert http.delete("/v1/users/ada").json()["had_texts"] is True
        # At once: nobody has to wait for the learner's next checkpoint.
        raw = service.raw()
        export = tmp_path / "out.jsonl"
        assert main(["export", str(export), *where]) == 0
    assert ada.encode() in raw
    assert spells(raw, tokenizer) == []
    # What is left of Ada can be counted, not read; Bob is untouched.
    rows = [row for _, row, _ in read_rows(export) if row is not None]
    assert [row["answers"] for row in rows if row["rater"] == bob] == [["Hello from marmalade."]]
    assert [row for row in rows if row["rater"] == ada] == []


def test_the_search_would_find_what_it_searches_for(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids = tokenizer.encode("I live in Zanzibar.", add_special_tokens=False)
    assert spells(b'{"token_ids": [%s]}' % ",".join(map(str, ids)).encode(), tokenizer) == ["Zanzibar"]
    assert spells(b"\x00\x01marmalade\xff", tokenizer) == ["marmalade"]
    assert spells(b"[1,2,3]", tokenizer) == []
