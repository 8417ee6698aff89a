"""The topics on the broker: made when they are missing, checked when they exist, and what each is."""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaConnectionError, KafkaError, TopicAlreadyExistsError, for_code
from kafka.net.compat import KafkaNetClient

from feedback.core.events import COMPLETIONS, FEEDBACK, RELEASES, UPDATES
from feedback.kafka.checks import (
    CHECKED,
    MAX_MESSAGE_BYTES,
    KafkaRefused,
    Topic,
    closed_at_login,
    doubts,
    explained,
    unfit,
)
from feedback.kafka.settings import KafkaSettings

logger = logging.getLogger(__name__)

# Same key, same count, same partition: a conversation's feedback is beside its completions.
PARTITIONS: Mapping[str, int] = {COMPLETIONS: 4, FEEDBACK: 4, RELEASES: 1, UPDATES: 1}

# Giving a version keeps kafka-python's constructors from blocking until a broker answers; an older
# broker (2.8 and up work) lowers it by itself. A topic is made by `KafkaTopics` or not at all.
CLIENT: Mapping[str, Any] = {
    "api_version": (4, 1),
    "allow_auto_create_topics": False,
    "reconnect_backoff_max_ms": 1000,
    "request_timeout_ms": 10_000,
}

_MONTH_MS = 30 * 24 * 3600 * 1000
_FRESH_SECONDS = 60.0  # so long a topic that was made anew may go unnoticed
_ANSWER_SECONDS = 2.0
_LOGINS = 3  # to find out why none succeeds
_IDENTITY_BITS = 48  # of a topic's UUID: any file and JSON reader can hold such a number


class KafkaTopics:
    """The topics that this service needs. `wanted`: topic -> partitions, used when the topic is missing.

    Releases are kept for ever, because replaying them is how the state comes back; the others for 30 days.
    Topics that exist stay as their operator made them; one in which votes would be lost is refused. Names are
    without the prefix, but for those that go to the broker (`on_broker`).
    """

    def __init__(self, settings: KafkaSettings, wanted: Mapping[str, int] = PARTITIONS) -> None:
        self.settings = settings
        self.bootstrap = settings.bootstrap
        several = settings.partitions
        self.wanted = {topic: (several or n) if n > 1 else n for topic, n in wanted.items()}
        self._lock = threading.Lock()
        self._found: dict[str, Topic] = {}
        self._fresh_until = 0.0
        self._doubted: set[str] = set()

    def client(self) -> dict[str, Any]:
        """What every client of kafka-python is told."""
        return {**CLIENT, **self.settings.connection, "bootstrap_servers": self.bootstrap}

    def on_broker(self, topic: str) -> str:
        """A topic's name there."""
        return self.settings.prefix + topic

    def found(self) -> dict[str, Topic]:
        """What each topic is, asked of the broker every minute.

        Makes the topics that are missing. Raises `KafkaError` when the broker does not answer, and
        `KafkaRefused`, which says what to change, when it refuses or a topic must not be used.
        """
        with self._lock:
            if time.monotonic() > self._fresh_until:
                self._found = self._ensure()
                self._fresh_until = time.monotonic() + _FRESH_SECONDS
            return self._found

    def refresh(self) -> None:
        """Ask the broker again the next time: something did not work."""
        self._fresh_until = 0.0

    def refusal(self) -> KafkaRefused | None:
        """Why the broker refuses this client now, None where it does not or is away."""
        self.refresh()
        try:
            self.found()
        except KafkaError as error:
            return error if isinstance(error, KafkaRefused) else None
        return None

    def answers(self) -> bool:
        """Whether any broker of the list accepts a connection."""
        for address in self.settings.addresses:
            with contextlib.suppress(OSError):
                socket.create_connection(address, timeout=_ANSWER_SECONDS).close()
                return True
        return False

    def _ensure(self) -> dict[str, Topic]:
        if not self.answers():
            raise KafkaConnectionError(f"no broker accepts a connection at {self.bootstrap}")
        try:
            with _admin(self.settings) as admin:
                there = self._describe(admin)
                missing = self.wanted.keys() - there.keys()
                if missing:
                    self._create(admin, {topic: self.wanted[topic] for topic in missing})
                    there = self._describe(admin)
                self._check(there, self._configs(admin, there))
                return there
        except KafkaRefused:
            raise
        except KafkaError as error:
            if (refused := explained(error, self.settings)) is None:
                raise
            raise refused from error

    def _describe(self, admin: Any) -> dict[str, Topic]:
        ours = {self.on_broker(topic): topic for topic in self.wanted}
        return {
            ours[told["name"]]: Topic(
                partitions=len(told["partitions"]),
                replicas=min((len(part["replica_nodes"]) for part in told["partitions"]), default=0),
                identity=UUID(told["topic_id"]).int % 2**_IDENTITY_BITS if told.get("topic_id") else 0,
            )
            for told in admin.describe_topics(list(ours))
            if told["error_code"] == 0
        }

    def _create(self, admin: Any, topics: Mapping[str, int]) -> None:
        configs = {"max.message.bytes": str(MAX_MESSAGE_BYTES), "cleanup.policy": "delete"}
        if self.settings.min_insync is not None:
            configs["min.insync.replicas"] = str(self.settings.min_insync)
        specs = {
            self.on_broker(topic): {
                "num_partitions": count,
                "replication_factor": self.settings.replication,
                "configs": configs | {"retention.ms": "-1" if topic == RELEASES else str(_MONTH_MS)},
            }
            for topic, count in topics.items()
        }
        for made in admin.create_topics(specs, raise_errors=False)["topics"]:
            error = for_code(made["error_code"])
            if made["error_code"] != 0 and error is not TopicAlreadyExistsError:
                raise error(f"cannot create topic {made['name']}: {made['error_message']}")
        admin.wait_for_topics(list(specs))

    def _configs(self, admin: Any, topics: Mapping[str, Topic]) -> dict[str, dict[str, str]]:
        asked = [ConfigResource(ConfigResourceType.TOPIC, self.on_broker(t), list(CHECKED)) for t in topics]
        told = admin.describe_configs(asked, config_filter="all").get("topic", {})
        return {
            topic: {key: each["value"] for key, each in told.get(self.on_broker(topic), {}).items()}
            for topic in topics
        }

    def _check(self, there: Mapping[str, Topic], configs: Mapping[str, Mapping[str, str]]) -> None:
        """Tell once what is odd. Raises `KafkaRefused` for a topic that must not be used."""
        for topic, found in there.items():
            name = self.on_broker(topic)
            if (reason := unfit(name, found, configs[topic])) is not None:
                raise KafkaRefused(reason)
            for doubt in doubts(name, found, configs[topic], self.settings):
                if doubt not in self._doubted:
                    self._doubted.add(doubt)
                    logger.warning("%s", doubt)


