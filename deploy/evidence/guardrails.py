"""Guardrails: is the canary's service broken in a way that needs no votes to see?

They hold at every stage, the small ones above all, where votes are too few to decide anything. All are
about users, not requests: one user's hundred requests are one value (the mean over the newest of them),
because requests of one user resemble each other. They look at the newest users (deploy/evidence/recent.py),
in a small, a middle and a large window: the small one finds in moments what is wrong with everything, the
large one what is wrong with little. Canary users are compared with those of the control bucket and nobody
else: the buckets are equal, so their newest users were served at the same time. A guardrail fails only where
the difference is over its limit by `z` standard errors (deploy/evidence/comparing.py), so that looking often
does little harm.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from deploy.evidence.buckets import Buckets
from deploy.evidence.comparing import STATES, Bar, Failure, Finding, Sides, median, rate, share
from deploy.evidence.recent import Measured, Recent, answer_of
from deploy.evidence.voting import voted_answer
from deploy.history.scope import Bucket, Scope
from feedback.core.decoded import DecodedCompletion
from feedback.core.events import Completion
from feedback.joining.join import Label

WINDOWS = (50, 400, 2_000)
"""Users of each side in a window. The smallest holds `min_users` where that is more."""

MAX_EXPOSED = 10_000
"""Canary users counted under one table: more than any step of a ladder asks for."""

MAX_IDS = 50_000
"""Completion ids remembered to know repetitions by: a log repeats recent records only."""


@dataclass(frozen=True, slots=True)
class GuardrailLimits:
    """What the canary may do. Ratios are of medians over users, shares are differences of means."""

    min_users: Annotated[int, "users on each side, before anything but the sample ratio is judged"] = 30
    latency_ratio: Annotated[
        float, "time per token, and to the first one; an adapter alone may cost 1.8 times the base"
    ] = 1.8
    longer_ratio: Annotated[
        float, "longer answers: than the control's, or than what the gate let pass, if that is more"
    ] = 1.7
    tokens_ratio: Annotated[
        float, "shorter answers, and longer ones where the gate measured no length: a collapse"
    ] = 8.0
    failed_share: Annotated[float, "share of requests that got no answer above the baseline's"] = 0.01
    empty_share: Annotated[float, "share of answers without text above the baseline's"] = 0.05
    length_share: Annotated[float, "share of answers cut off by the token limit above the baseline's"] = 0.20
    feedback_ratio: Annotated[float, "share of users who vote at all, over the baseline's"] = 0.5
    z: Annotated[float, "standard errors beyond a limit (4.5: one-sided p = 3e-6)"] = 4.5
    sample_ratio_alpha: Annotated[
        float, "chance of ever stopping a release whose buckets are truly equal"
    ] = 1e-4

    def __post_init__(self) -> None:
        if self.min_users < 2 or self.z <= 0:
            raise ValueError("guardrails need min_users of at least 2 and z above 0")
        ratios = (self.latency_ratio, self.tokens_ratio, self.longer_ratio)
        if min(ratios) < 1 or not 0 <= self.feedback_ratio <= 1:
            raise ValueError(
                "guardrail ratios must allow an unchanged policy: latency and tokens >= 1, feedback <= 1"
            )
        if not 0 < self.sample_ratio_alpha < 1:
            raise ValueError(
                f"sample_ratio_alpha is {self.sample_ratio_alpha}; a chance between 0 and 1 is needed"
            )


@dataclass(slots=True)
class Guardrails:
    """What was seen in one release stage, fed from the log. `scope` says which completions count.

    foreseen: answer length over live's as the gate measured it, None where it did not.
    """

    limits: GuardrailLimits
    scope: Scope
    foreseen: float | None = None
    _seen: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _canary: Recent = field(default_factory=Recent)
    _control: Recent = field(default_factory=Recent)
    _buckets: Buckets = field(default_factory=Buckets)
    _exposed: dict[int, set[str]] = field(default_factory=dict)  # epoch -> canary users
    _findings: list[Finding] | None = None  # of all that was fed; None: to be made anew

    def add(self, completion: DecodedCompletion | Completion) -> None:
        """Count a completion once, however often the log repeats it."""
        if completion.table_epoch < self.scope.first_epoch or completion.role != "answer":
            return
        if completion.completion_id in self._seen:
            return
        self._seen[completion.completion_id] = None
        if len(self._seen) > MAX_IDS:
            self._seen.popitem(last=False)
        bucket = self.scope.bucket(completion.arm, completion.policy_version, completion.table_epoch)
        if bucket is None:
            return
        self._findings = None
        # Later turns say nothing of the draw, and a better policy may bring more of them.
        if completion.drawn:
            self._buckets.add(bucket, completion.exposed, completion.at)
        if bucket == "canary":
            exposed = self._exposed.setdefault(completion.table_epoch, set())
            if len(exposed) < MAX_EXPOSED:
                exposed.add(completion.exposed)
        self._side(bucket).add(completion.exposed, answer_of(completion))

    def feed(self, labels: Iterable[Label]) -> None:
        """Note who voted."""
        for label in labels:
            judged = voted_answer(label)
            if judged is None:
                continue
            answer = judged[0]
            bucket = self.scope.bucket(answer.arm, answer.policy_version, answer.table_epoch)
            if bucket is not None:
                self._findings = None
                self._side(bucket).vote(answer.exposed, answer.completion_id)

    def _side(self, bucket: Bucket) -> Recent:
        return self._canary if bucket == "canary" else self._control

    @property
    def canary_users(self) -> int:
        """Users who were served by the canary."""
        return self._buckets.users("canary")

    @property
    def control_users(self) -> int:
        """Users who were served in the control bucket."""
        return self._buckets.users("control")

    def exposed(self, epoch: int) -> int:
        """Canary users who were served under the table of an epoch; `MAX_EXPOSED` at most."""
        return len(self._exposed.get(epoch, ()))

    def failure(self) -> Failure | None:
        """The first guardrail that fails, or None: all hold, or there is too little to judge."""
        return next((found.failure for found in self.findings() if found.failure is not None), None)

    @property
    def are_judged(self) -> bool:
        """Whether there were users enough to judge answers by. The time to a first token is left out, as not
        every service streams."""
        return all(f.state != "not judged yet" for f in self.findings() if f.guardrail == "empty_answers")

    def findings(self) -> list[Finding]:
        """What became of each guardrail: the worst of what the windows say."""
        if self._findings is None:
            ratio = self._buckets.failure(self.limits.sample_ratio_alpha)
            first = Finding("sample_ratio", "held" if ratio is None else "failed", ratio)
            self._findings = [first, *map(_worst, zip(*self._by_window(), strict=True))]
        return self._findings

    def _by_window(self) -> list[list[Finding]]:
        """The findings of each window, the smallest first. A larger one that holds no more is left out."""
        found: list[list[Finding]] = []
        seen = (-1, -1)
        for users in WINDOWS:
            users = max(users, self.limits.min_users)
            canary, control = self._canary.window(users), self._control.window(users)
            if (len(canary), len(control)) != seen:
                seen = (len(canary), len(control))
                found.append(compared(canary, control, self.limits, self.foreseen))
        return found


def compared(
    canary: Sequence[Measured],
    control: Sequence[Measured],
    limits: GuardrailLimits,
    foreseen: float | None = None,
) -> list[Finding]:
    """All guardrails but the sample ratio, on one window; those first that explain the others."""

    def sides(value: Callable[[Measured], float | None]) -> Sides:
        ours, theirs = ([v for user in side if (v := value(user)) is not None] for side in (canary, control))
        return Sides(ours, theirs)

    bar = Bar(limits.min_users, limits.z)
    low, high = lengths_allowed(limits, foreseen)
    return [
        share("failed_requests", "requests without an answer", sides(lambda u: u.failed), limits.failed_share,
              bar),
        share("empty_answers", "empty answers", sides(lambda u: u.empty), limits.empty_share, bar),
        share("cut_off_answers", "answers cut off by the token limit", sides(lambda u: u.cut_off),
              limits.length_share, bar),
        median("answer_tokens", "answer length in tokens", sides(lambda u: u.answer_tokens),
               bar, low=low, high=high),
        median("token_seconds", "seconds per token", sides(lambda u: u.token_seconds), bar,
               high=limits.latency_ratio),
        median("ttft_seconds", "time to first token in seconds", sides(lambda u: u.ttft_seconds), bar,
               high=limits.latency_ratio),
        rate("feedback_rate", "users who vote", sides(lambda u: u.voted), limits.feedback_ratio, bar),
    ]  # fmt: skip


def lengths_allowed(limits: GuardrailLimits, foreseen: float | None) -> tuple[float, float]:
    """The least and the largest answer length over the control's. What the gate measured and let pass is no
    surprise, and that length stays as it was is none either."""
    if foreseen is None:
        return 1 / limits.tokens_ratio, limits.tokens_ratio
    return min(1.0, foreseen) / limits.tokens_ratio, max(1.0, foreseen) * limits.longer_ratio


def _worst(findings: Sequence[Finding]) -> Finding:
    """Of one guardrail in several windows: one that failed, else one that held."""
    return max(findings, key=lambda found: STATES.index(found.state))
