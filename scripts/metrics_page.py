"""Writes docs/metrics.md: `python scripts/metrics_page.py > docs/metrics.md`. A test holds it to that."""

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from deploy.controller.metrics import ControllerMetrics
from deploy.settings import ControllerSettings
from learner.loop.metrics import LearnerMetrics
from serve.metrics import Metrics

HEAD = """# Metrics

Each process shows its own at `/metrics`; `hearken up` prints the addresses. What to do when one of them is
wrong is in [Kubernetes](kubernetes.md#watching-it) and in
[when learning goes wrong](learning.md#when-learning-goes-wrong). Engines show vLLM's own metrics beside these
(`vllm:...`), and every gateway those of its Python process (`process_...`, `python_...`). A histogram `NAME`
is read as `NAME_bucket`, `NAME_sum` and `NAME_count`.

`_ratio` is a share from 0 to 1, `_seconds` are seconds, `_nats` are nats per response; `_info` is always 1
and says the rest in its labels.
"""

PROCESSES = {
    "Gateway": lambda: Metrics().registry,
    "Controller": lambda: (
        ControllerMetrics(ControllerSettings(data=Path(), engines=("http://engine",))).registry
    ),
    "Learner": lambda: LearnerMetrics().registry,
}


def rows(registry: CollectorRegistry) -> Iterator[str]:
    """A row for each of our metrics, by name."""
    # The client has no public way to a metric that has labels and no values yet, nor to the labels.
    ours = [each for each in registry._collector_to_names if isinstance(each, MetricWrapperBase)]
    for metric in sorted(ours, key=lambda each: each._name):
        name = metric._name + ("_total" if metric._type == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in metric._labelnames)
        yield f"| `{name}` | {metric._type} | {labels} | {metric._documentation} |"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for process, registry in PROCESSES.items():
        table = ["| metric | kind | labels | what it is |", "|---|---|---|---|", *rows(registry())]
        parts.append(f"## {process}\n\n" + "\n".join(table) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
