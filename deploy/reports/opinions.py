"""What users said of each version that met them, with intervals, out of the numbers of decisions. Pure.

A decision has the share and the number of users and not what each of them said, so the interval is one of
these two alone. It holds at every look, as that of `hearken report` does (deploy/evidence/interval.py), which
has every user's word and may be narrower.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deploy.history.releases import Decision
from deploy.history.states import Outcome

ALPHA = 0.05
"""The chance that an interval ever leaves the truth out."""

TUNED_TO = 100
"""Users at whose number the interval is narrowest, compared with what it could be."""

JUDGED: frozenset[Outcome] = frozenset({"promoted", "harmful", "guardrail", "inconclusive"})
"""Outcomes that end what a version was tried for, with what users said by then."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, the interval that it may lie in, and of how many users it is."""

    value: float
    low: float
    high: float
    users: int


@dataclass(frozen=True, slots=True)
class Opinion:
    """What users said of a version against another. at: Unix time. outcome: what became of it; None: it is on
    trial. preferred: by those who compared both, a share; thumbs: its share of thumbs up less the other's.
    None: nobody said so.
    """

    at: float
    version: str
    against: str
    outcome: Outcome | None
    preferred: Estimate | None
    thumbs: Estimate | None

    def told(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def estimate(mean: float, users: int, deviation: float, ends: tuple[float, float]) -> Estimate:
    """The interval of a mean of bounded values, one of each user, that holds at every look.

    deviation: half of the values' range; ends: what the mean can be. The two-sided normal mixture of Howard,
    Ramdas, McAuliffe & Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of
    Statistics 49 (2021), equation 14, for values that are sub-Gaussian because they are bounded.
    """
    variance = deviation**2
    logs = 2 * math.log(1 / ALPHA)
    rho = TUNED_TO * variance / (logs + math.log(1 + logs))
    spread = users * variance + rho
    radius = math.sqrt(spread * (math.log(spread / rho) + logs)) / users
    return Estimate(mean, max(ends[0], mean - radius), min(ends[1], mean + radius), users)


def opinion(
    at: float, version: str, against: str, outcome: Outcome | None, numbers: Mapping[str, Any]
) -> Opinion | None:
    """An opinion out of the numbers of a decision, or of the evidence of a running release, which have the
    same names; None where they say nothing of users."""
    if "compared" not in numbers or "pairs" not in numbers:
        return None
    return Opinion(at, version, against, outcome, *estimates(numbers))


def estimates(numbers: Mapping[str, Any]) -> tuple[Estimate | None, Estimate | None]:
    """`Opinion.preferred` and `Opinion.thumbs` out of such numbers."""
    compared, pairs = int(numbers["compared"]), int(numbers["pairs"])
    preferred, thumbs = numbers.get("preferred"), numbers.get("mean_difference")
    return (
        estimate(preferred, compared, 0.5, (0.0, 1.0)) if preferred is not None and compared else None,
        estimate(thumbs, pairs, 1.0, (-1.0, 1.0)) if thumbs is not None and pairs else None,
    )


def of_decisions(decisions: Iterable[Decision]) -> list[Opinion]:
    """What users had said of each version when its trial, or its holdback, ended, in their order."""
    found = []
    for each in decisions:
        if each.outcome not in JUDGED or each.version is None:
            continue
        table = each.state.table
        against = table.control if each.outcome == "promoted" else table.live
        said = opinion(each.at, each.version, against or table.live, each.outcome, each.numbers)
        if said is not None:
            found.append(said)
    return found


def of_trial(state: Mapping[str, Any], at: float) -> Opinion | None:
    """What users have said so far of the version on trial. state: as `deploy.reports.status.summary` has it,
    with the evidence; None where no canary runs, or its evidence is not known."""
    if state.get("stage") != "canary" or not state.get("evidence"):
        return None
    return opinion(at, state["canary"], state["control"], None, state["evidence"])


def known(decisions: Iterable[Decision], state: Mapping[str, Any], at: float) -> list[Opinion]:
    """`of_decisions`, and then `of_trial`."""
    trial = of_trial(state, at)
    return [*of_decisions(decisions), *([] if trial is None else [trial])]


def newest(opinions: Sequence[Opinion]) -> Opinion | None:
    """Of the version that met users last; None where none ever did."""
    return opinions[-1] if opinions else None
