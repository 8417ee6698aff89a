"""Metrics of names behind which engines are looked up."""

from prometheus_client import CollectorRegistry, Gauge

from deploy.engines.discovery import Discovery


class LookupMetrics:
    """Whether names can be looked up by one process, in its registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.failed = Gauge(
            "hearken_engine_lookup_failed",
            "1 while the addresses behind a name of engines cannot be looked up; those that are known stay",
            ["name"],
            registry=registry,
        )

    def show(self, discovery: Discovery) -> None:
        """Show what came of the last look-ups."""
        problems = discovery.problems
        for name in discovery.names:
            self.failed.labels(name).set(name in problems)
