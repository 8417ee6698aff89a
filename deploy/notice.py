"""What the controller that leads tells of the running release, in the shared store, for gateways to show.

It counts the evidence anyway. A gateway that counted it as well would hold up the tokens that it streams.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from deploy.release import ReleaseRules
from deploy.running import Running
from deploy.stages import ReleaseState
from deploy.why import why
from feedback.shared import SharedStore, SharedUnavailable

KEY = "release/notice"

NOTICE_SECONDS = 15.0
"""How long a notice counts after it was written."""

EVERY_SECONDS = 1.0

AWAY_SECONDS = 30.0
"""How long a store that was away is left alone: each try may hold up a round by a second."""


class Notice(BaseModel):
    """Where the release stands. at: Unix time in seconds; number: of the newest decision; why: sentences;
    evidence: as `Running.told` has it, None where nothing is compared; guardrails: name -> what became of it.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    at: float
    number: int
    why: list[str]
    evidence: dict[str, Any] | None = None
    guardrails: dict[str, str] = {}


class Notices:
    """Writes a notice after each decision, and every `EVERY_SECONDS`. Does without a store that is away."""

    def __init__(self, shared: SharedStore) -> None:
        self._shared = shared
        self._written = (-1, float("-inf"))  # number and time of the last one
        self._pause_seconds = EVERY_SECONDS

    def are_due(self, number: int, now: float) -> bool:
        """Whether the last notice is old enough for a new one, or of another decision."""
        passed = abs(now - self._written[1])  # a clock that was put back hides nothing
        return number != self._written[0] or passed >= self._pause_seconds

    def tell(
        self, state: ReleaseState, number: int, found: Running | None, rules: ReleaseRules, now: float
    ) -> None:
        """Replace the notice. number: of the newest decision; found: what the running release has come to."""
        self._written = (number, now)
        notice = Notice(
            at=now,
            number=number,
            why=why(state, found, rules, now),
            evidence=None if found is None else found.told(state.stage),
            guardrails={} if found is None else dict(found.guardrails),
        )
        try:
            self._shared.put(KEY, notice.model_dump_json().encode(), NOTICE_SECONDS)
            self._pause_seconds = EVERY_SECONDS
        except SharedUnavailable:
            self._pause_seconds = AWAY_SECONDS


def read_notice(shared: SharedStore) -> Notice | None:
    """The newest notice; None when no controller has told for `NOTICE_SECONDS`, or the store is away."""
    try:
        found = shared.get(KEY)
        return None if found is None else Notice.model_validate_json(found)
    except (SharedUnavailable, ValidationError):
        return None
