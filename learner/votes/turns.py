"""Test of a turn of taste: an e-process on the log-loss of votes, in the order they come.

A vote is foreseen by the reward model before the model learns from it. Null hypothesis: the vote is what the
model expected but for a share `turn_share` of votes that say the opposite of what is expected, which covers
sybils, a minority whose taste changes, and a model that is too sure. Alternatives: more have turned. The
ratio of the vote's likelihoods under both, the exponential of a difference of log-losses, has a mean of at
most 1 under the null, whatever came before. So products of them are an e-process, and the chance that one
ever reaches 1 / alpha is at most alpha (Ville's inequality; Ramdas et al. 2023, arXiv:2210.01948, section 3).

An e-process that was fed for years of content has lost its capital when the turn comes. So money is put in
anew with every group of votes, 1 / (k (k + 1)) with the k-th, 1 in all: a mixture over the times at which a
turn may begin is an e-process too, and who comes k groups late pays the logarithm of k twice.

Raters who were not yet shown to agree with others count as one together in a group of votes (the mean of
their ratios): nobody can tell a turn by what newcomers say, and a crowd of them is no proof of one.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import exp, inf, isinf, log, log1p
from typing import Any

GROUP = 50
"""Votes that are looked at together."""

TURNED = (0.25, 0.5, 1.0)
"""How many have turned under the alternatives, as shares of those beyond the null hypothesis."""

SUREST = 1 - 1e-4
"""Nothing is taken to be surer than this, so no vote ends a bet."""

Foreseen = tuple[str, float, float]
"""A vote: its rater, its value in [0, 1], and what the value was expected to be."""


class TurnDetector:
    """`alpha`: the chance of an alarm, ever, while nobody turns; it begins again with every alarm. 0: none.

    `heard`: the number of the newest vote that was heard, see `LabelStore.number`; `began`: that of the
    newest at which nothing spoke for a turn.
    """

    def __init__(self, alpha: float, share: float) -> None:
        self._bound = 1 / alpha if alpha else inf
        self._share = share
        self._shares = [share + (1 - share) * part for part in TURNED]
        self.heard = self.began = 0
        self._reset()

    def _reset(self) -> None:
        self._groups = 0
        self._logs = [-inf] * len(self._shares)  # of the capital on each alternative

    def hear(self, votes: Sequence[Foreseen], proven: Mapping[str, bool], number: int) -> bool:
        """Take a group of votes into account. True when people have turned, after `began`; then all evidence
        is forgotten.

        proven: whether a rater was shown to agree with others; number: of the newest of the votes.
        """
        if self.evidence <= 1:
            self.began = self.heard
        self.heard = number
        if not votes:
            return False
        said: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for rater, value, chance in votes:
            said[rater if proven[rater] else ""].append((value, chance))
        self._groups += 1
        money = log(1 / (self._groups * (self._groups + 1)) / len(self._shares))
        for place, turned in enumerate(self._shares):
            ratios = (
                sum(likelihood_ratio(value, chance, self._share, turned) for value, chance in of_one)
                / len(of_one)
                for of_one in said.values()
            )
            self._logs[place] = _log_sum(self._logs[place], money) + sum(map(log, ratios))
        if self.evidence < self._bound:
            return False
        self._reset()
        return True

    @property
    def evidence(self) -> float:
        """The capital of who began with 1 and bets on a turn, at most 1e12."""
        rest = 1 / (self._groups + 1)  # not put in yet
        return min(rest + sum(exp(min(each, 30.0)) for each in self._logs), 1e12)

    def state(self) -> dict[str, Any]:
        """All of it as JSON types."""
        logs = [None if isinf(each) else each for each in self._logs]
        return {"heard": self.heard, "began": self.began, "groups": self._groups, "logs": logs}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what `state` described."""
        self.heard, self.began, self._groups = state["heard"], state["began"], state["groups"]
        self._logs = [-inf if each is None else each for each in state["logs"]]


def likelihood_ratio(value: float, chance: float, share: float, turned: float) -> float:
    """How much likelier a vote is when `turned` of all say the opposite than when `share` do, which is less.

    value: in [0, 1], that of a tie is 0.5; chance: what it was expected to be. Its mean is at most 1 when no
    more than `share` have turned, because it falls the more a vote sides with what was expected.
    """
    sure = min(max(chance, 1 - chance), SUREST)
    agrees = value if chance >= 0.5 else 1 - value
    before, after = (sure - part * (2 * sure - 1) for part in (share, turned))
    return agrees * after / before + (1 - agrees) * (1 - after) / (1 - before)


def _log_sum(a: float, b: float) -> float:
    low, high = min(a, b), max(a, b)
    return high + log1p(exp(low - high))
