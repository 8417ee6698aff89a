"""Prometheus metrics of the guards against forgetting, as they judged the newest candidate."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge

from deploy.guards import Guard


class GuardMetrics:
    """Instruments in the learner's registry, each by the guard's name."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"hearken_guard_{name}", text, ["guard"], registry=registry)

        self.figure = gauge("figure", "What a guard against forgetting found of the newest candidate")
        self.best = gauge("best", "The end of its interval that speaks for the candidate")
        self.limit = gauge("limit", "What that must not be past")
        self.texts = gauge("texts", "Texts or prompts that it judged by; 0 for too few of them")
        self.refusals = Counter(
            "hearken_guard_refusals", "Candidates that a guard was against", ["guard"], registry=registry
        )

    def show(self, guards: Iterable[Guard]) -> None:
        """Show what each guard found. Nothing stays of one that found nothing this time."""
        for instrument in (self.figure, self.best, self.limit, self.texts):
            instrument.clear()
        for guard in guards:
            self.limit.labels(guard.name).set(guard.limit)
            self.texts.labels(guard.name).set(0 if guard.best is None else guard.count)
            if guard.figure is not None and guard.best is not None:
                self.figure.labels(guard.name).set(guard.figure)
                self.best.labels(guard.name).set(guard.best)
            # A counter that begins at 1 has its first refusal unseen by `increase`.
            self.refusals.labels(guard.name).inc(guard.refuses)
