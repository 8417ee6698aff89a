"""The learner watching itself: is the policy still getting better, or only better at pleasing its score?

A policy that climbs a reward model long enough finds what the model likes and people do not (Gao et al. 2023,
arXiv:2210.10760): the score goes on rising while what people think of the answers falls. Nobody can see that
in the score. The judging model was fitted to other raters' votes and is climbed by nobody, so its opinion of
the same rollouts is what the score is held against; lengths, entropy and KL show the usual ways there.

Every rollout batch gives one `Observation`, beside what the live policy was like when its training began;
`concern` says from all since then why the policy must not be published, if it must not.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Literal

from learner.monitor.lengths import kl_limit

Reason = Literal["over-optimised", "length drift", "entropy collapse", "KL runaway"]
REASONS: tuple[Reason, ...] = ("over-optimised", "length drift", "entropy collapse", "KL runaway")


@dataclass(frozen=True, slots=True)
class SelfCheckLimits:
    """When a policy is not to be published. Batches of 128 rollouts of a small model gave the numbers."""

    # A judged win rate between two batches of 128 has a standard error of 0.036, the mean of 3 one of 0.02:
    # `win_rate_fall` is 4 of these.
    window: Annotated[int, "how many of the newest rollout batches are taken together"] = 3
    win_rate_fall: Annotated[
        float, "how far the judged win rate may fall below its best while the score rises"
    ] = 0.08
    win_rate_gain: Annotated[
        float, "by how much the judged win rate must be above 0.5 for lengths beyond length_ratio"
    ] = 0.05
    # People who like short answers get them a quarter as long, and judge them better.
    length_ratio: Annotated[
        float, "mean length over live's, either way, beyond which the answers must be judged better"
    ] = 2.0
    # Policies with a KL of 5 nats to the base, trained on three tastes, kept two thirds of it and more.
    entropy_share: Annotated[float, "least entropy per token, as a share of live's"] = 0.2
    # Steps of 64 rollouts were seen to move it by 1.9, of which 0.5 is the measurement's error.
    kl_jump_nats: Annotated[
        float, "largest rise of the KL to live between two batches, per response of up to 64 tokens"
    ] = 3.0
    perplexity_ratio: Annotated[
        float, "largest perplexity of the rollouts under the base, over that of live's"
    ] = 3.0

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window is {self.window}; it must be at least 1")
        if not 0 < self.entropy_share < 1 < min(self.length_ratio, self.perplexity_ratio):
            raise ValueError(
                "entropy_share must lie between 0 and 1, length_ratio and perplexity_ratio above 1"
            )
        if not min(self.win_rate_fall, self.kl_jump_nats) > 0:
            raise ValueError("win_rate_fall and kl_jump_nats must be above 0")


@dataclass(frozen=True, slots=True)
class Observation:
    """One batch of rollouts. Lengths in tokens, entropy per token, KL per response, all means.

    reward: score above that of live's answers, by the reward model that PPO climbs. judged_win_rate: against
    live's answers, by the judging model. perplexity: under the base.
    judge_agreement: share of the rollouts' pairs that both models put in the same order. sampled_tokens: the
    length with what a model thinks before it answers, which KL is a sum over.
    """

    reward: float
    judged_win_rate: float
    response_tokens: float
    entropy_nats: float
    kl_nats_base: float
    kl_nats_live: float
    perplexity: float
    judge_agreement: float = 0.5
    sampled_tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class Concern:
    """Why a policy must not be published: one word for metrics, one sentence for people."""

    reason: Reason
    sentence: str


def concern(history: Sequence[Observation], limits: SelfCheckLimits) -> Concern | None:
    """What speaks against the policy that made the newest rollouts; None when nothing does.

    history: everything observed since the policy was live's copy, which the first observation is of.
    """
    if len(history) < 2:
        return None
    checks: tuple[tuple[Reason, Callable[..., str | None]], ...] = (
        ("KL runaway", _kl_runaway),
        ("entropy collapse", _entropy_collapse),
        ("over-optimised", _over_optimised),
        ("length drift", _length_drift),
    )
    for reason, check in checks:
        if sentence := check(history, limits):
            return Concern(reason, sentence)
    return None


def _newest(history: Sequence[Observation], limits: SelfCheckLimits, name: str) -> float:
    return fmean(getattr(seen, name) for seen in history[-limits.window :])


def _kl_runaway(history: Sequence[Observation], limits: SelfCheckLimits) -> str | None:
    before, now = history[-2], history[-1]
    jump = now.kl_nats_live - before.kl_nats_live
    allowed = kl_limit(limits.kl_jump_nats, max(now.sampled_tokens, now.response_tokens))
    if not math.isfinite(now.kl_nats_base) or not jump <= allowed:
        return (
            f"KL runaway: one step took the KL to live from {before.kl_nats_live:.2f} to "
            f"{now.kl_nats_live:.2f} nats; {allowed:.3g} more are allowed"
        )
    ratio = _newest(history, limits, "perplexity") / history[0].perplexity
    if ratio > limits.perplexity_ratio:
        return (
            f"KL runaway: the base finds the answers {ratio:.1f} times as perplexing as live's; "
            f"{limits.perplexity_ratio:g} times is allowed"
        )
    return None


def _entropy_collapse(history: Sequence[Observation], limits: SelfCheckLimits) -> str | None:
    start, now = history[0].entropy_nats, _newest(history, limits, "entropy_nats")
    if now >= limits.entropy_share * start:
        return None
    return (
        f"entropy collapse: {now:.3f} nats a token are left of live's {start:.3f}; "
        f"{limits.entropy_share:.0%} has to be left"
    )


def _over_optimised(history: Sequence[Observation], limits: SelfCheckLimits) -> str | None:
    """Whether the judged win rate fell from its best while the reward rose.

    The best of many noisy means lies above the truth, by about a standard error and a half: that is inside
    `win_rate_fall`.
    """
    width = limits.window
    if len(history) < 2 * width:
        return None
    now, reward = (_newest(history, limits, name) for name in ("judged_win_rate", "reward"))
    for end in range(width, len(history) - width + 1):
        then = history[end - width : end]
        best, paid = fmean(s.judged_win_rate for s in then), fmean(s.reward for s in then)
        if best - now > limits.win_rate_fall and reward > paid:
            return (
                f"over-optimised: the score rose by {reward - paid:.2f} while the judged win rate fell "
                f"from {best:.2f} to {now:.2f}"
            )
    return None


def _length_drift(history: Sequence[Observation], limits: SelfCheckLimits) -> str | None:
    if len(history) < limits.window:
        return None
    ratio = _newest(history, limits, "response_tokens") / history[0].response_tokens
    judged = _newest(history, limits, "judged_win_rate")
    if 1 / limits.length_ratio <= ratio <= limits.length_ratio or judged > 0.5 + limits.win_rate_gain:
        return None
    return (
        f"length drift: answers are {ratio:.2f} times as long as live's, and judged no better ({judged:.2f})"
    )
