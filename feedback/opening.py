"""Opening of log, shared store (there are two kinds of each) and keys of texts, as a process needs them."""

from pathlib import Path

from feedback.core.log import EventLog
from feedback.core.secret import load_secret
from feedback.privacy.sealing import Sealer
from feedback.privacy.vault import Vault
from feedback.shared import RedisStore, SharedStore, SqliteStore
from feedback.sqlite.log import SqliteLog


def open_log(data: Path, kafka: str | None, role: str) -> EventLog:
    """The log of a process. `kafka`: bootstrap servers ("host:port,host:port"), or the path of a file of
    client settings, or None for the embedded log.

    `role` names the process ("gateway", "controller", "learner"): with Kafka each has an outbox of its own.
    Raises `LogUnavailable` when the local file cannot be opened, and `KafkaSettingsError` for client settings
    that cannot be used; a broker may be away.
    """
    if kafka is None:
        return SqliteLog(data / "log.db")
    from feedback.kafka.log import KafkaLog  # only who uses Kafka loads its client
    from feedback.kafka.settings import read_kafka

    settings = read_kafka(kafka)
    return KafkaLog(SqliteLog(data / f"outbox-{role}.db"), settings)


def open_shared(data: Path, redis: str | None) -> SharedStore:
    """The shared store of a process. `redis`: its URL, or None for a file in the data folder.

    Raises `SharedUnavailable` when the file cannot be opened; a Redis may be away.
    """
    return SqliteStore(data / "shared.db") if redis is None else RedisStore(redis)


def open_sealer(data: Path) -> Sealer:
    """What seals and opens the texts of events, with the users' keys under `data / "vault"`.

    Nothing is made or looked at before it is needed. `data / "vault-id"` remembers which vault was used.
    """
    return Sealer(open_vault(data))


def open_vault(data: Path) -> Vault:
    """The users' keys of a service. `data / "vault-before"` may have those of one that moves here."""
    return Vault(data / "vault", load_secret(data / "secret"), data / "vault-id", data / "vault-before")
