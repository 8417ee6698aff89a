"""Guardrails: is the canary's service broken in a way that needs no votes to see?

They hold at every stage, the small ones above all, where votes are too few to decide anything. All are
about users, not requests: one user's hundred requests are one value (the mean over them), because requests
of one user resemble each other. Each compares canary users with users of the version that the canary is to
replace, and fails only where the difference is over its limit by `z` standard errors, so that looking often
does little harm.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from deploy.evidence import Scope, voted_answer
from deploy.stages import Number
from feedback.events import Completion
from feedback.join import Label

MAX_USERS = 5_000
"""Users remembered per side: the limits need hundreds, and the live side may have millions."""

MAX_COUNTED = 200_000
"""Users that the sample ratio counts. The first ones of both buckets: a cut in time is fair to both."""

MAX_IDS = 50_000
"""Completion ids remembered to know repetitions by: a log repeats recent records only."""


@dataclass(frozen=True, slots=True)
class GuardrailLimits:
    """What the canary may do. Ratios are of medians over users, shares are differences of means."""

    min_users: Annotated[int, "users on each side, before anything but the sample ratio is judged"] = 30
    latency_ratio: Annotated[
        float, "time per token, and to the first one; an adapter alone may cost 1.8 times the base"
    ] = 2.0
    tokens_ratio: Annotated[
        float, "answer length, longer or shorter: a collapse, not what people may want"
    ] = 8.0
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
        if min(self.latency_ratio, self.tokens_ratio) < 1 or not 0 <= self.feedback_ratio <= 1:
            raise ValueError(
                "guardrail ratios must allow an unchanged policy: latency and tokens >= 1, feedback <= 1"
            )
        if not 0 < self.sample_ratio_alpha < 1:
            raise ValueError(
                f"sample_ratio_alpha is {self.sample_ratio_alpha}; a chance between 0 and 1 is needed"
            )


@dataclass(slots=True)
class _User:
    """One user's completions so far."""

    completions: int = 0
    tokens: int = 0
    answer_tokens: int = 0
    latency_seconds: float = 0.0
    with_ttft: int = 0
    ttft_seconds: float = 0.0
    empty: int = 0
    cut_off: int = 0
    voted: bool = False

    def add(self, completion: Completion) -> None:
        self.completions += 1
        choices = completion.choices
        self.tokens += sum(choice.length for choice in choices)
        self.answer_tokens += sum(choice.answer_length for choice in choices)
        # Calls to tools have no text and are not empty: vLLM says so in the finish reason.
        silent = [c for c in choices if c.is_blank and c.finish_reason != "tool_calls"]
        self.empty += bool(choices) and len(silent) == len(choices)
        self.cut_off += any(choice.finish_reason == "length" for choice in choices)
        self.latency_seconds += completion.latency_seconds
        if completion.ttft_seconds is not None:
            self.with_ttft += 1
            self.ttft_seconds += completion.ttft_seconds


@dataclass(frozen=True, slots=True)
class Failure:
    """A guardrail that failed, in one sentence, with its numbers."""

    guardrail: str
    sentence: str
    numbers: Mapping[str, Number]


