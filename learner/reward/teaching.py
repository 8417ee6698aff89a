"""What the reward model leaves to be asked, as `feedback.updates.teaching.Hint`s tell it.

The posterior of the words' weights by Laplace's approximation, of which only the diagonal is kept: a vote
on answers that differ by d adds p (1 - p) d^2 to a weight's precision. In a simulation choices by the
diagonal alone spared nearly as many votes as those by the whole matrix, which is too large to be told.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from feedback.joining.labels import Answer, Label
from feedback.updates.teaching import Hint
from learner.reward.heads import Heads

MOST_TOKENS = 2000
"""Tokens of a hint, those that votes spoke of most; the others are told to be unknown. About 40 kB of the
log."""


@torch.no_grad()
def hint_of(
    heads: Heads, labels: Sequence[Label], update: int, at: float, most_tokens: int = MOST_TOKENS
) -> Hint:
    """The hint of an update. heads: fitted ones that look at tokens and at length; labels: what they were
    fitted to; at: Unix time."""
    weights, spread = heads.worth("tokens")
    length_weight, length_spread = (float(found[0]) for found in heads.worth("length"))
    votes = [label for label in labels if label.kind != "signal" and label.answers]
    scores = heads.mean_of([answer for label in votes for answer in label.answers]).tolist()
    heard, length_heard = torch.zeros(len(weights)), 0.0
    start = 0
    for label in votes:
        end = start + len(label.answers)
        for differing, longer, margin in _differences(label.answers, scores[start:end], len(weights)):
            doubt = label.weight * float(torch.sigmoid(margin) * torch.sigmoid(-margin))
            heard[differing] += doubt
            length_heard += doubt * longer**2
        start = end
    variances = 1 / (spread**-2 + heard)
    told = torch.argsort(heard, descending=True)[: min(most_tokens, int((heard > 0).sum()))].tolist()
    return Hint(
        event_id=f"hint-{update}",
        at=at,
        update=update,
        folds=len(weights),
        prior=_rounded(float(spread.min()) ** 2),
        length=(_rounded(length_weight), _rounded(1 / (length_spread**-2 + length_heard))),
        tokens=told,
        weights=[_rounded(float(weights[token])) for token in told],
        variances=[_rounded(float(variances[token])) for token in told],
    )


def _differences(
    answers: Sequence[Answer], scores: Sequence[float], folds: int
) -> list[tuple[list[int], float, Tensor]]:
    """What a vote's answers differ by: tokens, log length, score. An answer alone differs from nothing."""
    said = [{token % folds for token in answer.judged[1]} for answer in answers]
    lengths = [len(answer.judged[1]) for answer in answers]
    if len(answers) == 1:
        return [([*said[0]], 0.0, torch.tensor(scores[0]))]
    logs = torch.tensor(lengths).log1p().tolist()
    return [
        ([*(said[i] ^ said[j])], logs[i] - logs[j], torch.tensor(scores[i] - scores[j]))
        for i, j in pairwise(range(len(answers)))
    ]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
