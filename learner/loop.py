"""The learner: votes in, candidates out. One turn after another: read, decide, act, save.

What to do is decided by `learner.table`, and what became of it is written down by `learner.stages`; the rest
of the room does it:

    reading    the log: votes become labels, decisions about candidates change the stage
    scoring    reward models are fitted to labels
    improving  rollouts are sampled, measured, and the optimiser learns
    offering   the policy meets live, and is published or not
    saving     every turn that changed something ends with a checkpoint

A checkpoint holds the log offsets too: a process killed at any instant continues from its last turn, and what
it had read since is read again.
"""

import dataclasses
import logging
import signal
import threading
import time
from pathlib import Path

import torch
from prometheus_client import start_http_server

from deploy.engine import EngineClient, EngineError, PromptsRefused
from deploy.registries import open_registry
from deploy.registry import Registry, RegistryAway
from deploy.s3 import Wait
from deploy.thoughts import thoughts_of
from feedback.joins import CompletionsUnavailable
from feedback.log import EventLog
from feedback.opening import open_log
from feedback.vault_keys import VaultUnavailable
from learner import checkpoint, stages
from learner.drawing import Drawing
from learner.guarding import Guarding
from learner.improving import Improving
from learner.leading import dismiss, follow, keep_waiting
from learner.machine import keep_freed_memory
from learner.metrics import LearnerMetrics
from learner.model import SharedModel
from learner.offering import Offering
from learner.optimisers import optimiser_of
from learner.parts import Parts
from learner.ranks import Ranks
from learner.reading import Reading
from learner.saving import Saving
from learner.scoring import Scoring
from learner.second_domain import SecondDomain
from learner.settings import LearnerSettings
from learner.table import Action, Batch, Measured, next_action

logger = logging.getLogger("hearken.learner")

VAULT_RETRY_SECONDS = 1.0
"""The time between two looks whether the users' keys are back."""


REGISTRY_RETRY_SECONDS = 5.0
"""The time between two tries to reach the registry."""


