"""A mixture betting e-process: evidence that may be looked at after every observation.

A gambler with capital 1 bets that a bounded mean is above 0. If it is not, no strategy multiplies the capital
in expectation, and the chance that it *ever* reaches b is at most 1/b (Ville's inequality): capital 20
rejects at level 1/20 however often one looks. The wealth process is the hedged capital of Waudby-Smith &
Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 86 (2024), section 4, with a fixed
mixture of bets in place of a predictable one.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BETS = (0.04, 0.1, 0.2, 0.35, 0.6)
WEIGHTS = (0.1, 0.25, 0.3, 0.2, 0.15)
"""The fractions of its capital that the gambler stakes, and the shares of the first capital behind them. A
small mean is found by the small bets, a large one quickly by the large."""

MAX_LOG = 12 * float(np.log(10))
"""Evidence is cut off at 1e12 where it is shown: enough, and a number that every format can hold."""


def log_evidence(gains: Array) -> Array:
    """log E_t after each of the gains: (n,) -> (n,). H0: each gain is at most 0 in expectation, given those
    before.

    E_t = sum_k w_k prod_{i<=t} (1 + l_k g_i). Raises `ValueError` as `capitals` does.
    """
    return mixed(capitals(gains))[1:]


def capitals(gains: Array, before: Array | None = None) -> Array:
    """Logarithms of what became of a stake of 1 by each bet, before and after each of the gains: (n,) ->
    (bets, n + 1).

    before: (bets,), where gains came before these. Gains are -1.6 or more: the largest bet, 0.6, loses less
    than all then. Raises `ValueError` for a lower one, where nothing is guaranteed.
    """
    if gains.size and not gains.min() >= -1.6:
        raise ValueError(
            f"a gain of {gains.min()} is below -1.6, and a bet of {BETS[-1]} on it could lose all"
        )
    logs = np.zeros((len(BETS), gains.size + 1))
    if before is not None:
        logs[:, 0] = before
    for log, bet in zip(logs, BETS, strict=True):
        log[1:] = np.log1p(bet * gains)
    return np.asarray(np.cumsum(logs, axis=1))


def mixed(logs: Array) -> Array:
    """log E of stakes' capitals: (bets, n) -> (n,)."""
    logs = logs + np.log(WEIGHTS)[:, None]
    top = logs.max(axis=0)
    return np.asarray(top + np.log(np.exp(logs - top).sum(axis=0)))


def shown(log_value: float) -> float:
    """Evidence from its logarithm, 1e12 at most."""
    return float(np.exp(min(log_value, MAX_LOG)))
