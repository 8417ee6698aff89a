"""The log's prompts that the engine can be asked. A refusal is not an absence: waiting does not help it."""

import logging
from collections.abc import Sequence

from deploy.engines.client import PromptsRefused
from learner.loop.metrics import LearnerMetrics

logger = logging.getLogger("hearken.learner")

TOO_LONG, REFUSED = "too long", "refused"


class Askable:
    """Remembers what the engine refused. `metrics` shows how many prompts are left out, and why."""

    def __init__(self, metrics: LearnerMetrics) -> None:
        self._metrics = metrics
        self._refused: set[tuple[int, ...]] = set()
        self._longest: int | None = None  # what was last told of

    def of(self, prompts: Sequence[list[int]], room: int, use: str) -> list[list[int]]:
        """The prompts (token ids) that have at most `room` tokens and were not refused. `use`: what for."""
        short = [prompt for prompt in prompts if len(prompt) <= room]
        found = [prompt for prompt in short if tuple(prompt) not in self._refused]
        left_out = self._metrics.prompts_left_out
        left_out.labels(use, TOO_LONG).set(len(prompts) - len(short))
        left_out.labels(use, REFUSED).set(len(short) - len(found))
        if len(short) < len(prompts) and room != self._longest:
            self._longest = room
            logger.warning(
                "the engine's context has room for prompts of at most %d tokens beside an answer; "
                "%d longer ones are left out, and all that come",
                room,
                len(prompts) - len(short),
            )
        return found

    def leave_out(self, error: PromptsRefused) -> None:
        """Take no refused prompt again, until `forget`."""
        new = {tuple(prompt) for prompt in error.prompts} - self._refused
        self._refused |= new
        logger.warning("%d prompts are left out, the engine refuses them: %s", len(new), error)

    def forget(self) -> None:
        """Let refused prompts be tried again: the engine may be another one by now."""
        self._refused.clear()
