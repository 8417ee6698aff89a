"""A version that users like for twelve hours and that then does harm, while the next candidate is on trial.

The holdback is over by then, because a candidate waits: what is left is the anchor (deploy/decide/anchor.py).
"""

import numpy as np

from bench._services import DELAY_SECONDS, SECONDS, WEIGHT, World, comparisons_of, preferred, thumbs_of
from deploy.decide import anchor
from deploy.decide.release import ReleaseRules
from deploy.evidence.matching import MATCHES, Matching
from deploy.evidence.preference import EvidenceRules
from deploy.evidence.proving import read
from deploy.evidence.streams import ballots, heard
from deploy.evidence.units import Unit
from deploy.history.scope import Side
from deploy.history.states import Standing

HOUR = 3600.0
GOOD_HOURS = 12
PERIODS = 8
MEAN = World().mean


def late_harm(
    rules: ReleaseRules, evidence: EvidenceRules, liked: float, harm: float, compares: float, seed: int
) -> float | None:
    """Hours from the beginning of harm until live is rolled back; None: not within `PERIODS` periods.

    liked, harm: live's effect against the anchor, before and after. compares: the share of the anchor's users
    who choose between its answer and live's. Negative: it was rolled back before.
    """
    rng = np.random.default_rng(seed)
    standing = Standing(live="policy-2", period=1, began_at=0.0, first_epoch=1)
    for number in range(PERIODS):
        start = number * rules.anchor_seconds
        matching = Matching(evidence.match_seconds)
        seen = heard(matching.take(_units(start, rules, (liked, harm), compares, rng)))
        reading = read(seen, {"default": seen}, ballots([]), anchor.rules_of(standing, evidence))
        if reading.crossed == "harm":
            return float((reading.at - GOOD_HOURS * HOUR) / HOUR)
        carried = anchor.carried(standing, reading)
        standing = standing.model_copy(update={"period": number + 2, "evidence": carried})
    return None


def _units(
    start: float,
    rules: ReleaseRules,
    effects: tuple[float, float],
    compares: float,
    rng: np.random.Generator,
) -> list[Unit]:
    """The users of a period who are heard: the anchor's, and as many of live's as can be matched."""
    every = SECONDS * WEIGHT / rules.anchor_weight
    units: list[Unit] = []
    sides: tuple[tuple[Side, float], ...] = (("old", every), ("new", every / (MATCHES + 1)))
    for side, seconds in sides:
        count = rng.poisson(rules.anchor_seconds / seconds)
        served = start + rng.uniform(0, rules.anchor_seconds, count)
        closes = served + rng.exponential(DELAY_SECONDS, count) + EvidenceRules().window_seconds
        felt = np.where(served < GOOD_HOURS * HOUR, *effects)
        thumbs, _ = thumbs_of(MEAN + (felt if side == "new" else 0.0 * felt), World(), rng)
        asked = compares if side == "old" else 0.0  # live's users choose between two of its own answers
        chosen, _ = comparisons_of(preferred(felt, MEAN), asked, rng)
        units += [
            Unit(
                float(at), f"{side}{start}-{i}", side, "", float(thumb), None if np.isnan(choice) else choice
            )
            for i, (at, thumb, choice) in enumerate(zip(closes, thumbs, chosen, strict=True))
        ]
    return sorted(units)
