"""Runs a controller: what it is wired from, and the loop around it."""

import gc
import hashlib
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from deploy.controller.courier import ANSWER_SECONDS, Courier
from deploy.controller.http import answering
from deploy.controller.leading import Alone, Leadership, Lease
from deploy.controller.loop import Controller
from deploy.controller.metrics import ControllerMetrics
from deploy.controller.webhooks import load_secrets
from deploy.engines.client import EngineClient
from deploy.engines.discovery import Discovery
from deploy.engines.fleet import Fleet
from deploy.registry.errors import RegistryAway
from deploy.registry.registries import open_registry
from deploy.settings import ControllerSettings
from feedback.core.files import Held, only_one
from feedback.core.log import EventLog, LogError
from feedback.core.secret import load_secret
from feedback.opening import open_log, open_shared

logger = logging.getLogger(__name__)

ENGINE_TIMEOUT_SECONDS = 30.0
"""How long an engine that hangs can keep the controller from everything else."""

COLLECTING = (50_000, 20, 100)
"""Python's garbage collection. Reading a long stage makes millions of small objects that stay: to look at the
young ones every 700, as is the default, was a third of its time."""


class AlreadyRunning(Exception):
    """Another controller runs on this data folder."""


def run(settings: ControllerSettings) -> None:
    """Run until SIGTERM or SIGINT.

    Raises `AlreadyRunning`, `LogUnavailable` where it cannot write, and `NoSecret` as `work` does.
    """
    stop = threading.Event()
    gc.set_threshold(*COLLECTING)
    with _alone(settings.data):
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: stop.set())
        work(settings, open_log(settings.data, settings.kafka, "controller"), stop)


def work(settings: ControllerSettings, log: EventLog, stop: threading.Event) -> None:
    """Control releases on a log, which is closed at the end, until `stop`.

    With Redis there may be several controllers on one log, of which one leads. Without it the caller sees to
    it that there is one. Raises `NoSecret` where there are webhooks and nothing to sign them with.
    """
    with ExitStack() as ends:
        ends.callback(log.close)
        secrets = load_secrets(settings.webhook_secret_file) if settings.webhooks else ()
        shared = open_shared(settings.data, settings.redis)
        ends.callback(shared.close)
        registry = open_registry(settings.data, settings.registry, settings.registry_copies)
        discovery = Discovery(settings.engines)
        if discovery.names:
            ends.enter_context(_at_work(discovery, "lookup"))
        metrics = ControllerMetrics(settings)
        fleet = Fleet(
            (),
            registry,
            settings.parity_limits,
            _own_name(settings.data),
            fetch_port=settings.fetch_port,
            discovery=discovery,
            connect=partial(EngineClient, timeout=ENGINE_TIMEOUT_SECONDS),
            loaded=metrics.swap_seconds.observe,
        )
        ends.callback(fleet.close)
        leadership: Leadership = Alone()
        if settings.redis is not None:
            leadership = ends.enter_context(Lease(shared, _service(settings.data)))
        secret = load_secret(settings.data / "secret")
        controller = Controller(log, registry, fleet, settings, metrics, shared, leadership, secret=secret)
        address = settings.metrics_host, settings.metrics_port
        ends.enter_context(answering(metrics.registry, lambda: controller.is_ready, *address))
        for url in settings.webhooks:
            patience, counter = settings.webhook_patience_seconds, metrics.webhooks
            courier = Courier(log, url, secrets, patience, lambda: controller.leads, counter)
            ends.enter_context(_at_work(courier, "webhook"))
        while not stop.is_set():
            try:
                controller.tick()
                controller.wait(settings.poll_seconds)
            except LogError as error:
                logger.warning("the log is away, trying again: %s", error)
                stop.wait(settings.poll_seconds)
            except RegistryAway:  # which was told when it went away
                stop.wait(settings.poll_seconds)


@contextmanager
def _alone(data: Path) -> Iterator[None]:
    """Hold the folder's controller lock. Raises `AlreadyRunning`."""
    try:
        with only_one(data / "controller.lock"):
            yield
    except Held as held:
        raise AlreadyRunning(
            f"another controller runs on {data} (process {held.holder}); stop it first"
        ) from None


class _Works(Protocol):
    def run(self, stop: threading.Event) -> None:
        """Work until `stop`."""
        ...


@contextmanager
def _at_work(worker: _Works, name: str) -> Iterator[None]:
    """Let something work beside the controller, in a thread that ends before the log is closed."""
    stop = threading.Event()
    thread = threading.Thread(target=worker.run, args=[stop], name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(ANSWER_SECONDS)


def _own_name(data: Path) -> str:
    """Six hexadecimal digits of a folder's controllers: one that follows a dead one tidies up for it."""
    return hashlib.sha256(load_secret(data / "controller.id")).hexdigest()[:6]


def _service(data: Path) -> str:
    """A name that the controllers of one service share, and no other's on the same Redis has."""
    return hashlib.sha256(b"lease" + load_secret(data / "secret")).hexdigest()[:12]