@contextlib.contextmanager
def _admin(settings: KafkaSettings) -> Iterator[Any]:
    networks = []

    def network(**given: Any) -> Any:
        networks.append(KafkaNetClient(**given))
        return networks[-1]

    told = {**settings.connection, "bootstrap_servers": settings.bootstrap}
    told["request_timeout_ms"] = CLIENT["request_timeout_ms"]
    timeout_ms = int(_ANSWER_SECONDS * 1000)
    try:
        admin = KafkaAdminClient(**told, bootstrap_timeout_ms=timeout_ms, kafka_client=network)
    except KafkaError as error:
        refused = _refusal(networks[-1], settings) if networks else None
        for client in networks:  # the constructor leaves its network thread running when it raises
            client.close()
        if refused is None:
            raise
        raise refused from error
    try:
        yield admin
    finally:
        admin.close()


def _refusal(client: Any, settings: KafkaSettings) -> KafkaRefused | None:
    """Why a client could not begin: its own word is only that the time is over."""
    manager = client._manager
    closed = None

    async def connect(node: str) -> None:
        await manager.get_connection(node, timeout_ms=_ANSWER_SECONDS * 1000, refresh_metadata_on_err=False)

    brokers = [broker.node_id for broker in manager.cluster.bootstrap_brokers()]
    for broker in brokers * _LOGINS:
        manager.reset_backoff(broker)
        try:
            manager.run(connect, broker)
        except Exception as error:  # the client lets through what a token provider raises
            if (refused := explained(error, settings)) is not None:
                return refused
            closed = closed or closed_at_login(error, settings)
            if closed is None:
                break  # it is away
    return closed
