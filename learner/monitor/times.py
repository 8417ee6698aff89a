"""Prometheus metrics of time: how late votes come, how long a step takes, and when one was taken last."""

import math

from prometheus_client import CollectorRegistry, Gauge, Histogram

_HOUR, _DAY = 3600, 86_400
_DELAYS = (10, 60, 300, _HOUR, 6 * _HOUR, _DAY, 7 * _DAY, 30 * _DAY)
_STEPS = (1, 3, 10, 30, 60, 180, 600, _HOUR)


class Times:
    """Instruments in the learner's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        told = "From an answer to a vote on it"
        self.feedback_delay = Histogram(
            "hearken_feedback_delay_seconds", told, (), buckets=_DELAYS, registry=registry
        )
        self.step = Histogram(
            "hearken_step_seconds", "A step of the optimiser", (), buckets=_STEPS, registry=registry
        )
        self.last_step = Gauge(
            "hearken_learner_last_step_timestamp_seconds",
            "Unix time of the newest step of the optimiser, since the process began",
            registry=registry,
        )
        self.last_step.set(math.nan)