class Learner(Parts):
    """One learner on one log. Dependencies come wired; `turn` is one step of the loop."""

    def __init__(
        self,
        settings: LearnerSettings,
        log: EventLog,
        engine: EngineClient,
        registry: Registry,
        model: SharedModel,
        metrics: LearnerMetrics,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__(settings, log, engine, registry, model, metrics, ranks)
        self.reading = Reading(self)
        self.scoring = Scoring(self)
        self.drawing = Drawing(self)
        domain = SecondDomain(self)
        self.improving = Improving(self, self.drawing, self.scoring, domain)
        guarding = Guarding(self, self.drawing, self.scoring, domain)
        self.offering = Offering(self, self.drawing, self.scoring, self.improving, guarding)
        self.saving = Saving(self, self.scoring)

    def turn(self, wait_seconds: float) -> None:
        """Read what is new (waiting for it only when there is nothing else to do), then do one thing.

        A learner that is far behind only reads, and saves now and then how far it came. While the users' keys
        are away it does nothing: it would take everyone for erased.
        """
        keep_waiting(self.optimiser.ranks)
        try:
            self.sealer.check_vault()
            changed = self._read_and_act(wait_seconds)
        except VaultUnavailable as error:
            self.wait_for_vault(error)
            return
        self.metrics.vault_lost.set(0)
        self.metrics.registry_away.set(self.registry.away is not None)
        if changed:
            self.save()

    def wait_for_vault(self, error: VaultUnavailable) -> None:
        """Say that the users' keys cannot be used, and let a second pass."""
        self.metrics.vault_lost.set(1)
        logger.error("nothing is read or learned: %s", error)
        time.sleep(VAULT_RETRY_SECONDS)

    def _read_and_act(self, wait_seconds: float) -> bool:
        """A turn up to its checkpoint; whether it needs one."""
        self._read(wait_seconds if self.waits or not self.reading.caught_up else 0.0)
        try:
            self.reading.reopen()
            self.scoring.listen()
            acted = self._act(self._next())
            self.metrics.show_stage(self.state.stage)
            return acted
        except PromptsRefused as error:
            self.askable.leave_out(error)  # and draw others in the next turn
        except EngineError as error:
            logger.warning("the engine cannot sample now, waiting for it: %s", error)
            self._read(1.0)
        except CompletionsUnavailable as error:
            logger.warning("completions cannot be read now, waiting for the log: %s", error)
            self._read(1.0)
        return True

    @property
    def waits(self) -> bool:
        """Whether there is nothing to do before new votes, or the controller's decision."""
        return self._next() == "wait"

    def _read(self, wait_seconds: float) -> None:
        self.reading.read(wait_seconds, self.saving.next_save)

    def _next(self, batch: Batch | None = None) -> Action:
        """What to do next; with the newest rollouts, what to do with the policy that made them."""
        concern = self.watch.concern()
        measured = Measured(
            labels=self.teaching,
            half_life=self.fading.half_life,
            behind=not self.reading.caught_up,
            is_live=self.improving.is_live,
            undoable=len(self.earlier),
            runs_away=concern is not None and concern.reason == "KL runaway",
            fails=concern is not None and concern.reason != "KL runaway",
            batch=batch,
        )
        return next_action(self.state, measured, self.limits)

    def _act(self, action: Action) -> bool:
        """Do it. False when nothing changed that has to be saved at once."""
        if action == "begin":
            self.state = stages.begun(self.state)
            return self._act(self._next())
        if action in ("wait", "read"):
            self.metrics.show_phase("waiting")
            self.scoring.read_ahead()
            # Reading alone needs no checkpoint each time: the log has it.
            return self.reading.unsaved and time.monotonic() >= self.saving.next_save
        if action == "fit":
            self.scoring.update()
        elif action == "finish":
            self.state = stages.advance(self.state, "finished")
        elif action == "sample":
            self._improve()
        elif action == "compare":
            self._offer()
        else:
            self._go_back(action)
        return True

    def _improve(self) -> None:
        """Rollouts, and a step after them, or one back."""
        rollouts = self.improving.sample()
        if rollouts is None:
            self._read(1.0)  # a chat may bring a prompt
            return
        batch = Batch(rollouts.limit_share)
        if self._next(batch) == "undo":
            self.improving.undo(rollouts.measured)
            return
        self.improving.observe(rollouts)
        if self.watch.concern():
            return  # the next turn goes back; until then the policy is as it was found
        action = self._next(batch)
        if action == "step":
            self.improving.step(rollouts)
        else:
            self._go_back(action)

    def _offer(self) -> None:
        """The comparison with live, and what follows from it."""
        found = self.offering.compare()
        if found is None:
            self._read(1.0)
            return
        action = self._next(Batch(found.limit_share, found.passed))
        if action == "publish":
            self.offering.publish(found.numbers, found.digest)
        elif action == "undo":
            self.improving.undo(found.measured)
        elif action == "refuse":
            self.offering.refuse(found.sentence)
        else:
            self.offering.tell(found.sentence)
            self._go_back(action)

    def _go_back(self, action: Action) -> None:
        if action == "start over":
            self.improving.start_over()
        elif action == "give up":
            self.improving.give_up()
        else:
            raise AssertionError(f"{action!r} is nothing that a turn begins with")

    def save(self) -> None:
        """Make everything up to here one checkpoint."""
        self.saving.save()
        self.reading.unsaved = False

    def resume(self) -> bool:
        """Continue from the current checkpoint; False when there is none yet."""
        return self.saving.resume()


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
    """The registry of a service. wait: what is done while it is away, see `deploy.s3.Bucket`."""
    return open_registry(settings.data, settings.registry, copies=settings.registry_copies, wait=wait)


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
    """Run a learner until SIGTERM or SIGINT; under torchrun, its part of one (see `learner.leading`).

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
