"""Checkpoints of a learner: what is in them, what is told once they are whole, and going on from one."""

import dataclasses
import logging
import time
from collections import deque
from collections.abc import Mapping
from itertools import chain
from typing import Any

from feedback.core.log import LogUnavailable
from feedback.updates.steps import StepRecord
from feedback.updates.steps import entry as step_entry
from feedback.updates.teaching import entry as hint_entry
from feedback.updates.usage import Usage
from feedback.updates.usage import entry as usage_entry
from learner.loop.parts import Parts, Place
from learner.loop.scoring import Scoring
from learner.model.shared import ADAPTERS
from learner.state import checkpoint, sealed, stages
from learner.state.reindex import reindex

logger = logging.getLogger("hearken.learner")

SAVE_SECONDS, SAVE_SHARE = 5.0, 4
"""The time between two checkpoints while the learner only reads, at least so many times what one takes."""


class Saving:
    """Saves a learner, and brings it back."""

    def __init__(self, parts: Parts, scoring: Scoring) -> None:
        self._parts, self._scoring = parts, scoring
        self.next_save = 0.0  # monotonic seconds

    def save(self) -> None:
        """Make everything up to here one checkpoint."""
        parts, started = self._parts, time.monotonic()
        parts.place.turn += 1
        parts.place.base_digest = parts.model.base_digest
        parts.joiner.lost += parts.joins.sweep()
        parts.tell_lost()
        tensors = {
            "adapters": {name: parts.model.adapter_state(name) for name in ADAPTERS},
            "reward": parts.reward.state_dict(),
            "judge": parts.judge.state_dict(),
            "fading": parts.fading.state_dict(),
            "optimiser": parts.optimiser.snapshot(),
            "earlier": parts.earlier,
            "scores": parts.features.scores_state(),
        }
        state = {
            "place": dataclasses.asdict(parts.place),
            "state": dataclasses.asdict(parts.state),
            "joiner": parts.joiner.state(),
            "labels": parts.labels.summary(),
            "agreement": parts.agreement.state(),
            "turns": parts.turns.state(),
            "unreliable": sorted(parts.unreliable),
            **parts.watch.state(),
            "untold": [event.model_dump(mode="json") for event in parts.untold],
            "untold_steps": [record.model_dump(mode="json") for record in parts.untold_steps],
            "accuracy": parts.accuracy,
        }
        suspects = {r: dataclasses.asdict(s) for r, s in parts.standings.items() if s.is_suspect}
        ledger = {"cursor": parts.place.cursor, **parts.labels.ledger(), "raters": suspects}
        parts.memory.save_labels(*parts.labels.changes(), parts.sealer)
        parts.memory.save_features(*parts.features.changes())
        sealed_state = sealed.seal(state, parts.sealer)
        checkpoint.save(parts.folder, parts.place.turn, tensors, sealed_state, ledger, parts.memory.commit)
        parts.journal.clear()
        now = time.monotonic()
        self.next_save = now + max(SAVE_SECONDS, SAVE_SHARE * (now - started))
        parts.log.hold("learner", parts.place.cursor)
        self._tell()

    def _tell(self) -> None:
        """Say which votes the saved reward updates used, and what the saved steps were like; after a crash
        again, in the same words. And what is left to be asked."""
        parts = self._parts
        told = [*map(usage_entry, parts.untold), *map(step_entry, parts.untold_steps)]
        if parts.untold_hint is not None:
            told.append(hint_entry(parts.untold_hint))
        if not told:
            return
        try:
            parts.log.append(told).result()
        except LogUnavailable as error:
            logger.warning("cannot tell yet which votes were used, and of steps: %s", error)
            return
        parts.untold, parts.untold_steps, parts.untold_hint = [], [], None

    def resume(self) -> bool:
        """Continue from the current checkpoint; False when there is none yet."""
        parts = self._parts
        found = checkpoint.load(parts.folder, parts.memory.step)
        if found is None:
            parts.memory.clear()
            return False
        tensors, state = found[0], sealed.unseal(found[1], parts.sealer)
        parts.place = _place(state["place"])
        self._remember(tensors, state)
        parts.watch.restore(state)
        parts.state = self._state(state)
        parts.untold = [Usage.model_validate(event) for event in state.get("untold", [])]
        parts.untold_steps = [StepRecord.model_validate(record) for record in state.get("untold_steps", [])]
        parts.accuracy = state.get("accuracy")
        for name, weights in tensors["adapters"].items():
            parts.model.load_adapter_state(name, weights)
        parts.optimiser.restore(tensors["optimiser"] if "optimiser" in tensors else tensors["ppo"])
        parts.earlier = tensors["earlier"]
        parts.unreliable = frozenset(state.get("unreliable", ()))
        if "turns" in state:  # not before votes had an age
            parts.turns.restore(state["turns"])
        if parts.place.base_digest not in ("", parts.model.base_digest):
            self._start_on_another_base()
        answers = chain.from_iterable(map(parts.labels.answers_of, parts.labels.votes))
        parts.unread = deque(answer for answer in answers if not parts.features.knows(answer))
        if parts.place.base_digest in ("", parts.model.base_digest):
            self._restore_rewards(tensors)
        else:
            self._scoring.fit()
        self._tell()
        return True

    def _restore_rewards(self, tensors: Mapping[str, Any]) -> None:
        parts = self._parts
        try:
            parts.reward.load_state_dict(tensors["reward"])
            parts.judge.load_state_dict(tensors["judge"])
            if "fading" in tensors:
                parts.fading.load_state_dict(tensors["fading"], [rung.kind for rung in parts.reward.rungs])
                parts.metrics.half_life.set(parts.fading.half_life)
        except ValueError as error:
            logger.warning(
                "the checkpoint's reward models are of another kind, they are fitted anew: %s", error
            )
            self._scoring.fit()

    def _start_on_another_base(self) -> None:
        """Forget what the old base made of answers, and a way that began at it. What is live, and from where
        the policy starts, the log says, which is read before anything else is done."""
        parts = self._parts
        logger.warning(
            "the checkpoint is of base %s, this one is %s: all voted answers are read anew with it",
            parts.place.base_digest[:12],
            parts.model.base_digest[:12],
        )
        parts.features.forget()
        parts.memory.save_features(
            *parts.features.changes()
        )  # or what has the same key would stay in the file
        parts.go_back_to_live()
        parts.watch.of_live = []
        parts.journal.clear()

    def _remember(self, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Take up what the memory has, or what a checkpoint has that is of before there was one."""
        parts, agreement = self._parts, state.get("agreement", {"seen": {}, "sums": {}})
        if parts.memory.step is not None:
            parts.joins.restore(state["joiner"])
            parts.labels.restore(state["labels"], parts.memory.labels(parts.sealer))
            parts.agreement.restore(agreement)
            parts.features.restore_rows(parts.memory.features(), tensors["scores"])
        elif "votes" in state["joiner"]:
            parts.memory.clear()
            reindex(parts.joiner, parts.log, parts.place.cursor)
            parts.labels.restore(state["labels"])
            parts.agreement.restore(agreement)
            if "features" in tensors:  # not in the oldest
                parts.features.restore(tensors["features"])
        else:
            raise checkpoint.CheckpointLost(
                f"{parts.memory.path} is gone, and the checkpoint is of no use without it. Move the folder "
                f"{parts.folder} away, and the learner learns anew from the log"
            )
        parts.joiner.poison = state["joiner"]["poison"]

    def _state(self, saved: Mapping[str, Any]) -> stages.LearnerState:
        """The learner's state, also of a checkpoint from before there was a table of stages: its first
        observation was of live."""
        if "state" in saved:
            return stages.from_saved(saved["state"])
        state, history = stages.from_place(saved["place"]), self._parts.watch.history
        return stages.met_live(state, history[0].kl_nats_base if history else None)


def _place(saved: Mapping[str, Any]) -> Place:
    """The place in a checkpoint, which may have fields that this version has not, or lack some."""
    known = {field.name for field in dataclasses.fields(Place)}
    return Place(**{"grew_from": None} | {name: value for name, value in saved.items() if name in known})
