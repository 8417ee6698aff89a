"""Records of the learner's steps, from which the story of a run is drawn.

A record lies in the topic of updates, below 500 bytes. It is appended once a checkpoint holds the step: one
that a killed learner had not saved is taken again and told once. A crash between checkpoint and log makes the
same record come twice, under one `event_id`.
"""

import math

from pydantic import ValidationError

from feedback.core.events import UPDATES, Event
from feedback.core.log import Entry

KEY = "steps"
"""One key for all steps; it tells them apart from what updates used (`feedback.updates.usage`)."""


class StepRecord(Event):
    """One step, and the policy that it began at. None: not measured, or without a limit.

    step: of the optimiser, counted from the learner's beginning. grew_from: the version that the policy was
    trained on from. kl_nats: KL to the base per response, the rollouts' mean; kl_budget_nats: what limits it.
    reward: mean pessimistic score of the rollouts, in the reward model's units. accuracy: share of the votes
    kept back from the reward model that it foresees. entropy_nats: per token. response_tokens: the rollouts'
    mean length. cut_off: the share of them that the limit of length ended. votes: used by then.
    """

    step: int
    grew_from: str | None = None
    kl_nats: float | None = None
    kl_budget_nats: float | None = None
    reward: float | None = None
    accuracy: float | None = None
    entropy_nats: float | None = None
    response_tokens: float | None = None
    cut_off: float | None = None
    votes: int = 0


def step_record(
    step: int, at: float, grew_from: str | None, votes: int, **measured: float | None
) -> StepRecord:
    """The record of a step at Unix time `at`. measured: the other figures, to five digits; what is not finite
    becomes None."""
    return StepRecord(
        event_id=f"step-{step}-{at:.3f}",
        at=round(at, 3),
        step=step,
        grew_from=grew_from,
        votes=votes,
        **{name: _rounded(value) for name, value in measured.items()},
    )


def entry(record: StepRecord) -> Entry:
    """The log entry of a record."""
    return Entry(UPDATES, KEY, record.model_dump_json(exclude_none=True).encode())


def parse(value: bytes) -> StepRecord | None:
    """The record in a log record's value, or None when it is none."""
    try:
        return StepRecord.model_validate_json(value)
    except ValidationError:
        return None


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")
