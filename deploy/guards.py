"""Guards against forgetting: what a candidate must still be able to do, held against where the service began.

The anchor of all of them is the frozen base, or the version 0 that a service started with. A candidate may
lose a little with every release; held against the one before it, that would never be seen.

A guard has a figure, measured on so many texts, and refuses where even the end of its confidence interval
that speaks for the candidate is past the limit. So noise alone refuses a candidate rarely: one that is just
at all limits is refused with a chance of about `GuardLimits.error`, all guards together, and one that is
better less often. A guard that has too little to measure on says so, and refuses nothing.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict

REFUSAL = (
    r"\b(?:i|we)(?:['’]m| am|['’]re| are)? (?:sorry,? but )?(?:can(?:['’]t|not| not)|won['’]t|will not|"
    r"unable to|not able to|must decline)\b"
)
"""How answers in English say that they will not do it: "I'm sorry, but I can't", "We are unable to"."""


class SharedError:
    """Limits whose guards share one chance of an error."""

    __slots__ = ()
    error: float

    def z(self, guards: int) -> float:
        """The quantile that a guard's one-sided interval has when so many measured something: the error is
        shared out in equal parts (Bonferroni)."""
        return NormalDist().inv_cdf(1 - self.error / max(guards, 1))


@dataclass(frozen=True, slots=True)
class GuardLimits(SharedError):
    """What a candidate may lose against the frozen base, or the version 0 that a service started with."""

    prompts: Annotated[
        Path | None,
        'JSON lines of {"prompt": a text or a list of chat messages} that users do not send: a second '
        "domain, on which the base's own answers must stay likely; of 48 or more of these half are imitated "
        "in training and the others judge. Without it that is not guarded",
    ] = None
    demonstration_perplexity: Annotated[
        float, "most perplexity of answers that judging raters wrote, as a multiple of the anchor's"
    ] = 1.1
    second_domain_perplexity: Annotated[
        float, "most perplexity of the base's own answers on the second domain, as a multiple of the anchor's"
    ] = 1.02
    tool_calls_fall: Annotated[
        float, "by how much the share of answers that call a tool as they should may fall, on such prompts"
    ] = 0.1
    refusals_rise: Annotated[float, "by how much the share of answers that refuse may rise"] = 0.1
    refusal_pattern: Annotated[
        str, "regular expression that finds a refusal in the first 200 characters of an answer, in any case"
    ] = REFUSAL
    cluster_win_rate: Annotated[
        float, "least judged win rate against the anchor's answers in each cluster of similar prompts"
    ] = 0.4
    clusters: Annotated[int, "clusters of similar prompts; fewer where there are too few prompts"] = 4
    least: Annotated[int, "texts, or prompts of a cluster, that a guard needs"] = 16
    error: Annotated[
        float, "chance that a candidate which is just at every limit is refused by any of the guards"
    ] = 0.05

    def __post_init__(self) -> None:
        for name in ("demonstration_perplexity", "second_domain_perplexity"):
            if not getattr(self, name) > 1:
                raise ValueError(f"{name} is {getattr(self, name)}; above 1, or the anchor itself is refused")
        for name in ("tool_calls_fall", "refusals_rise"):
            check_share(name, getattr(self, name))
        if not 0 <= self.cluster_win_rate < 0.5:
            raise ValueError(
                f"cluster_win_rate is {self.cluster_win_rate}; it must lie between 0 and 0.5, "
                "which the anchor itself has"
            )
        check_error(self.error)
        if self.clusters < 1 or self.least < 8:
            raise ValueError("clusters must be at least 1, and least at least 8: an interval needs as many")
        check_pattern("refusal_pattern", self.refusal_pattern)


def check_share(name: str, share: float) -> None:
    """Raises `ValueError` for what is no share that something may rise or fall by."""
    if not 0 < share <= 1:
        raise ValueError(f"{name} is {share}; a share above 0, at most 1, is needed")


def check_pattern(name: str, pattern: str) -> None:
    """Raises `ValueError` for what is no regular expression."""
    try:
        re.compile(pattern)
    except re.error as why:
        raise ValueError(f"{name} is no regular expression: {why}") from None


def check_error(error: float) -> None:
    """Raises `ValueError` for what is no chance of an error."""
    if not 0 < error < 0.5:
        raise ValueError(f"error is {error}; it must lie between 0 and 0.5")


class Guard(BaseModel):
    """What one guard found of a candidate.

    figure: measured on `count` texts; best: the end of its confidence interval that speaks for the candidate;
    limit: what best must not be past, which is above it for "at most" and below it for "at least". Both are
    None where there was too little to measure on, and `lacks` says of what.
    """

    model_config = ConfigDict(frozen=True, extra="allow", ser_json_inf_nan="strings")

    name: str
    what: str  # what the figure is, for people
    figure: float | None = None
    best: float | None = None
    limit: float
    side: Literal["at most", "at least"]
    count: int = 0
    lacks: str = ""

    @property
    def refuses(self) -> bool:
        """Whether the candidate must not be published. What is not a number is past any limit."""
        if self.best is None:
            return False
        inside = self.best <= self.limit if self.side == "at most" else self.best >= self.limit
        return not inside

    @property
    def sentence(self) -> str:
        """What it found, in one line."""
        if self.figure is None or self.best is None:
            return f"{self.name}: not judged, {self.lacks}"
        best = self.best if math.isfinite(self.best) else math.nan
        return (
            f"{self.name}: {self.what} is {self.figure:.3f}, or {best:.3f} at best, on {self.count}; "
            f"{self.side} {self.limit:g} is allowed"
        )
