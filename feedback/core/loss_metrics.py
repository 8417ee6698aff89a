"""Metrics of records that were lost before they were read."""

from collections import Counter as Tally

from prometheus_client import CollectorRegistry, Counter, Gauge

from feedback.core.log import EventLog
from feedback.core.losses import Losses


class LossMetrics:
    """The losses of one process, by topic, in its registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.lost = Counter(
            "hearken_log_lost_records",
            "Records that were gone from Kafka before they were read here, at least so many",
            ["topic"],
            registry=registry,
        )
        self.standing = Gauge(
            "hearken_log_loss_standing",
            "1 for each loss at which reading stands still until it is accepted",
            ["topic", "reason"],
            registry=registry,
        )
        self._shown: Tally[str] = Tally()

    def show(self, log: EventLog) -> None:
        """Show what a log's readers met by now."""
        losses: Losses | None = getattr(log, "losses", None)  # only a log with Kafka behind it has them
        if losses is None:
            return
        for topic, records in losses.lost().items():
            self.lost.labels(topic).inc(records - self._shown[topic])
            self._shown[topic] = records
        self.standing.clear()
        for topic, reason in losses.standing():
            self.standing.labels(topic, reason).set(1)
