"""The policy part of its way home: all its B matrices times a number, and which number is offered.

An adapter changes a weight by B A, so half of B is half of the change: a policy between the base and where it
was trained to, with less KL and, mostly, a lower win rate (Wortsman et al. 2022, arXiv:2109.01903, for whole
weights). One that went past a KL limit, or past what people like, may be right a part of the way home.

The scale is chosen on prompts of its own, and what is chosen is judged on others. A choice among several
favours the one whose noise was luckiest; on prompts that nobody chose by, luck is fair again, so the gate's
limits hold as they stand. To correct for the number of looks would take as many answers (all scales to all
prompts) and ask for a higher win rate: .594 rather than .573 of 128 prompts for three scales.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from learner.model.shared import POLICY, SharedModel


@dataclass(frozen=True, slots=True)
class Tried:
    """What a scale came to on the prompts that are there to choose by.

    win_rate: judged, against live; limit_share: the upper confidence bound of the KL over its limit, of the
    reference where that is more; forgets: whether a guard that needs no answers refuses it.
    """

    scale: float
    win_rate: float
    limit_share: float
    forgets: bool = False


def choose(tried: Sequence[Tried]) -> float:
    """The scale to offer: of those within the KL limits that forget nothing the one that wins most often, of
    equal ones the smallest. Where there is none, the one that is nearest to it. `tried` must not be empty."""
    inside = [each for each in tried if each.limit_share <= 1 and not each.forgets]  # nor one that is nan
    if inside:
        return max(inside, key=lambda each: (each.win_rate, -each.scale)).scale
    return min(tried, key=_distance).scale


def _distance(tried: Tried) -> tuple[bool, float, float]:
    """How far a scale is from the limits: first whether the KL is known at all, then how large it is."""
    is_unknown = tried.limit_share != tried.limit_share
    return is_unknown, 0.0 if is_unknown else tried.limit_share, tried.scale


def scale_policy(model: SharedModel, scale: float) -> None:
    """Multiply the policy's B matrices. The same weights and scale give the same bits."""
    state = model.adapter_state(POLICY)
    scaled = {key: value * scale if ".lora_B." in key else value for key, value in state.items()}
    model.load_adapter_state(POLICY, scaled)


@contextmanager
def borrowed(model: SharedModel) -> Iterator[None]:
    """After the block the policy is what it was before, bit for bit."""
    before = model.adapter_state(POLICY)
    try:
        yield
    finally:
        model.load_adapter_state(POLICY, before)


@contextmanager
def scaled(model: SharedModel, scale: float) -> Iterator[None]:
    """The policy is scaled for the length of the block."""
    with borrowed(model):
        scale_policy(model, scale)
        yield
