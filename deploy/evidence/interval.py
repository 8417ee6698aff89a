"""A confidence interval that holds at every look: what a mean may be, by all that was seen so far.

A mean m is ruled out when betting against it pays: an e-process of H0 "the mean is at most m", or of "at
least m", reaches 2 / alpha at any time (deploy/evidence/betting.py). The chance that the true mean is *ever*
ruled out is at most alpha (Waudby-Smith & Ramdas, JRSS-B 86 (2024), theorem 1), so the interval may be read
after every vote, and it only becomes narrower.
"""

import math
from typing import NamedTuple

from deploy.evidence.betting import Array, log_evidence

STEPS = 24
"""Halvings of the range from -1 to 1: the ends are exact to a ten-millionth."""


class Interval(NamedTuple):
    """Ends of what the mean may be."""

    low: float
    high: float


def interval(values: Array, alpha: float = 0.05) -> Interval:
    """What the mean of values in [-1, 1] may be: (n,). alpha: the chance of ever ruling the truth out."""
    return Interval(_lowest(values, alpha), -_lowest(-values, alpha))


def _lowest(values: Array, alpha: float) -> float:
    """The lowest mean that is not ruled out. A lower one is ruled out whenever a higher one is."""
    bound = math.log(2 / alpha)
    low, high = -1.0, 1.0
    if not values.size:
        return low
    for _ in range(STEPS):
        middle = (low + high) / 2
        if (
            log_evidence((values - middle) / 2).max() >= bound
        ):  # halved: a difference of 2 loses no more than all
            low = middle
        else:
            high = middle
    return low
