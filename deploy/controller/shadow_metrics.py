"""What a shadow came to, as Prometheus metrics."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from deploy.guards import Guard


class ShadowMetrics:
    """The metrics of a controller's shadows."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"hearken_shadow_{name}", text, labels, registry=registry)

        self.prompts = gauge(
            "prompts", "Prompts of users that the shadowed candidate answered as well, 0 without one"
        )
        self.figure = gauge("figure", "What each guard of the newest shadow found", "guard")
        self.best = gauge("best", "The end of its interval that speaks for the candidate", "guard")
        self.limit = gauge("limit", "What that must not be past", "guard")
        self.refusals = Counter(
            "hearken_shadow_refusals",
            "Candidates that a guard of the shadow was against",
            ["guard"],
            registry=registry,
        )

    def show(self, guards: Sequence[Guard]) -> None:
        """Show what a shadow came to. Nothing stays of a guard that found nothing this time."""
        for instrument in (self.figure, self.best, self.limit):
            instrument.clear()
        for guard in guards:
            self.limit.labels(guard.name).set(guard.limit)
            if guard.figure is not None and guard.best is not None:
                self.figure.labels(guard.name).set(guard.figure)
                self.best.labels(guard.name).set(guard.best)
            # A counter that begins at 1 has its first refusal unseen by `increase`.
            self.refusals.labels(guard.name).inc(guard.refuses)
