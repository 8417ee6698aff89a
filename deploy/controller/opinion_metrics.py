"""Prometheus metrics of what users think of the version on trial."""

import math
from dataclasses import asdict

from prometheus_client import CollectorRegistry, Gauge

from deploy.evidence.preference import Reading, votes_needed
from deploy.reports.opinions import estimates

BOUNDS = ("low", "value", "high")


class OpinionMetrics:
    """A mean of each kind, with the interval that holds at every look; NaN where nobody said so.

    promote_bound: of evidence, from which on a version may be promoted.
    """

    def __init__(self, registry: CollectorRegistry, promote_bound: float) -> None:
        self._promote_bound = promote_bound
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

        self.votes_needed = Gauge(
            "hearken_canary_votes_needed",
            "About how many more users have to vote for a promotion; NaN where that cannot be foreseen",
            registry=registry,
        )

    def show(self, reading: Reading, *, on_trial: bool) -> None:
        """Show what evidence says. on_trial: whether it is about a version that may be promoted."""
        for gauge, found in zip((self.preferred, self.thumbs), estimates(asdict(reading)), strict=True):
            for bound in BOUNDS:
                gauge.labels(bound).set(math.nan if found is None else getattr(found, bound))
        foreseen = on_trial and math.isfinite(self._promote_bound)
        needed = votes_needed(reading, self._promote_bound) if foreseen else None
        self.votes_needed.set(math.nan if needed is None else needed)
