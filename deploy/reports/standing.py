"""What users did with live and with its anchor in the running period, folded for deploy/decide/anchor.py."""

from collections.abc import Iterable

from pydantic import BaseModel, ValidationError

from deploy.decide import anchor
from deploy.evidence.evidence import Evidence
from deploy.evidence.preference import EvidenceRules, Reading
from deploy.history.releases import Decision
from deploy.history.states import ReleaseState, Standing
from deploy.reports.observation import JOIN_WINDOW
from feedback.core.decoded import DecodedCompletion
from feedback.core.log import Record
from feedback.joining.join import Joiner


class _Stamped(BaseModel):
    """All that is asked of a completion here; the joiner looks at the rest."""

    at: float


class StandingTest:
    """The fold of one period. Feed it all records from the period's cursor on."""

    def __init__(self, standing: Standing, anchored: str, rules: EvidenceRules) -> None:
        self.standing = standing
        self._latest = Reading()
        self._joiner = Joiner(JOIN_WINDOW)
        self._joiner.sees = self._advance
        self._evidence = Evidence(anchor.rules_of(standing, rules), anchor.scope(standing, anchored))

    def feed(self, records: Iterable[Record]) -> None:
        """Take in completions and feedback, one record at a time, as `Observation.feed` does."""
        for record in records:
            self._evidence.feed(self._joiner.feed_one(record))

    def _advance(self, value: bytes, completion: DecodedCompletion | None) -> None:
        try:
            stamped = completion or _Stamped.model_validate_json(value)
        except ValidationError:
            return  # who observes releases sets it aside
        self._evidence.advance(stamped.at)

    def reading(self) -> Reading:
        """The evidence of this period alone. It costs a look at all who were heard in it."""
        self._latest = self._evidence.reading()
        return self._latest

    def evidence(self) -> float:
        """The evidence of harm at the latest reading, earlier periods included."""
        return anchor.evidence(self.standing, self._latest)


def standing_test(state: ReleaseState, rules: EvidenceRules) -> StandingTest | None:
    """The test that a state asks for, with nothing read yet; None where live has no anchor."""
    if state.standing is None or state.table.anchor is None or state.standing.period == 0:
        return None
    return StandingTest(state.standing, state.table.anchor, rules)


def same(test: StandingTest | None, state: ReleaseState) -> bool:
    """Whether a test is the one that a state asks for."""
    wanted = state.standing if state.table.anchor is not None else None
    return (None if test is None else test.standing) == wanted


def is_standing(decision: Decision) -> bool:
    """Whether a decision follows from the test of live against the anchor: harm, or the end of a period."""
    period = decision.numbers.get("period")
    ends = decision.outcome == "anchored" and isinstance(period, int) and period > 1
    return ends or "anchor" in decision.numbers


def begun(before: ReleaseState, decision: Decision) -> tuple[int, dict[str, int]] | None:
    """Where in the log that began which a decision rests on, and with which table; None: it rests on no vote.

    before: the state that it was made in.
    """
    if is_standing(decision):
        standing = before.standing
        return None if standing is None else (standing.first_epoch, standing.cursor)
    return None if before.stage == "idle" else (before.first_epoch, before.cursor)
