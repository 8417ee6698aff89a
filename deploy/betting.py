"""A mixture betting e-process: evidence that may be looked at after every observation.

A gambler with capital 1 bets that a bounded mean is above `-margin`. If it is not, no strategy multiplies
the capital in expectation, and the chance that it *ever* reaches b is at most 1/b (Ville's inequality):
capital 20 rejects at level 1/20 however often one looks. The wealth process is the hedged capital of
Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 86 (2024), section 4,
with a fixed grid of bets in place of a predictable one.
"""

import math

BETS = (0.02, 0.04, 0.08, 0.16, 0.32)
"""The fractions of its capital that the gambler stakes, one fifth of the initial capital on each. A small
mean difference is found by the small bets, a large one quickly by the large."""


class EProcess:
    """E_t(m) = mean_k prod_{i<=t} (1 + l_k (D_i + m)) with l_k in `BETS`, D_i in [-1, 1], H0: mean D <= -m.

    Kept as logarithms: products of thousands of factors neither overflow nor vanish.
    """

    def __init__(self, margin: float = 0.0) -> None:
        if not 0 <= margin < 1:
            raise ValueError(f"margin is {margin}; a share of the scale from 0 up to 1 is needed")
        self.margin = margin
        self._log_capital = [0.0] * len(BETS)

    def observe(self, difference: float) -> None:
        """Bet on one more difference in [-1, 1]; raises `ValueError` outside, where nothing is guaranteed."""
        if not -1 <= difference <= 1:
            raise ValueError(f"difference {difference} is outside [-1, 1]")
        gain = difference + self.margin
        self._log_capital = [
            log + math.log1p(bet * gain) for log, bet in zip(self._log_capital, BETS, strict=True)
        ]

    @property
    def log_evidence(self) -> float:
        """log E_t."""
        top = max(self._log_capital)
        return top + math.log(sum(math.exp(log - top) for log in self._log_capital) / len(BETS))

    def reaches(self, bound: float) -> bool:
        """Whether E_t >= bound. Cheap while it is far off: no mean is above its largest part."""
        log_bound = math.log(bound)
        return max(self._log_capital) >= log_bound and self.log_evidence >= log_bound

    @property
    def evidence(self) -> float:
        """E_t, cut off at 1e12 (evidence enough, and a number that every format can hold)."""
        return math.exp(min(self.log_evidence, math.log(1e12)))