@dataclass(slots=True)
class Guardrails:
    """The tallies of one release stage, fed from the log. `scope` says which completions count."""

    limits: GuardrailLimits
    scope: Scope
    completions: int = 0  # all that were served from the scope's first epoch on, of any arm
    last_epoch: int = 0
    _seen: dict[str, None] = field(default_factory=dict)
    _canary: dict[str, _User] = field(default_factory=dict)
    _baseline: dict[str, _User] = field(default_factory=dict)
    _counted: dict[str, set[str]] = field(default_factory=lambda: {"canary": set(), "control": set()})

    def add(self, completion: Completion) -> None:
        """Count a completion once, however often the log repeats it."""
        if completion.table_epoch < self.scope.first_epoch or completion.role != "answer":
            return
        if completion.completion_id in self._seen:
            return
        self._seen[completion.completion_id] = None
        if len(self._seen) > MAX_IDS:
            del self._seen[next(iter(self._seen))]
        self.completions += 1
        self.last_epoch = max(self.last_epoch, completion.table_epoch)
        side = self._side(completion.arm, completion.policy_version)
        if side is None:
            return
        counted = self._counted.get(completion.arm)
        if counted is not None and self.canary_users + self.control_users < MAX_COUNTED:
            counted.add(completion.user)
        if completion.user in side or len(side) < MAX_USERS:
            side.setdefault(completion.user, _User()).add(completion)

    def feed(self, labels: Iterable[Label]) -> None:
        """Note who voted."""
        for label in labels:
            judged = voted_answer(label)
            if judged is None or judged[0].table_epoch < self.scope.first_epoch:
                continue
            side = self._side(judged[0].arm, judged[0].policy_version)
            if side is not None and judged[0].user in side:
                side[judged[0].user].voted = True

    def _side(self, arm: str, version: str) -> dict[str, _User] | None:
        if arm == "canary":
            return self._canary if version == self.scope.canary else None
        return self._baseline if version == self.scope.control else None

    @property
    def canary_users(self) -> int:
        return len(self._counted["canary"])

    @property
    def control_users(self) -> int:
        return len(self._counted["control"])

    def failure(self) -> Failure | None:
        """The first guardrail that fails, or None: all hold, or there is too little to judge."""
        mismatch = _sample_ratio(self.canary_users, self.control_users, self.limits)
        if mismatch is not None:
            return mismatch
        canary, baseline = list(self._canary.values()), list(self._baseline.values())
        if min(len(canary), len(baseline)) < self.limits.min_users:
            return None
        return (
            self._share("empty_answers", "empty answers", lambda u: u.empty, self.limits.empty_share)
            or self._share("cut_off_answers", "answers cut off by the token limit", lambda u: u.cut_off,
                           self.limits.length_share)
            or self._median("answer_tokens", "answer length in tokens",
                            lambda u: (u.answer_tokens, u.completions),
                            self.limits.tokens_ratio, both_ways=True)
            or self._median("token_seconds", "seconds per token",
                            lambda u: (u.latency_seconds, u.tokens), self.limits.latency_ratio)
            or self._median("ttft_seconds", "time to first token in seconds",
                            lambda u: (u.ttft_seconds, u.with_ttft), self.limits.latency_ratio)
            or self._feedback_rate(canary, baseline)
        )  # fmt: skip

    def _share(self, name: str, words: str, count: Callable[[_User], int], limit: float) -> Failure | None:
        canary, baseline = (
            [count(user) / user.completions for user in side.values()]
            for side in (self._canary, self._baseline)
        )
        ours, theirs = statistics.fmean(canary), statistics.fmean(baseline)
        error = math.hypot(_standard_error(ours, len(canary)), _standard_error(theirs, len(baseline)))
        if (ours - theirs - limit) / error < self.limits.z:
            return None
        return Failure(
            name,
            f"{words}: {ours:.1%} over {len(canary)} users against {theirs:.1%}; "
            f"at most {limit:.0%} more is allowed",
            {f"{name}_canary": ours, f"{name}_baseline": theirs, f"{name}_limit": limit},
        )

    def _median(
        self,
        name: str,
        words: str,
        total: Callable[[_User], tuple[float, int]],
        ratio: float,
        both_ways: bool = False,
    ) -> Failure | None:
        canary, baseline = (
            [amount / count for amount, count in map(total, side.values()) if count]
            for side in (self._canary, self._baseline)
        )
        if min(len(canary), len(baseline)) < self.limits.min_users:
            return None
        ours, theirs = statistics.median(canary), statistics.median(baseline)
        over = _sign_z(sum(x > ratio * theirs for x in canary), len(canary))
        under = _sign_z(sum(x < theirs / ratio for x in canary), len(canary)) if both_ways else -math.inf
        if max(over, under) < self.limits.z:
            return None
        allowed = f"{1 / ratio:.3g} to {ratio:g} times" if both_ways else f"at most {ratio:g} times"
        return Failure(
            name,
            f"{words}: median {ours:.3g} over {len(canary)} users against {theirs:.3g}; "
            f"{allowed} that is allowed",
            {f"{name}_canary": ours, f"{name}_baseline": theirs, f"{name}_ratio_limit": ratio},
        )

    def _feedback_rate(self, canary: list[_User], baseline: list[_User]) -> Failure | None:
        ours, theirs = statistics.fmean(u.voted for u in canary), statistics.fmean(u.voted for u in baseline)
        limit = self.limits.feedback_ratio * theirs
        error = math.hypot(
            _standard_error(ours, len(canary)),
            self.limits.feedback_ratio * _standard_error(theirs, len(baseline)),
        )
        if (limit - ours) / error < self.limits.z:
            return None
        return Failure(
            "feedback_rate",
            f"users who vote: {ours:.1%} of {len(canary)} against {theirs:.1%}; "
            f"at least {limit:.1%} is needed for votes to mean the same",
            {"feedback_rate_canary": ours, "feedback_rate_baseline": theirs, "feedback_rate_limit": limit},
        )


def _standard_error(mean: float, users: int) -> float:
    """Of a mean of values in [0, 1]: their variance is at most mean (1 - mean). One success and one failure
    are added, or a handful of equal values would look certain (Agresti & Coull 1998)."""
    smoothed = (mean * users + 1) / (users + 2)
    return math.sqrt(smoothed * (1 - smoothed) / users)


def _sign_z(beyond: int, users: int) -> float:
    """The sign test: by how many standard errors more than half of the users are beyond a limit."""
    return (2 * beyond - users) / math.sqrt(users)


def sample_ratio_log_evidence(canary: int, control: int) -> float:
    """Log e-value against "each user is as likely in canary as in control", valid at every look.

    The mixture over a uniform share p, int p^a (1-p)^b dp / (1/2)^(a+b), which is a!b!/(a+b+1)! 2^(a+b)
    (Lindon & Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022, equation 4).
    """
    both = canary + control
    log_beta = math.lgamma(canary + 1) + math.lgamma(control + 1) - math.lgamma(both + 2)
    return log_beta + both * math.log(2)


def _sample_ratio(canary: int, control: int, limits: GuardrailLimits) -> Failure | None:
    if sample_ratio_log_evidence(canary, control) < -math.log(limits.sample_ratio_alpha):
        return None
    return Failure(
        "sample_ratio",
        f"sample ratio: {canary} canary users against {control} control users, but the buckets are equal; "
        "something loses users of one arm, so their votes cannot be compared",
        {"canary_users": canary, "control_users": control},
    )
