"""The offline gate: may a candidate be shown to users at all? A pure function of its manifest's numbers."""

import math
from dataclasses import dataclass
from typing import Annotated

from deploy.registry.manifest import GateNumbers


@dataclass(frozen=True, slots=True)
class GateLimits:
    """What a candidate must reach. The KL budgets (nats per response) come with the numbers themselves."""

    win_rate_low: Annotated[float, "the lower end of the win rate's interval must be above this"] = 0.5
    prompts: Annotated[int, "held-out prompts behind the comparison, at least"] = 32
    length_ratio_low: Annotated[
        float, "least mean answer length over the live policy's; people may want answers a fifth as long"
    ] = 0.125
    length_ratio_high: Annotated[
        float, "largest mean answer length over the live policy's: no runaway, but what people may want"
    ] = 8.0

    def __post_init__(self) -> None:
        if not 0 <= self.win_rate_low < 1:
            raise ValueError(f"win_rate_low is {self.win_rate_low}; a share below 1 is needed")
        if not 0 <= self.length_ratio_low < 1 < self.length_ratio_high:
            raise ValueError(
                f"length ratios {self.length_ratio_low} to {self.length_ratio_high} do not enclose 1, "
                "so that an unchanged policy would fail"
            )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the candidate may go on, and why in one sentence. report: a line for each guard."""

    passed: bool
    sentence: str
    report: tuple[str, ...] = ()


def verdict(numbers: GateNumbers, limits: GateLimits) -> Verdict:
    """Judge a candidate's offline comparison. The first limit that it misses names the refusal."""
    report = tuple(guard.sentence for guard in numbers.guards)
    problem = _problem(numbers, limits)
    if problem is not None:
        return Verdict(False, problem, report)
    return Verdict(
        True,
        f"win rate {numbers.win_rate:.2f} (low {numbers.win_rate_low:.2f}) on {numbers.prompts} prompts"
        f"{_at_scale(numbers)}, "
        f"KL {numbers.kl_nats_base:.2f} nats to base and {numbers.kl_nats_live:.2f} to live"
        f"{_unjudged(numbers)}",
        report,
    )


def _at_scale(numbers: GateNumbers) -> str:
    return "" if numbers.scale == 1 else f" with {numbers.scale:g} of what was trained"


def _unjudged(numbers: GateNumbers) -> str:
    """The guards that had too little to judge by: a candidate that passes was not held against them."""
    names = [guard.name for guard in numbers.guards if guard.best is None]
    return f"; not guarded, for want of data: {', '.join(names)}" if names else ""


def _problem(numbers: GateNumbers, limits: GateLimits) -> str | None:
    for name in (
        "win_rate",
        "win_rate_low",
        "kl_nats_base",
        "kl_nats_live",
        "response_tokens",
        "response_tokens_live",
    ):
        value = getattr(numbers, name)
        if not math.isfinite(value):
            return f"{name} is {value}; a finite number is needed"
    if numbers.prompts < limits.prompts:
        return f"{numbers.prompts} prompts are too few; at least {limits.prompts} are needed"
    for reference in ("base", "live"):
        kl, high, budget = (
            getattr(numbers, name.format(reference))
            for name in ("kl_nats_{}", "kl_nats_{}_high", "kl_budget_nats_{}")
        )
        if not math.isfinite(budget):
            return f"there is no budget of KL to {reference}; a finite number is needed"
        if not kl <= budget:
            return f"KL to {reference} is {kl:.3f} nats, over the budget of {budget:.3f}"
        if high is not None and not high <= budget:
            return (
                f"KL to {reference} is {kl:.3f} nats and may be as high as {high:.3f}, "
                f"over the budget of {budget:.3f}"
            )
    if numbers.win_rate_low <= limits.win_rate_low:
        return (
            f"the win rate is {numbers.win_rate:.3f} and may be as low as {numbers.win_rate_low:.3f}; "
            f"it has to be above {limits.win_rate_low:.3f}"
        )
    return _length_problem(numbers, limits) or _veto(numbers) or _guard_problem(numbers)


def _veto(numbers: GateNumbers) -> str | None:
    return f"vetoed, {'; '.join(numbers.vetoes)}" if numbers.vetoes else None


def _guard_problem(numbers: GateNumbers) -> str | None:
    refusing = [guard.sentence for guard in numbers.guards if guard.refuses]
    return f"guards are against it, {'; '.join(refusing)}" if refusing else None


def _length_problem(numbers: GateNumbers, limits: GateLimits) -> str | None:
    if numbers.response_tokens_live <= 0:
        return None if numbers.response_tokens <= 0 else "the live policy's answers have no measured length"
    ratio = numbers.response_tokens / numbers.response_tokens_live
    if limits.length_ratio_low <= ratio <= limits.length_ratio_high:
        return None
    return (
        f"answers are {ratio:.2f} times as long as the live policy's; "
        f"{limits.length_ratio_low:g} to {limits.length_ratio_high:g} times is allowed"
    )
