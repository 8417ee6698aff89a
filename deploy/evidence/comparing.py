"""The canary's users against the control's, one measure at a time: held, failed, or not judged yet.

Pure functions of values, one for each user. A measure fails only where the difference is over its limit by
`z` standard errors. Where a side has fewer than `min_users` with such a value it is not judged yet, which is
not the same as held: nothing may be concluded from it.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from deploy.history.states import Number

State = Literal["not judged yet", "held", "failed"]
STATES: tuple[State, ...] = ("not judged yet", "held", "failed")


@dataclass(frozen=True, slots=True)
class Failure:
    """A guardrail that failed, in one sentence, with its numbers."""

    guardrail: str
    sentence: str
    numbers: Mapping[str, Number]


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one guardrail."""

    guardrail: str
    state: State
    failure: Failure | None = None


class Bar(NamedTuple):
    """What it takes to judge: users with a value on each side, and standard errors beyond a limit."""

    min_users: int
    z: float


class Sides(NamedTuple):
    """The values of the users of both buckets; users without one are left out."""

    canary: Sequence[float]
    control: Sequence[float]


def share(name: str, words: str, sides: Sides, limit: float, bar: Bar) -> Finding:
    """Whether a mean of shares is more than `limit` above the control's."""
    if min(map(len, sides)) < bar.min_users:
        return Finding(name, "not judged yet")
    ours, theirs = map(statistics.fmean, sides)
    error = math.hypot(_standard_error(ours, len(sides.canary)), _standard_error(theirs, len(sides.control)))
    if (ours - theirs - limit) / error < bar.z:
        return Finding(name, "held")
    return _failed(
        name,
        f"{words}: {ours:.1%} over {len(sides.canary)} users against {theirs:.1%}; "
        f"at most {limit:.0%} more is allowed",
        {f"{name}_canary": ours, f"{name}_baseline": theirs, f"{name}_limit": limit},
    )


def median(name: str, words: str, sides: Sides, bar: Bar, *, high: float, low: float = 0.0) -> Finding:
    """Whether the median is more than `high` times the control's, or less than `low` times it."""
    if min(map(len, sides)) < bar.min_users:
        return Finding(name, "not judged yet")
    ours, theirs = map(statistics.median, sides)
    over = _sign_z(sum(x > high * theirs for x in sides.canary), len(sides.canary))
    under = _sign_z(sum(x < low * theirs for x in sides.canary), len(sides.canary))
    if max(over, under) < bar.z:
        return Finding(name, "held")
    allowed = f"{low:.3g} to {high:.3g}" if low else f"at most {high:.3g}"
    return _failed(
        name,
        f"{words}: median {ours:.3g} over {len(sides.canary)} users against {theirs:.3g}; "
        f"{allowed} times that is allowed",
        {f"{name}_canary": ours, f"{name}_baseline": theirs, f"{name}_ratio_limit": high},
    )


def rate(name: str, words: str, sides: Sides, ratio: float, bar: Bar) -> Finding:
    """Whether a mean of shares is less than `ratio` of the control's."""
    if min(map(len, sides)) < bar.min_users:
        return Finding(name, "not judged yet")
    ours, theirs = map(statistics.fmean, sides)
    limit = ratio * theirs
    error = math.hypot(
        _standard_error(ours, len(sides.canary)), ratio * _standard_error(theirs, len(sides.control))
    )
    if (limit - ours) / error < bar.z:
        return Finding(name, "held")
    return _failed(
        name,
        f"{words}: {ours:.1%} of {len(sides.canary)} against {theirs:.1%}; "
        f"at least {limit:.1%} is needed for votes to mean the same",
        {f"{name}_canary": ours, f"{name}_baseline": theirs, f"{name}_limit": limit},
    )


def sample_ratio_log_evidence(canary: int, control: int) -> float:
    """Log e-value against "each user is as likely in canary as in control", valid at every look.

    The mixture over a uniform share p, int p^a (1-p)^b dp / (1/2)^(a+b), which is a!b!/(a+b+1)! 2^(a+b)
    (Lindon & Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022, equation 4).
    """
    both = canary + control
    log_beta = math.lgamma(canary + 1) + math.lgamma(control + 1) - math.lgamma(both + 2)
    return log_beta + both * math.log(2)


def equal_buckets(canary: int, control: int, alpha: float) -> Failure | None:
    """Whether as many users came to both buckets; alpha: the chance of ever failing where they are equal."""
    if sample_ratio_log_evidence(canary, control) < -math.log(alpha):
        return None
    return Failure(
        "sample_ratio",
        f"sample ratio: {canary} canary users against {control} control users, but the buckets are equal; "
        "something loses users of one arm, so their votes cannot be compared",
        {"canary_users": canary, "control_users": control},
    )


def _failed(name: str, sentence: str, numbers: Mapping[str, Number]) -> Finding:
    return Finding(name, "failed", Failure(name, sentence, numbers))


def _standard_error(mean: float, users: int) -> float:
    """Of a mean of values in [0, 1]: their variance is at most mean (1 - mean). One success and one failure
    are added, or a handful of equal values would look certain (Agresti & Coull 1998)."""
    smoothed = (mean * users + 1) / (users + 2)
    return math.sqrt(smoothed * (1 - smoothed) / users)


def _sign_z(beyond: int, users: int) -> float:
    """The sign test: by how many standard errors more than half of the users are beyond a limit."""
    return (2 * beyond - users) / math.sqrt(users)
