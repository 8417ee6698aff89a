"""Topics of a Kafka cluster, made before anything writes to them, with as many copies as are asked for."""

import sys
from dataclasses import replace

from kafka.errors import KafkaError

from feedback.kafka.checks import KafkaRefused
from feedback.kafka.settings import KafkaSettingsError, read_kafka
from feedback.kafka.topics import KafkaTopics
from hearken.base.errors import UsageError


def make(kafka: str | None, partitions: int | None, replication: int | None) -> int:
    """Make the topics that are missing and print what each is; the exit code.

    partitions, replication: of topics that are made; None: as the file of client settings says. Raises
    UsageError.
    """
    if kafka is None:
        raise UsageError("--kafka is needed: HOST:PORT[,HOST:PORT...] or a file of client settings")
    for name, number in (("--partitions", partitions), ("--replication", replication)):
        if number == 0:
            raise UsageError(f"{name} is 0; it has to be 1 or more")
    try:
        settings = read_kafka(kafka)
    except KafkaSettingsError as error:
        raise UsageError(str(error)) from error
    if partitions is not None:
        settings = replace(settings, partitions=partitions)
    if replication is not None:
        settings = replace(settings, replication=replication)
    topics = KafkaTopics(settings)
    try:
        found = topics.found()
    except KafkaRefused as refused:
        print(f"hearken: {refused}", file=sys.stderr)
        return 1
    except KafkaError as error:
        print(f"hearken: no broker at {settings.bootstrap} made or told the topics: {error}", file=sys.stderr)
        return 1
    for name, topic in sorted(found.items()):
        told = f"{topic.partitions} partitions, {topic.replicas} copies of each"
        print(f"{topics.on_broker(name):<24} {told}")
    return 0
