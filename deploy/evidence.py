"""Votes to evidence: does the canary's policy please users more, or less, than the control's?

The unit is a user. All votes that a user gives within one window become one value in [0, 1]; closed canary
and control units are paired in the order in which they closed; each pair's difference D = canary - control
goes into two betting processes (deploy/betting.py):

    promote: H0 "mean D <= -margin", rejected at `promote_bound` (20: wrong at most once in 20 releases)
    harm:    H0 "mean D >= 0", the candidate is not worse, by betting on -D with margin 0, rejected at
             `harm_bound` (100: an equally good candidate is rolled back at most once in 100 releases)

The result depends on the set of votes and on the latest time seen, not on the order, batches or repetitions
in which they arrive, so a replay of the log gives the same verdict. Time is the events' own.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from deploy.betting import EProcess
from feedback.join import Answer, Label

Bucket = Literal["canary", "control"]


@dataclass(frozen=True, slots=True)
class EvidenceRules:
    """How votes become units and when evidence is enough. A bound of infinity turns its test off.

    `windows_per_user` above 1 lets a user count again in later windows. That is faster with few users, but
    a user who is always content, or never, then counts as if several: the error bounds are proven for 1.
    """

    window_seconds: float = 3600.0
    windows_per_user: int = 1
    margin: float = 0.02
    promote_bound: float = 20.0
    harm_bound: float = 100.0


@dataclass(frozen=True, slots=True)
class Scope:
    """Which completions a comparison is about: those served from `first_epoch` on, by these two versions."""

    first_epoch: int
    canary: str
    control: str

    def bucket(self, arm: str, version: str, epoch: int) -> Bucket | None:
        """The bucket of a completion, or None when it does not belong to the comparison.

        The version is checked too: where a gateway served another one, a vote says nothing about the arm.
        """
        if epoch < self.first_epoch:
            return None
        if arm == "canary" and version == self.canary:
            return "canary"
        return "control" if arm == "control" and version == self.control else None


class Vote(NamedTuple):
    """One revision of one vote; `value` is 1 for pleased (or better than the reference), 0 for not.

    None: the vote was taken back.
    """

    at: float
    event_id: str
    revision: int
    value: float | None


class Unit(NamedTuple):
    """A user's closed window; sorts in closing order."""

    closes_at: float
    user: str
    value: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What the evidence says. Once a bound was crossed, the numbers are those at the crossing."""

    crossed: Literal["promote", "harm"] | None = None
    pairs: int = 0
    mean_difference: float | None = None
    promote: float = 1.0
    harm: float = 1.0
    canary_users: int = 0
    control_users: int = 0
    canary_value: float | None = None
    control_value: float | None = None


def voted_answer(label: Label) -> tuple[Answer, float] | None:
    """The answer that a label judges and the value it gives it, or None when it is no evidence about an arm.

    Evidence is what end users say in thumbs, ratings and comparisons; rankings, corrections, comments and
    metrics have no value to compare arms by, and an opinion of a whole episode is of no one answer. It counts
    for the user who got the answer: the vote names a signed id that only they were given, while many an app
    leaves the user's name out of it. In a comparison the "answer" comes from the user's arm and the
    "reference" from the live policy, the same for both arms.
    """
    if label.retracted:
        return None
    answer = _judged(label)
    if answer is None:
        return None
    turned = label.kind == "comparison" and answer is not label.answers[0]
    return answer, 1.0 - label.value if turned else label.value


def _judged(label: Label) -> Answer | None:
    """The answer that a label, or the retraction of one, is evidence about."""
    if label.source != "end_user" or label.whole_episode:
        return None
    roles = {answer.role for answer in label.answers}
    if label.kind in ("thumbs", "rating"):
        fits = len(label.answers) == 1 and roles == {"answer"}
    else:
        fits = label.kind == "comparison" and len(label.answers) == 2 and roles == {"answer", "reference"}
    return next(answer for answer in label.answers if answer.role == "answer") if fits else None


def close_windows(votes: Iterable[Vote], rules: EvidenceRules) -> list[tuple[float, float]]:
    """A user's windows as (closing time, mean value), open ones included.

    A window opens with a vote and takes all that follow within `window_seconds`. A vote that is changed
    before the closing counts with its latest revision, and not at all when that takes it back; a change after
    the closing is ignored. A window in which every vote was taken back is none.
    """
    windows: list[tuple[float, float]] = []
    left = sorted(votes)
    while left and len(windows) < rules.windows_per_user:
        closes_at = left[0].at + rules.window_seconds
        latest: dict[str, Vote] = {}
        for vote in left:
            known = latest.get(vote.event_id)
            if vote.at < closes_at and (known is None or vote.revision > known.revision):
                latest[vote.event_id] = vote
        values = [vote.value for vote in latest.values() if vote.value is not None]
        if values:
            windows.append((closes_at, math.fsum(values) / len(values)))
        left = [v for v in left if v.at >= closes_at and not (values and v.event_id in latest)]
    return windows


class Evidence:
    """Collects the labels of one comparison. Its state is only what it was fed: rebuild it by replay."""

    def __init__(self, rules: EvidenceRules, scope: Scope) -> None:
        self.rules = rules
        self.scope = scope
        self.clock = -math.inf
        self._votes: dict[tuple[Bucket, str], dict[tuple[str, int], Vote]] = {}
        self._windows: dict[tuple[Bucket, str], list[tuple[float, float]]] = {}
        self._reading: Reading | None = Reading()
        self._next_closing = math.inf

    def advance(self, at: float) -> None:
        """The log's time is at least `at` (Unix seconds, from any event): windows close by it."""
        self.clock = max(self.clock, at)
        if self.clock >= self._next_closing:
            self._reading = None

    def feed(self, labels: Iterable[Label]) -> None:
        """Take labels in; those outside the scope only advance the time."""
        for label in labels:
            self.advance(label.at)
            judged = voted_answer(label)
            answer = judged[0] if judged is not None else _judged(label) if label.retracted else None
            if answer is None:
                continue
            bucket = self.scope.bucket(answer.arm, answer.policy_version, answer.table_epoch)
            if bucket is None:
                continue
            value = judged[1] if judged is not None else None
            vote = Vote(label.at, label.event_id, label.revision, value)
            votes = self._votes.setdefault((bucket, answer.exposed), {})
            if votes.setdefault((vote.event_id, vote.revision), vote) is vote:
                self._windows.pop((bucket, answer.exposed), None)
                self._reading = None

    def reading(self) -> Reading:
        """The evidence of all units that are closed by now."""
        if self._reading is None:
            self._next_closing = math.inf
            canary, control = self._units("canary"), self._units("control")
            self._reading = read(canary, control, self.rules)
        return self._reading

    def _units(self, bucket: Bucket) -> list[Unit]:
        units = []
        for (of, user), votes in self._votes.items():
            if of != bucket:
                continue
            if (of, user) not in self._windows:
                self._windows[of, user] = close_windows(votes.values(), self.rules)
            for closes_at, value in self._windows[of, user]:
                if closes_at <= self.clock:
                    units.append(Unit(closes_at, user, value))
                else:
                    self._next_closing = min(self._next_closing, closes_at)
        return sorted(units)


def read(canary: list[Unit], control: list[Unit], rules: EvidenceRules) -> Reading:
    """Pair units in closing order and bet on their differences, up to the first bound that is crossed."""
    promote, harm = EProcess(rules.margin), EProcess(0.0)
    crossed: Literal["promote", "harm"] | None = None
    pairs, total = 0, 0.0
    for ours, theirs in zip(canary, control, strict=False):  # the longer side's rest waits for partners
        difference = ours.value - theirs.value
        promote.observe(difference)
        harm.observe(-difference)
        pairs, total = pairs + 1, total + difference
        if harm.reaches(rules.harm_bound):
            crossed = "harm"
        elif promote.reaches(rules.promote_bound):
            crossed = "promote"
        if crossed:
            break
    return Reading(
        crossed=crossed,
        pairs=pairs,
        mean_difference=total / pairs if pairs else None,
        promote=promote.evidence,
        harm=harm.evidence,
        canary_users=len({unit.user for unit in canary}),
        control_users=len({unit.user for unit in control}),
        canary_value=_mean(canary),
        control_value=_mean(control),
    )


def _mean(units: list[Unit]) -> float | None:
    return math.fsum(unit.value for unit in units) / len(units) if units else None
