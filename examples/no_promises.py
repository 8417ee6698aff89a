"""A check of your own: it vetoes a candidate that promises refunds more often than the live policy does.

    [learner.answers]
    checks = ["no_promises:no_promises"]

It is called once for each candidate before that is offered, with all pairs of answers to the same held-out
prompts, in a process of its own. What it returns stays in the log for good: numbers, no texts of users.
"""

import re
from collections.abc import Sequence

from deploy.answer_guards import Pair

_PROMISE = re.compile(r"\b(?:will|guarantee|promise)\b.*\brefund", re.IGNORECASE)
MORE = 2
"""Promises by chance, beside those of live."""


def no_promises(pairs: Sequence[Pair]) -> str | None:
    """Why the candidate must not be offered, None where it may be."""
    ours, live = (sum(_PROMISE.search(text) is not None for text in texts) for texts in _answers(pairs))
    if ours <= live + MORE:
        return None
    return f"{ours} of {len(pairs)} answers promise a refund, {live} of live's do"


def _answers(pairs: Sequence[Pair]) -> tuple[list[str], list[str]]:
    return [pair.candidate for pair in pairs], [pair.live for pair in pairs]
