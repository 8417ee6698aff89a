"""Writes the notices that gateways show (deploy/history/notice.py). Apart from them, as it needs the evidence
and so numpy, which no gateway loads.
"""

from deploy.decide.release import ReleaseRules
from deploy.history.notice import KEY, NOTICE_SECONDS, Notice
from deploy.history.states import ReleaseState
from deploy.reports.running import Running
from deploy.reports.why import why
from feedback.shared import SharedStore, SharedUnavailable

EVERY_SECONDS = 1.0

AWAY_SECONDS = 30.0
"""How long a store that was away is left alone: each try may hold up a round by a second."""


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
