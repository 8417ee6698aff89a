"""The file of client settings: what is read from it, and what is said of what cannot be right."""

from pathlib import Path

import pytest

from feedback.kafka.settings import KafkaSettings, KafkaSettingsError, read_kafka
from feedback.kafka.topics import KafkaTopics
from tests.certificates import Authority

PLAIN = "bootstrap.servers=a:1\n"
SASL = PLAIN + "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.username=u\nsasl.password=p\n"
TLS = PLAIN + "security.protocol=SSL\n"
OAUTH = PLAIN + "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=OAUTHBEARER\n"


def read(folder: Path, text: str) -> KafkaSettings:
    (folder / "client.properties").write_text(text)
    return read_kafka(str(folder / "client.properties"))


@pytest.mark.parametrize(
    ("told", "addresses"),
    [
        ("localhost:9092", [("localhost", 9092)]),
        ("k-0.k.svc:9092,k-1:9093", [("k-0.k.svc", 9092), ("k-1", 9093)]),
        ("[::1]:9092", [("::1", 9092)]),
    ],
)
def test_addresses_need_no_file(told: str, addresses: list[tuple[str, int]]) -> None:
    settings = read_kafka(told)
    assert settings == KafkaSettings(told)
    assert settings.addresses == addresses


def test_everything_that_a_file_says_arrives(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.signed("client", "DNS:client", password="locked=2")
    settings = read(
        tmp_path,
        """
        # a comment
        bootstrap.servers = a:1,b:2
        security.protocol=SASL_SSL
        sasl.mechanism=SCRAM-SHA-512
        sasl.username=hearken
        sasl.password=a=b # no comment
        ssl.ca.location=ca.pem
        ssl.certificate.location=client.pem
        ssl.key.location=client.locked.key
        ssl.key.password=locked=2
        ssl.endpoint.identification.algorithm=none
        topic.prefix=chat.
        topic.partitions=12
        topic.replication.factor=3
        topic.min.insync.replicas=2
        compression.type=gzip
        """,
    )
    assert settings.connection == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "hearken",
        "sasl_plain_password": "a=b # no comment",
        "ssl_check_hostname": False,
        "ssl_cafile": str(tmp_path / "ca.pem"),
        "ssl_certfile": str(tmp_path / "client.pem"),
        "ssl_keyfile": str(tmp_path / "client.locked.key"),
        "ssl_password": "locked=2",
    }
    assert (settings.bootstrap, settings.prefix, settings.compression) == ("a:1,b:2", "chat.", "gzip")
    assert (settings.partitions, settings.replication, settings.min_insync) == (12, 3, 2)
    assert "a=b" not in repr(settings)
    topics = KafkaTopics(settings)
    assert topics.wanted == {"completions": 12, "feedback": 12, "releases": 1, "updates": 1}
    assert topics.on_broker("feedback") == "chat.feedback"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file needs bootstrap.servers"),
        ("bootstrap.servers=a", "bootstrap.servers=a: write HOST:PORT[,HOST:PORT...]"),
        (
            PLAIN + "sasl.user=u",
            "client.properties:2: no setting is called sasl.user; did you mean",
        ),
        (PLAIN + "group.id", "client.properties:2: write NAME=VALUE"),
        (PLAIN + "sasl.jaas.config=x", "is for clients in Java; write sasl.username and sasl.password"),
        (PLAIN + "ssl.truststore.location=x", "is for clients in Java; write ssl.ca.location, a PEM file"),
        (
            PLAIN + "sasl.password=secret",
            "it needs security.protocol=SASL_PLAINTEXT or SASL_SSL",
        ),
        (SASL + "ssl.ca.location=x", "ssl.ca.location: it needs security.protocol=SSL or SASL_SSL"),
        (PLAIN + "security.protocol=TLS", "it must be one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
        (SASL.replace("=PLAIN\n", "=GSSAPI\n"), "it must be one of PLAIN, SCRAM-SHA-256"),
        (SASL.replace("sasl.password=p", ""), "sasl.mechanism=PLAIN needs sasl.password"),
        (OAUTH, "sasl.mechanism=OAUTHBEARER needs sasl.oauthbearer.token.endpoint.url"),
        (TLS + "ssl.ca.location=gone.pem", "ssl.ca.location=gone.pem: there is no file"),
        (TLS + "ssl.ca.location=client.properties", "it holds no certificates in PEM"),
        (TLS + "ssl.key.location=client.properties", "it needs ssl.certificate.location"),
        (PLAIN + "topic.prefix=chat service", "letters, digits, '.', '_' and '-' may be in it"),
        (PLAIN + "topic.partitions=0", "it must be a number from 1 to 10000"),
        (PLAIN + "compression.type=lz5", "it must be one of none, gzip, zstd"),
    ],
)
def test_what_cannot_be_right_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(KafkaSettingsError) as caught:
        read(tmp_path, text)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_key_that_its_password_does_not_open_is_said(tmp_path: Path) -> None:
    Authority(tmp_path).signed("client", "DNS:client", password="locked")
    pair = "ssl.certificate.location=client.pem\nssl.key.location=client.locked.key\n"
    for password in ("", "ssl.key.password=wrong"):
        with pytest.raises(KafkaSettingsError, match=r"ssl\.key\.password is wrong"):
            read(tmp_path, TLS + pair + password)


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(KafkaSettingsError, match="neither HOST:PORT, such as localhost:9092, nor a file"):
        read_kafka("localhost")
    with pytest.raises(KafkaSettingsError, match="cannot be read"):
        read_kafka(str(tmp_path))
