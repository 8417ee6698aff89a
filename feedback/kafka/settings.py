"""The file of client settings: how a process reaches Kafka, and which topics are its own.

It is a properties file with the names that Kafka's clients know, and a few for the topics:

    bootstrap.servers=kafka-0.example:9093,kafka-1.example:9093
    security.protocol=SASL_SSL
    sasl.mechanism=SCRAM-SHA-512
    sasl.username=hearken
    sasl.password=...
    ssl.ca.location=ca.pem
    topic.prefix=chat.

Paths are relative to the file's folder. docs/kafka.md has all of it.
"""

import difflib
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from feedback.core.log import LogError

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
COMPRESSIONS = ("none", "gzip", "zstd")

_NEEDED_FOR = {
    "OAUTHBEARER": (
        *("sasl.oauthbearer.token.endpoint.url", "sasl.oauthbearer.client.id"),
        "sasl.oauthbearer.client.secret",
    )
}
_FILES = ("ssl.ca.location", "ssl.certificate.location", "ssl.key.location")
_NAMES = (
    *("bootstrap.servers", "security.protocol", "sasl.mechanism", "sasl.username", "sasl.password"),
    *(*_NEEDED_FOR["OAUTHBEARER"], "sasl.oauthbearer.scope"),
    *(*_FILES, "ssl.key.password", "ssl.endpoint.identification.algorithm"),
    *("compression.type", "topic.prefix", "topic.partitions", "topic.replication.factor"),
    "topic.min.insync.replicas",
)
_JAVA = {  # what clients in Java call it
    "sasl.jaas.config": "write sasl.username and sasl.password",
    "ssl.truststore.location": "write ssl.ca.location, a PEM file",
    "ssl.keystore.location": "write ssl.certificate.location and ssl.key.location, PEM files",
}
_PREFIX = re.compile(r"[A-Za-z0-9._-]{0,100}")
_ADDRESS = re.compile(r"[^/\s:,]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")


class KafkaSettingsError(LogError):
    """A file of client settings that cannot be used; the message says which line, and what would be right."""


