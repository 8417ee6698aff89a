"""Which version of the code a process runs, as a metric; and what all registries of ours have in common."""

from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Gauge, disable_created_metrics


def build_info(registry: CollectorRegistry) -> Gauge:
    """`hearken_build_info` in a registry. To be called before other instruments are made.

    From then on none of the process has a series `_created` beside it, which doubles counters and says
    nothing that rate() does not.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]
    gauge = Gauge(
        "hearken_build_info", "1, with the version of the code that runs", ["version"], registry=registry
    )
    try:
        gauge.labels(version("hearken")).set(1)
    except PackageNotFoundError:  # run from its folder, without having been installed
        gauge.labels("unknown").set(1)
    return gauge
