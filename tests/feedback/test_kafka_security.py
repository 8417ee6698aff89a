"""Kafka as companies run it: TLS, passwords, tokens, certificates, and what is said when one is wrong."""

import base64
import json
import logging
import queue
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from kafka.errors import KafkaError

from feedback.core.log import Entry
from feedback.kafka.checks import KafkaRefused
from feedback.kafka.log import KafkaLog
from feedback.kafka.settings import KafkaSettings, read_kafka
from feedback.kafka.topics import KafkaTopics
from feedback.sqlite.log import SqliteLog
from tests.certificates import Authority
from tests.servers import KAFKA_PASSWORD, KAFKA_USER, KafkaServer

pytestmark = pytest.mark.kafka

PASSWORD = f"sasl.username={KAFKA_USER}\nsasl.password={KAFKA_PASSWORD}\n"
NAMED_SECONDS = 10.0


class _Tokens(BaseHTTPRequestHandler):
    """An OAuth token endpoint for one client, whose tokens nobody signed."""

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        known = base64.b64encode(b"hearken:client-secret").decode()
        if self.headers["authorization"] != f"Basic {known}" or form["grant_type"] != ["client_credentials"]:
            self._answer(401, {"error": "invalid_client"})
            return
        now = int(time.time())
        claims = {"sub": "hearken", "iat": now - 5, "exp": now + 600, "scope": form.get("scope", [""])[0]}
        parts = (json.dumps(part).encode() for part in ({"alg": "none"}, claims))
        token = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + "."
        self._answer(200, {"access_token": token, "expires_in": 600, "token_type": "Bearer"})

    def _answer(self, status: int, body: dict[str, object]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def tokens() -> Iterator[str]:
    """URL of a token endpoint that knows the client "hearken" with the secret "client-secret"."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Tokens)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/token"
    server.shutdown()
    thread.join()
    server.server_close()


class Files:
    """Writes files of client settings for one broker."""

    def __init__(self, server: KafkaServer, tokens: str, folder: Path) -> None:
        assert server.authority is not None
        self.server, self.authority, self._tokens, self._folder = server, server.authority, tokens, folder

    def sasl(self, mechanism: str, more: str = PASSWORD, bootstrap: str | None = None) -> Path:
        """SASL over TLS by a mechanism."""
        where = bootstrap or self.server.sasl_ssl
        return self._written(where, "SASL_SSL", f"sasl.mechanism={mechanism}\n{more}")

    def token(self, secret: str = "client-secret") -> Path:
        """SASL by a token."""
        return self.sasl(
            "OAUTHBEARER",
            f"sasl.oauthbearer.token.endpoint.url={self._tokens}\nsasl.oauthbearer.client.id=hearken\n"
            f"sasl.oauthbearer.client.secret={secret}\nsasl.oauthbearer.scope=kafka\n",
        )

    def certificate(self, more: str = "") -> Path:
        """TLS with a client's certificate, whose key has a password."""
        certificate, key = self.authority.signed("client", "DNS:client", password="key-password")
        mine = f"ssl.certificate.location={certificate}\nssl.key.location={key}\n"
        mine += "ssl.key.password=key-password\ncompression.type=gzip\n"
        return self._written(self.server.ssl, "SSL", more or mine)

    def _written(self, bootstrap: str, protocol: str, more: str) -> Path:
        path = self._folder / "client.properties"
        ca = "" if "ssl.ca.location" in more else f"ssl.ca.location={self.authority.ca}\n"
        path.write_text(f"bootstrap.servers={bootstrap}\nsecurity.protocol={protocol}\n{ca}{more}")
        return path


@pytest.fixture
def files(kafka_server: KafkaServer, tokens: str, tmp_path: Path) -> Files:
    """Files for the shared broker."""
    return Files(kafka_server, tokens, tmp_path)


def opened(path: Path, topic: str) -> KafkaLog:
    return KafkaLog(SqliteLog(path.parent / "outbox.db"), read_kafka(str(path)), {topic: 1})


@pytest.mark.parametrize("way", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "certificate"])
def test_events_come_through_by_every_way_in(files: Files, way: str) -> None:
    if way == "certificate":
        path = files.certificate()
    else:
        path = files.token() if way == "OAUTHBEARER" else files.sasl(way)
    topic = f"{way.lower()}-{uuid.uuid4().hex[:8]}"
    log = opened(path, topic)
    try:
        log.append([Entry(topic, "k", b"%d" % n) for n in range(20)]).result()
        assert log.end([topic], wait_seconds=30.0) == {f"{topic}/0": 20}
        records, _ = log.read([topic], {}, wait_seconds=30.0)
        assert [record.value for record in records] == [b"%d" % n for n in range(20)]
        assert log.lag() == (0, 0.0)
    finally:
        log.close()


def test_a_wrong_password_is_named_in_time_and_costs_no_event(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    topic = f"locked-{uuid.uuid4().hex[:8]}"
    path = files.sasl("SCRAM-SHA-512", PASSWORD.replace(KAFKA_PASSWORD, "guess"))
    said: queue.SimpleQueue[str] = queue.SimpleQueue()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "wait in the outbox" in record.getMessage():
                said.put(record.getMessage())

    listener = Listener()
    logging.getLogger("feedback").addHandler(listener)
    started = time.monotonic()
    log = opened(path, topic)
    try:
        log.append([Entry(topic, "k", b"kept")]).result()
        sentence = said.get(timeout=NAMED_SECONDS)
        assert time.monotonic() - started < NAMED_SECONDS
        assert f"the user '{KAFKA_USER}' or its password" in sentence
        assert "sasl.username and sasl.password" in sentence
        assert str(path) in sentence
        assert "guess" not in caplog.text
        assert log.lag()[0] == 1
    finally:
        logging.getLogger("feedback").removeHandler(listener)
        log.close()
    log = opened(files.sasl("SCRAM-SHA-512"), topic)
    records, _ = log.read([topic], {}, wait_seconds=30.0)
    log.close()
    assert [record.value for record in records] == [b"kept"]


def said_of(path: Path) -> str:
    """What an operator reads of a broker that refuses these settings."""
    with pytest.raises(KafkaRefused) as caught:
        KafkaTopics(read_kafka(str(path)), {"nothing": 1}).found()
    said = str(caught.value)
    assert said.count(str(path)) == 1
    return said


def test_every_refusal_says_what_to_change(files: Files, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger")
    wrong_ca = said_of(files.sasl("PLAIN", PASSWORD + f"ssl.ca.location={stranger.ca}\n"))
    assert "ssl.ca.location must be who signed the broker's certificate" in wrong_ca
    token = said_of(files.token("guess"))
    assert "answers 401" in token
    assert "sasl.oauthbearer.client.id and .secret" in token
    assert "client certificate" in said_of(files.certificate(f"ssl.ca.location={files.authority.ca}\n"))
    assert "one without TLS" in said_of(files.sasl("PLAIN", bootstrap=files.server.bootstrap))
    unknown = said_of(files.sasl("PLAIN", PASSWORD.replace("username=", "username=no-")))
    assert f"the user 'no-{KAFKA_USER}' or its password" in unknown


def test_a_broker_that_is_away_is_not_one_that_refuses(tmp_path: Path) -> None:
    with pytest.raises(KafkaError) as caught:
        KafkaTopics(KafkaSettings("127.0.0.1:1"), {"nothing": 1}).found()
    assert not isinstance(caught.value, KafkaRefused)
