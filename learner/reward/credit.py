"""Rewards of an answer's tokens: what each span of it adds to the score of what stands before.

A reward that comes with the last token praises or blames all of an answer's tokens alike, and what single
ones did has to be found out from many answers. The reward models here can score an answer's beginning as
well, so its reward is given where it is earned: r_t = R(y_1..y_t) - R(y_1..y_{t-1}). These add up to R of the
whole answer, so the best policy stays the best one (Ng, Harada & Russell 1999, "Policy invariance under
reward transformations", with R as the potential).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from learner.reward.features import prefix_ends


def token_gains(prefixes: Sequence[Tensor], starts: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """What each token of B responses adds to its answer's score, (B, T).

    prefixes: (P,) scores of each answer's beginnings, which end at `prefix_ends`; starts: where in a response
    the thought has ended, whose tokens add nothing; lengths: of the responses, in tokens. What a span adds is
    at its last token. What all answers have after their first span is left out, as no token can change it: a
    response's gains add up to its score less one number for all.
    """
    gains = torch.zeros(len(lengths), max(lengths))
    usual = float(torch.stack([scores[0] for scores in prefixes]).mean())
    for row, (scores, start, length) in enumerate(zip(prefixes, starts, lengths, strict=True)):
        ends = torch.tensor(prefix_ends(length - start)) + start - 1
        gains[row, ends.clamp(min=0)] = scores.diff(prepend=scores.new_tensor([usual]))
    return gains
