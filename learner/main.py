"""The learner's process: what it waits for before and between turns, and how it ends."""

import dataclasses
import logging
import signal
import threading
from pathlib import Path

import torch
from prometheus_client import start_http_server

from deploy.engines.client import EngineClient
from deploy.engines.thoughts import thoughts_of
from deploy.registry.errors import RegistryAway
from deploy.registry.registries import open_registry
from deploy.registry.registry import Registry
from deploy.registry.s3 import Wait
from feedback.opening import open_log
from feedback.privacy.vault_keys import VaultUnavailable
from learner.loop.learner import Learner
from learner.loop.metrics import LearnerMetrics
from learner.model.machine import keep_freed_memory
from learner.model.ranks import Ranks
from learner.model.shared import SharedModel
from learner.optimisers import optimiser_of
from learner.policy.leading import dismiss, follow, keep_waiting
from learner.settings import LearnerSettings
from learner.state import checkpoint

logger = logging.getLogger("hearken.learner")

REGISTRY_RETRY_SECONDS = 5.0
"""The time between two tries to reach the registry."""


class Patience:
    """What a learner does while its registry is away: it says so and waits, for it can do nothing else.

    Called with why it is away; raises that when the learner is to stop.
    """

    def __init__(self, stop: threading.Event, metrics: LearnerMetrics, ranks: Ranks | None = None) -> None:
        self._stop, self._metrics, self._ranks = stop, metrics, ranks

    def __call__(self, why: RegistryAway) -> None:
        self._metrics.registry_away.set(1)
        if self._ranks is not None:
            keep_waiting(self._ranks)
        if self._stop.wait(REGISTRY_RETRY_SECONDS):
            raise why


def registry_of(settings: LearnerSettings, wait: Wait | None = None) -> Registry:
    """The registry of a service. wait: what is done while it is away, see `deploy.registry.s3.Bucket`."""
    return open_registry(settings.data, settings.registry, settings.registry_copies, wait=wait)


def with_rank(settings: LearnerSettings, wait: Wait | None = None) -> LearnerSettings:
    """The settings with the rank that the registry's versions need: a version 0 may have a higher one.

    Raises `RegistryAway`.
    """
    rank = registry_of(settings, wait).rank(settings.rank or 0)
    return dataclasses.replace(settings, rank=rank or None)


def prepared(settings: LearnerSettings, wait: Wait | None = None) -> LearnerSettings:
    """The settings of a learner that this process is made ready for. Raises `RegistryAway`."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    keep_freed_memory()
    return with_rank(settings, wait)


def run(settings: LearnerSettings) -> None:
    """Run a learner until SIGTERM or SIGINT; under torchrun, its part of one (see `learner.policy.leading`).

    Raises `checkpoint.LearnerBusy` when another learner has the data folder, and `RankGone` when another
    process of this one ended by itself.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    metrics = LearnerMetrics()
    try:
        settings = prepared(settings, Patience(stop, metrics))
    except RegistryAway:
        if stop.is_set():
            return
        raise
    with Ranks.join() as ranks:
        if ranks.rank:  # signals are for rank 0, which says when to end
            follow(optimiser_of(SharedModel.of(settings), settings, ranks))
        else:
            _lead(settings, ranks, stop, metrics)


def _lead(settings: LearnerSettings, ranks: Ranks, stop: threading.Event, metrics: LearnerMetrics) -> None:
    """The learner itself, until it is told to stop; then the other ranks are told as well."""
    start_http_server(settings.metrics_port, settings.metrics_host, metrics.registry)
    with checkpoint.exclusive(settings.data / "learner"):
        log = open_log(settings.data, settings.kafka, "learner")
        engine = EngineClient(settings.engine, thoughts=thoughts_of(Path(settings.model)))
        try:
            registry = registry_of(settings, Patience(stop, metrics, ranks))
            learner = Learner(settings, log, engine, registry, SharedModel.of(settings), metrics, ranks)
            _work(learner, stop)
            learner.memory.close()
            dismiss(ranks)
        finally:
            engine.close()
            log.close()


def _work(learner: Learner, stop: threading.Event) -> None:
    """Turn after turn until the learner is stopped."""
    try:
        if _resumed(learner, stop):
            while not stop.is_set():
                learner.turn(wait_seconds=1.0)
            _save_at_the_end(learner)
    except RegistryAway:
        if not stop.is_set():
            raise
        logger.warning("ending without a checkpoint of the last turn, which will be taken again")


def _resumed(learner: Learner, stop: threading.Event) -> bool:
    """Continue from the checkpoint, if there is one, once the keys of its texts are there; False when the
    learner was stopped before."""
    while not stop.is_set():
        keep_waiting(learner.optimiser.ranks)
        try:
            learner.sealer.check_vault()
        except VaultUnavailable as error:
            learner.wait_for_vault(error)
            continue
        if learner.resume():
            logger.info("continuing from turn %d", learner.place.turn)
        return True
    return False


def _save_at_the_end(learner: Learner) -> None:
    try:
        learner.sealer.check_vault()
    except VaultUnavailable as error:
        logger.error("ending without a checkpoint of the last turn, which will be read again: %s", error)
        return
    learner.save()
