"""The learner: votes in, candidates out. One turn after another: read, decide, act, save.

What to do is decided by `learner.state.table`, and what became of it is written down by
`learner.state.stages`; the rest of the room does it:

    reading    the log: votes become labels, decisions about candidates change the stage
    scoring    reward models are fitted to labels
    improving  rollouts are sampled, measured, and the optimiser learns
    offering   the policy meets live, and is published or not
    saving     every turn that changed something ends with a checkpoint

A checkpoint holds the log offsets too: a process killed at any instant continues from its last turn, and what
it had read since is read again.
"""

import logging
import time

from deploy.engines.client import EngineClient, EngineError, PromptsRefused
from deploy.registry.registry import Registry
from feedback.core.log import EventLog
from feedback.joining.memory import CompletionsUnavailable
from feedback.privacy.vault_keys import VaultUnavailable
from learner.loop.drawing import Drawing
from learner.loop.guarding import Guarding
from learner.loop.improving import Improving
from learner.loop.metrics import LearnerMetrics
from learner.loop.offering import Offering
from learner.loop.parts import Parts
from learner.loop.reading import Reading
from learner.loop.saving import Saving
from learner.loop.scoring import Scoring
from learner.loop.second_domain import SecondDomain
from learner.model.ranks import Ranks
from learner.model.shared import SharedModel
from learner.policy.leading import keep_waiting
from learner.settings import LearnerSettings
from learner.state import stages
from learner.state.table import Action, Batch, Measured, next_action

logger = logging.getLogger("hearken.learner")

VAULT_RETRY_SECONDS = 1.0
"""The time between two looks whether the users' keys are back."""


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
            self.offering.prepare()
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
