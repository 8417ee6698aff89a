"""The topics on the broker: made when they are missing, and how many partitions each has."""

import contextlib
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaConnectionError, KafkaError, TopicAlreadyExistsError, for_code
from kafka.net.compat import KafkaNetClient

from feedback.events import COMPLETIONS, FEEDBACK, RELEASES, UPDATES

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
MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # twice the largest value that an outbox accepts

_MONTH_MS = 30 * 24 * 3600 * 1000
_FRESH_SECONDS = 300.0
_ANSWER_SECONDS = 2.0


class KafkaTopics:
    """The topics that this service needs. `wanted`: topic -> partitions, used when the topic is missing.

    Releases are kept for ever, because replaying them is how the state comes back; the others for 30 days.
    Topics that exist stay as their operator made them.
    """

    def __init__(self, bootstrap: str, wanted: Mapping[str, int] = PARTITIONS) -> None:
        self.bootstrap = bootstrap
        self.wanted = dict(wanted)
        self._lock = threading.Lock()
        self._partitions: dict[str, int] = {}
        self._fresh_until = 0.0

    def partitions(self) -> dict[str, int]:
        """Topic -> its number of partitions, asked of the broker every five minutes.

        Makes the topics that are missing. Raises `KafkaError` when the broker does not answer or refuses.
        """
        with self._lock:
            if time.monotonic() > self._fresh_until:
                self._partitions = self._ensure()
                self._fresh_until = time.monotonic() + _FRESH_SECONDS
            return self._partitions

    def refresh(self) -> None:
        """Ask the broker again the next time: something did not work."""
        self._fresh_until = 0.0

    def answers(self) -> bool:
        """Whether any broker of the list accepts a connection."""
        for address in self.bootstrap.split(","):
            host, _, port = address.strip().rpartition(":")
            with contextlib.suppress(OSError):
                socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
                return True
        return False

    def _ensure(self) -> dict[str, int]:
        if not self.answers():
            raise KafkaConnectionError(f"no broker accepts a connection at {self.bootstrap}")
        with _admin(self.bootstrap) as admin:
            found = self._describe(admin)
            missing = self.wanted.keys() - found.keys()
            if missing:
                _create(admin, {topic: self.wanted[topic] for topic in missing})
                found = self._describe(admin)
            return found

    def _describe(self, admin: Any) -> dict[str, int]:
        topics = admin.describe_topics(list(self.wanted))
        return {topic["name"]: len(topic["partitions"]) for topic in topics if topic["error_code"] == 0}


def _create(admin: Any, topics: Mapping[str, int]) -> None:
    specs = {
        topic: {
            "num_partitions": count,
            "replication_factor": -1,  # the broker's default
            "configs": {
                "max.message.bytes": str(MAX_MESSAGE_BYTES),
                "retention.ms": "-1" if topic == RELEASES else str(_MONTH_MS),
            },
        }
        for topic, count in topics.items()
    }
    for made in admin.create_topics(specs, raise_errors=False)["topics"]:
        error = for_code(made["error_code"])
        if made["error_code"] != 0 and error is not TopicAlreadyExistsError:
            raise error(f"cannot create topic {made['name']}: {made['error_message']}")
    admin.wait_for_topics(list(topics))


@contextlib.contextmanager
def _admin(bootstrap: str) -> Any:
    networks = []

    def network(**settings: Any) -> Any:
        networks.append(KafkaNetClient(**settings))
        return networks[-1]

    settings = {"bootstrap_servers": bootstrap, "request_timeout_ms": CLIENT["request_timeout_ms"]}
    timeout_ms = int(_ANSWER_SECONDS * 1000)
    try:
        admin = KafkaAdminClient(**settings, bootstrap_timeout_ms=timeout_ms, kafka_client=network)
    except KafkaError:
        for client in networks:  # the constructor leaves its network thread running when it raises
            client.close()
        raise
    try:
        yield admin
    finally:
        admin.close()
