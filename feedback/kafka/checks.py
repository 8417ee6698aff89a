"""Checks of a topic that exists, and of what a broker's refusal of a client means: pure functions."""

from collections.abc import Mapping
from typing import NamedTuple

from kafka.errors import (
    ClusterAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailedError,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)

from feedback.core.events import RELEASES
from feedback.kafka.oauth import TokenRefused
from feedback.kafka.settings import KafkaSettings

MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # twice the largest value that an outbox accepts

CHECKED = ("cleanup.policy", "min.insync.replicas", "max.message.bytes", "retention.ms", "retention.bytes")
"""The settings of a topic that are looked at."""


class KafkaRefused(KafkaError):  # type: ignore[misc]  # kafka-python has no types
    """The broker answers, and does not do what is asked; the message says what to change."""


class Topic(NamedTuple):
    """A topic as the broker describes it. `identity` tells it from another of its name; 0: not known."""

    partitions: int
    replicas: int
    identity: int


def unfit(name: str, topic: Topic, configs: Mapping[str, str]) -> str | None:
    """Why nothing must be written to a topic, or nothing can be; None where it is fit."""
    if "compact" in configs.get("cleanup.policy", ""):
        return (
            f"topic {name} has cleanup.policy={configs['cleanup.policy']}: compaction keeps one record of a "
            "conversation and deletes its other votes; set cleanup.policy=delete"
        )
    needed = int(configs.get("min.insync.replicas", 1))
    if needed > topic.replicas:
        return (
            f"topic {name} has min.insync.replicas={needed} and {topic.replicas} replicas, so every write is "
            "refused; lower the one or add replicas"
        )
    return None


def doubts(name: str, topic: Topic, configs: Mapping[str, str], settings: KafkaSettings) -> list[str]:
    """What an operator should know of a topic that is used as it is."""
    if not configs:
        return [f"the settings of topic {name} cannot be checked: DescribeConfigs is not allowed on it"]
    found = []
    needed, asked = int(configs.get("min.insync.replicas", 1)), settings.min_insync
    if asked is not None and needed < asked:
        found.append(
            f"topic {name} has min.insync.replicas={needed}, and topic.min.insync.replicas asks for {asked}: "
            "a broker that dies may take acknowledged votes with it; change the topic"
        )
    if settings.replication > topic.replicas:
        found.append(
            f"topic {name} has {topic.replicas} replicas, and topic.replication.factor asks for "
            f"{settings.replication}; change the topic"
        )
    largest = int(configs.get("max.message.bytes", MAX_MESSAGE_BYTES))
    if largest < MAX_MESSAGE_BYTES:
        found.append(
            f"topic {name} has max.message.bytes={largest}: larger events are set aside in the outbox (table "
            f"refused); set it to {MAX_MESSAGE_BYTES}"
        )
    ends = [f"{key}={configs[key]}" for key in CHECKED[3:] if configs.get(key, "-1") != "-1"]
    if name == settings.prefix + RELEASES and ends:
        found.append(
            f"topic {name} has {', '.join(ends)}: the state of releases is replayed from it, and it would be "
            "lost; set retention.ms=-1 and retention.bytes=-1"
        )
    return found


def explained(error: BaseException, settings: KafkaSettings) -> KafkaRefused | None:
    """What to change when a broker, or TLS, refuses a client; None where the broker is only away."""
    where, file = settings.bootstrap, _file(settings)
    user = settings.connection.get("sasl_plain_username")
    told = str(error.args[0]) if error.args else str(error)
    if isinstance(error, TokenRefused):
        return KafkaRefused(f"{told} in {file}")
    if isinstance(error, SaslAuthenticationFailedError):
        whom, names = _credentials(settings)
        return KafkaRefused(f"Kafka at {where} refuses {whom} ({told}); change {names} in {file}")
    if isinstance(error, UnsupportedSaslMechanismError):
        return KafkaRefused(f"Kafka at {where} refuses sasl.mechanism ({told}); change it in {file}")
    if isinstance(error, IllegalSaslStateError):
        return KafkaRefused(f"Kafka at {where} does not ask for SASL; change security.protocol in {file}")
    if isinstance(error, TopicAuthorizationFailedError | ClusterAuthorizationFailedError):
        who = f"the user {user!r}" if user is not None else "this client"
        return KafkaRefused(
            f"Kafka at {where} does not allow {who} what it needs ({told}): Describe, DescribeConfigs, Read "
            f"and Write on topics {settings.prefix}*, and Create where they are missing"
        )
    if "Handshake failed" in told or "[SSL:" in told:
        return KafkaRefused(f"no TLS with Kafka at {where} ({told}); {_tls_remedy(told)} in {file}")
    return None


def closed_at_login(error: BaseException, settings: KafkaSettings) -> KafkaRefused | None:
    """What to change when every login ends with a closed connection.

    Brokers refuse a login and close the connection at once, and kafka-python loses the refusal where it
    comes together with the close.
    """
    told = str(error.args[0]) if error.args else str(error)
    if told != "socket disconnected" or "sasl_mechanism" not in settings.connection:
        return None
    whom, names = _credentials(settings)
    return KafkaRefused(
        f"Kafka at {settings.bootstrap} closes the connection at the login, as it does when it refuses "
        f"{whom}; change {names} in {_file(settings)}"
    )


def _file(settings: KafkaSettings) -> str:
    return str(settings.file or "a file of client settings (--kafka FILE)")


def _credentials(settings: KafkaSettings) -> tuple[str, str]:
    """Who logs in, and by which settings."""
    user = settings.connection.get("sasl_plain_username")
    if user is None:
        return "the token", "sasl.oauthbearer.*"
    return f"the user {user!r} or its password", "sasl.username and sasl.password"


def _tls_remedy(told: str) -> str:
    if "ALERT" in told:
        return "the broker wants a client certificate, or another one; see ssl.certificate.location"
    if "CERTIFICATE_VERIFY_FAILED" in told and "ostname" not in told and "IP address" not in told:
        return "ssl.ca.location must be who signed the broker's certificate; change it"
    if "CERTIFICATE_VERIFY_FAILED" in told:
        return "the certificate is for other names; mend it, or bootstrap.servers"
    return "it is stopping, or the port is one without TLS: see security.protocol"
