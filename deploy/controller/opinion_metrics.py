"""Prometheus metrics of what users think of the version on trial."""

import math
from dataclasses import asdict

from prometheus_client import CollectorRegistry, Gauge

from deploy.evidence.preference import Reading
from deploy.reports.opinions import estimates

BOUNDS = ("low", "value", "high")


class OpinionMetrics:
    """A mean of each kind, with the interval that holds at every look; NaN where nobody said so."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.preferred = Gauge(
            "hearken_canary_preferred_ratio",
            "Share for the canary of those who compared both, with the interval that holds at every look",
            ["bound"],
            registry=registry,
        )
        self.thumbs = Gauge(
            "hearken_canary_thumbs_difference",
            "Mean thumb of the canary less that of matched users of the control, with the interval",
            ["bound"],
            registry=registry,
        )

    def show(self, reading: Reading) -> None:
        """Show what evidence says."""
        for gauge, found in zip((self.preferred, self.thumbs), estimates(asdict(reading)), strict=True):
            for bound in BOUNDS:
                gauge.labels(bound).set(math.nan if found is None else getattr(found, bound))
