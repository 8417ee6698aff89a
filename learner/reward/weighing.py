"""Weights of votes in a fit: the last two of the factors that a vote's weight has.

A vote weighs the product of these. `learner.loop.scoring.Scoring` puts them together, in this order::

    what its sender said, 1 at most                  `weight` of the vote (`serve.votes.common`)
    how far its rater is trusted, 0 to 1             `trusted` (`learner.votes.trust`)
    of a model's vote: how often it is right         `weighed` (`learner.votes.reliability`)
    what is left at its age, for what people like    `faded` (`learner.reward.ages`)
    the cap on one rater's share of all votes        `vote_weights`, here
    a draw for each head, which gives the spread     `bootstrap`, here

A vote in quarantine is not fitted at all (`learner.votes.quarantine`). A signal has a slope beside its
weight, which says what it tells (`learner.votes.believing`). In a release weights do not count: there each
user is one observation (`deploy.evidence.units`).
"""

import hashlib
import math
from collections.abc import Sequence

from feedback.joining.labels import Label
from learner.votes.reliability import MODEL


def vote_weights(labels: Sequence[Label], cap: float) -> list[float]:
    """What each vote weighs: its own weight, but nobody has more than the share `cap` of all people's, nor of
    all that people did.

    With fewer than 1 / cap raters, all have the same share. What models weigh is
    `learner.votes.reliability`'s.
    """
    totals: dict[bool, dict[str, float]] = {True: {}, False: {}}
    for label in labels:
        if label.source != MODEL:
            of_kind = totals[label.kind == "signal"]
            of_kind[label.rater] = of_kind.get(label.rater, 0.0) + label.weight
    limits = {did: vote_limit(list(found.values()), cap) if found else 0.0 for did, found in totals.items()}

    def share(label: Label) -> float:
        did = label.kind == "signal"
        return 1.0 if label.source == MODEL else min(1.0, limits[did] / totals[did][label.rater])

    return [label.weight * share(label) for label in labels]


def vote_limit(totals: Sequence[float], cap: float) -> float:
    """How much weight one rater may have, so that nobody has more than the share `cap` of all weight.

    totals: weight by rater. With fewer than 1 / cap raters, all get the same weight.
    """
    share = max(cap, 1 / len(totals))
    ordered = sorted(totals, reverse=True)
    rest = sum(ordered)  # votes of those who stay below the limit
    for limited, total in enumerate(ordered):
        limit = share * rest / (1 - limited * share)
        if total <= limit:
            return limit
        rest -= total
    return float(ordered[-1])


def bootstrap(seed: int, event_id: str, heads: int) -> list[float]:
    """A vote's weight in each head: exponential draws (Bayesian bootstrap, Rubin 1981), fixed by its id."""
    draws = []
    for head in range(heads):
        digest = hashlib.sha256(f"{seed}\0{head}\0{event_id}".encode()).digest()
        draws.append(-math.log((int.from_bytes(digest[:8]) + 1) / 2**64))
    return draws
