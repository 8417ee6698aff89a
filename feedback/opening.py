"""Which log a process uses: the one place that knows of both kinds."""

from pathlib import Path

from feedback.log import EventLog
from feedback.sqlite_log import SqliteLog


def open_log(data: Path, kafka: str | None, role: str) -> EventLog:
    """The log of a process. `kafka`: bootstrap servers ("host:port,host:port"), or None for the embedded log.

    `role` names the process ("gateway", "controller", "learner"): with Kafka each has an outbox of its own.
    Raises `LogUnavailable` when the local file cannot be opened; a broker may be away.
    """
    if kafka is None:
        return SqliteLog(data / "log.db")
    from feedback.kafka_log import KafkaLog  # only who uses Kafka loads its client

    return KafkaLog(SqliteLog(data / f"outbox-{role}.db"), kafka)