@dataclass(frozen=True)
class KafkaSettings:
    """How to reach Kafka. `bootstrap`: "host:port,host:port".

    `connection`: what all of kafka-python's clients are told. `partitions`, `replication` (-1: the broker's
    default) and `min_insync` are for topics that are made. `file`: where it was said, for messages.
    """

    bootstrap: str
    connection: Mapping[str, Any] = field(default_factory=dict, repr=False)  # it holds the password
    prefix: str = ""
    partitions: int | None = None
    replication: int = -1
    min_insync: int | None = None
    compression: str | None = None
    file: Path | None = None

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each broker of the list."""
        found = (address.strip().rpartition(":") for address in self.bootstrap.split(","))
        return [(host.strip("[]"), int(port)) for host, _, port in found]


def read_kafka(told: str) -> KafkaSettings:
    """Settings from what `kafka` says: HOST:PORT[,HOST:PORT...], or the path of a file of client settings.

    Raises `KafkaSettingsError`.
    """
    if _is_addresses(told):
        return KafkaSettings(told)
    path = Path(told).expanduser()
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise KafkaSettingsError(
            f"{told} is neither HOST:PORT, such as localhost:9092, nor a file of client settings"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise KafkaSettingsError(f"{told} cannot be read: {error}") from error
    return _Checked(path, _parsed(path, text)).settings()


def _is_addresses(text: str) -> bool:
    return all(_ADDRESS.fullmatch(address.strip()) for address in text.split(","))


def _parsed(path: Path, text: str) -> dict[str, str]:
    """The lines of a properties file. Raises `KafkaSettingsError`."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, equals, value = (part.strip() for part in line.partition("="))
        if (not name and not equals) or line.lstrip().startswith(("#", "!")):
            continue
        if not equals:
            raise KafkaSettingsError(f"{path}:{number}: write NAME=VALUE")
        if name in _JAVA:
            raise KafkaSettingsError(f"{path}:{number}: {name} is for clients in Java; {_JAVA[name]}")
        if name not in _NAMES:
            near = difflib.get_close_matches(name, _NAMES, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise KafkaSettingsError(f"{path}:{number}: no setting is called {name}{hint}")
        found[name] = value
    return found


class _Checked:
    """The settings of one file; every method refuses what cannot be right."""

    def __init__(self, path: Path, told: Mapping[str, str]) -> None:
        self._path, self._told = path, told

    def settings(self) -> KafkaSettings:
        bootstrap = self._needed("bootstrap.servers", "the file")
        if not _is_addresses(bootstrap):
            raise self._wrong("bootstrap.servers", "write HOST:PORT[,HOST:PORT...]")
        prefix = self._told.get("topic.prefix", "")
        if not _PREFIX.fullmatch(prefix):
            raise self._wrong("topic.prefix", "letters, digits, '.', '_' and '-' may be in it, 100 at most")
        compression = self._one_of("compression.type", COMPRESSIONS, "none")
        return KafkaSettings(
            bootstrap=bootstrap,
            connection=self._connection(),
            prefix=prefix,
            partitions=self._number("topic.partitions"),
            replication=self._number("topic.replication.factor") or -1,
            min_insync=self._number("topic.min.insync.replicas"),
            compression=None if compression == "none" else self._available(compression),
            file=self._path,
        )

    def _connection(self) -> dict[str, Any]:
        protocol = self._one_of("security.protocol", PROTOCOLS, "PLAINTEXT")
        for start, part in (("sasl.", "SASL"), ("ssl.", "SSL")):
            unused = [name for name in self._told if name.startswith(start) and part not in protocol]
            if unused:
                fitting = " or ".join(each for each in PROTOCOLS if part in each)
                raise self._wrong(unused[0], f"it needs security.protocol={fitting}", show=False)
        found: dict[str, Any] = {"security_protocol": protocol}
        if "SSL" in protocol.removeprefix("SASL"):
            found |= self._tls()
        if protocol.startswith("SASL"):
            found |= self._sasl()
        return found

    def _sasl(self) -> dict[str, Any]:
        mechanism = self._one_of("sasl.mechanism", MECHANISMS, None)
        needed = _NEEDED_FOR.get(mechanism, ("sasl.username", "sasl.password"))
        values = [self._needed(name, f"sasl.mechanism={mechanism}") for name in needed]
        found: dict[str, Any] = {"sasl_mechanism": mechanism}
        if mechanism == "OAUTHBEARER":
            from feedback.kafka.oauth import ClientCredentials  # only who uses tokens loads its HTTP client

            ca = self._file("ssl.ca.location")
            scope = self._told.get("sasl.oauthbearer.scope")
            found["sasl_oauth_token_provider"] = ClientCredentials(*values, scope=scope, ca=ca)
        else:
            found["sasl_plain_username"], found["sasl_plain_password"] = values
        return found

    def _tls(self) -> dict[str, Any]:
        check = self._one_of("ssl.endpoint.identification.algorithm", ("https", "none"), "https")
        ca, certificate, key = (self._file(name) for name in _FILES)
        if key is not None and certificate is None:
            raise self._wrong("ssl.key.location", "it needs ssl.certificate.location, the key's certificate")
        password = self._told.get("ssl.key.password")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # to try them; clients read the files themselves
        try:
            if ca is not None:
                context.load_verify_locations(ca)
        except (ssl.SSLError, OSError) as error:
            raise self._wrong("ssl.ca.location", f"it holds no certificates in PEM: {error}") from error
        try:
            if certificate is not None:
                context.load_cert_chain(certificate, key, password or "")
        except (ssl.SSLError, OSError) as error:
            why = f"certificate and key do not fit, or ssl.key.password is wrong: {error}"
            raise self._wrong("ssl.certificate.location", why) from error
        return {
            "ssl_check_hostname": check == "https",
            "ssl_cafile": ca,
            "ssl_certfile": certificate,
            "ssl_keyfile": key,
            "ssl_password": password,
        }

    def _needed(self, name: str, by: str) -> str:
        if not self._told.get(name):
            raise KafkaSettingsError(f"{self._path}: {by} needs {name}")
        return self._told[name]

    def _one_of(self, name: str, values: tuple[str, ...], default: str | None) -> str:
        value = self._told.get(name, default)
        if value not in values:
            raise self._wrong(name, f"it must be one of {', '.join(values)}")
        return value

    def _number(self, name: str) -> int | None:
        value = self._told.get(name)
        if value is not None and not (value.isascii() and value.isdigit() and 1 <= int(value) <= 10_000):
            raise self._wrong(name, "it must be a number from 1 to 10000")
        return None if value is None else int(value)

    def _file(self, name: str) -> str | None:
        value = self._told.get(name)
        if value is None:
            return None
        path = self._path.parent / Path(value).expanduser()
        if not path.is_file():
            raise self._wrong(name, f"there is no file {path}")
        return str(path)

    def _available(self, compression: str) -> str:
        from kafka.codec import has_zstd

        if compression == "zstd" and not has_zstd():
            raise self._wrong("compression.type", "the package zstandard is not installed; gzip always is")
        return compression

    def _wrong(self, name: str, right: str, *, show: bool = True) -> KafkaSettingsError:
        told = f"={self._told[name]}" if show and name in self._told else ""
        return KafkaSettingsError(f"{self._path}: {name}{told}: {right}")
