"""Lengths of rollouts, and KL limits that follow the length of answers. Pure; no torch here."""

import math
from collections.abc import Sequence

KL_TOKENS = 64
"""KL limits are given in nats per response of so many tokens."""

HEADROOM = 1.5
"""A rollout's limit over the log's long answers: a policy may learn to answer at greater length."""

FEW_CUT_OFF = 0.05
"""The share of a batch that may be cut off before that costs anything, and the next one's may be longer."""

FLOOR = 64
"""Tokens. A log of a few short answers says little about how long an answer may be."""

LAM = 0.95
"""Lambda of advantage estimation for short responses."""

REACH = 1.3
"""A reward at the end reaches a response's first token by exp(-REACH), a quarter, at least."""


def default_lam(tokens: float, *, at_the_end: bool = True) -> float:
    """Lambda of advantage estimation for responses of `tokens` tokens on average. at_the_end: whether the
    reward comes with the last token; where each has its own (`learner.reward.credit`), it need not reach far.

    A constant one forgets: at .95 a twentieth of the last token's reward reaches the first of 60, and nothing
    the first of 500. So lambda grows with the length, as in Yue et al. 2025 (arXiv:2504.05118, there as
    1 - 20 / length): from `LAM`, which was measured at 26 tokens, on as 1 - REACH / tokens.
    """
    return max(LAM, 1 - REACH / tokens) if tokens and at_the_end else LAM


def kl_limit(nats: float, tokens: float) -> float:
    """A KL limit (nats per response) for responses of `tokens` tokens on average.

    KL is a sum over tokens, so the same change of style costs twice as much in answers that are twice as
    long. Up to `KL_TOKENS` the limit is as given; beyond, it grows in proportion.
    """
    return nats * max(1.0, tokens / KL_TOKENS)


def kl_limit_at(nats: float, tokens: float, other_tokens: float) -> float:
    """A limit that held for responses of `tokens` tokens on average, for those of `other_tokens`."""
    return nats * kl_limit(1.0, other_tokens) / kl_limit(1.0, tokens)


def rollout_tokens(lengths: Sequence[int], quantile: float, most: int) -> int:
    """The longest rollout, in tokens: what fits `quantile` of the answers in the log, with headroom.

    lengths: of the newest answers, in tokens; `most` bounds the result, and is it where nothing is known.
    """
    if not lengths:
        return most
    ordered = sorted(lengths)
    long = ordered[min(math.ceil(quantile * len(ordered)), len(ordered)) - 1]
    return min(most, max(FLOOR, math.ceil(HEADROOM * long)))


def users_limit(lengths: Sequence[int], cut_off: Sequence[bool], most: int) -> int:
    """The longest answer that users let a policy give, in tokens; at most `most`.

    lengths, cut_off: of the newest answers. Where the longest were cut off, nobody saw more than that, and a
    policy that learned to answer at greater length would be cut off by its users. Where they came to their
    end, nothing is known of a limit.
    """
    longest = max(lengths, default=most)
    is_limit = any(cut for length, cut in zip(lengths, cut_off, strict=True) if length == longest)
    return min(longest, most) if is_limit else most


def cut_off_penalty(most: float, cut_off_ratio: float) -> float:
    """What each cut-off answer of a batch costs, in units of the score; near `most` where most are.

    Every model leaves a few answers without an end. Fining those teaches nothing but to be short: they have
    the most tokens, so their gradient is the largest.
    """
    return most * max(0.0, 1 - FEW_CUT_OFF / cut_off_ratio) if cut_off_ratio else 0.0


def after_cut_off(limit: int, cut_off_ratio: float, most: int) -> int:
    """The limit for the next batch: more when too many answers of this one did not come to their end."""
    return min(most, math.ceil(HEADROOM * limit)) if cut_off_ratio > FEW_CUT_OFF else limit
