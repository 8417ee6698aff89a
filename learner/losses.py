"""The equations of RLHF as pure functions.

Shapes: B responses of at most T tokens; `mask: (B, T)` is True at real tokens. Losses come back as one
value per token or per pair, not averaged: whoever sums them divides by the count of the whole batch, so that
a batch and its shards give the same gradient.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, softplus

Z95 = 1.645
"""One-sided 95% point of the normal distribution."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` is True (same shape); 0 where nothing is."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """`values: (B, T)` shifted and scaled to mean 0 and variance 1 over the mask; 0 elsewhere."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    return (values - mean) * torch.rsqrt(variance + 1e-8) * mask


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and the returns that the critic should predict, both (B, T).

    Schulman et al. 2016 (arXiv:1506.02438), equations 11 to 16, as the recursion
    A_t = delta_t + gamma lam A_{t+1}, delta_t = r_t + gamma V_{t+1} - V_t; an episode ends with its last real
    token, after which V is 0. rewards, values: (B, T), real tokens first.
    """
    rewards, values = rewards * mask, values * mask
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(following)
    for t in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * lam * following) * mask[:, t]
        next_value = values[:, t]
        advantages[:, t] = following
    return advantages, advantages + values


ALIVE = 8
"""Responses that are compared at a place, at least; places that fewer reach are taken together."""


def beside_others(advantages: Tensor, mask: Tensor) -> Tensor:
    """Advantages (B, T) above the mean of all responses at the same place; those of few are taken together.

    Where tokens have rewards of their own, more is to come at a response's beginning than at its end,
    whatever is said there. A baseline that knows the place alone changes nothing in expectation (Greensmith
    et al. 2004, "Variance reduction techniques for gradient estimates in reinforcement learning").
    """
    alive = mask.sum(0)
    many = int((alive >= ALIVE).sum())  # real tokens come first, so `alive` falls
    sums = (advantages * mask).sum(0)
    usual = sums / alive.clamp(min=1)
    usual[many:] = sums[many:].sum() / alive[many:].sum().clamp(min=1)
    return (advantages - usual) * mask


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """The clipped surrogate loss per token, and whether its ratio was clipped (the gradient is 0 there).

    Schulman et al. 2017 (arXiv:1707.06347), equation 7, negated. All arguments have one shape.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    free = ratio * advantages
    held = ratio.clamp(1 - clip, 1 + clip) * advantages
    return -torch.minimum(free, held), held < free


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """The clipped value loss per token: the larger squared error of V and of V kept near its old value.

    As in the PPO of Schulman et al. 2017's code and of Ouyang et al. 2022; with the factor 1/2.
    """
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)


def kl_k1(logprobs: Tensor, reference: Tensor) -> Tensor:
    """The unbiased estimate log p - log q of KL(p || q) at tokens drawn from p, in nats (Schulman 2020)."""
    return logprobs - reference


def kl_k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """The unbiased and never negative estimate r - 1 - log r, r = q / p, in nats (Schulman 2020)."""
    log_ratio = reference - logprobs
    return torch.expm1(log_ratio) - log_ratio


def upper_bound(values: Tensor) -> float:
    """The upper end of the one-sided 95% confidence interval of a mean, by the normal approximation.

    values: (B,) independent ones, such as the KL of B responses. A single value has no spread to go by and
    stands for itself.
    """
    values = values.double()
    spread = float(values.std()) if len(values) > 1 else 0.0
    return float(values.mean()) + Z95 * spread / math.sqrt(len(values))


def ascend(price: float, kl_nats: float, target_nats: float, rate: float, low: float, high: float) -> float:
    """The price of a nat of KL, the multiplier of "KL <= target", after a policy of `kl_nats` was measured.

    Dual ascent (Moskovitz et al. 2023, arXiv:2310.04373) in mirror form: the price's logarithm
    moves by `rate` times the share by which the target is missed, at most by `rate` itself, so it rises as
    readily as it falls whatever its size. It stays between `low` and `high`.
    """
    missed = kl_nats / target_nats - 1
    missed = 1.0 if math.isnan(missed) else min(max(missed, -1.0), 1.0)
    return min(max(price * math.exp(rate * missed), low), high)


def bradley_terry_loss(scores_a: Tensor, scores_b: Tensor, preferred: Tensor) -> Tensor:
    """Negative log likelihood per comparison under P(a over b) = sigmoid(a - b) (Bradley & Terry 1952).

    preferred: 1 where a won, 0 where b won, 0.5 for a tie, which counts half for each. One shape.
    """
    return binary_cross_entropy_with_logits(scores_a - scores_b, preferred, reduction="none")


def dpo_loss(margins: Tensor, preferred: Tensor, beta: float) -> Tensor:
    """The loss of direct preference optimisation per pair (Rafailov et al. 2023, arXiv:2305.18290, eq. 7):
    `bradley_terry_loss` of the implicit rewards, beta log (policy / reference).

    margins: (N,) the log ratio of policy to reference of the first answer less that of the second; preferred:
    (N,) 1 where the first won, 0 where the second did, 0.5 for a tie, and between for votes that may be
    mistaken (Mitchell 2023).
    """
    return binary_cross_entropy_with_logits(beta * margins, preferred, reduction="none")


def ipo_loss(margins: Tensor, preferred: Tensor, tau: float) -> Tensor:
    """The loss of identity preference optimisation per pair (Azar et al. 2023, arXiv:2310.12036, eq. 17):
    the squared distance of the margin from 1 / (2 tau) for the winner, and from 0 for a tie.

    margins, preferred: as for `dpo_loss`.
    """
    return (margins - (preferred - 0.5) / tau).square()


def kto_loss(log_ratios: Tensor, good: Tensor, kl_nats: float, beta: float) -> Tensor:
    """The loss of Kahneman-Tversky optimisation per answer (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8),
    both lambdas 1: what is lost of a value that rises with the log ratio of a good answer above what is
    usual, and falls with that of a bad one.

    log_ratios: (N,) of policy to reference; good: (N,) 1 for a liked answer, 0 for a disliked one, or
    between; kl_nats: KL(policy || reference) per response, which is the usual log ratio.
    """
    above = beta * (log_ratios - kl_nats)
    return good * torch.sigmoid(-above) + (1 - good) * torch.sigmoid(above)


def thumbs_loss(scores: Tensor, bias: Tensor, up: Tensor) -> Tensor:
    """Negative log likelihood per thumb under P(up) = sigmoid(score + bias).

    bias: how readily thumbs go up whatever the answer, of all raters or of each thumb's. up: 1 or 0.
    """
    return binary_cross_entropy_with_logits(scores + bias, up, reduction="none")


def plackett_luce_loss(scores: Tensor, mask: Tensor) -> Tensor:
    """Negative log likelihood (N,) of N rankings under Plackett 1975: the best is chosen among all with
    probability softmax(scores), the next best among those that are left, and so on.

    scores, mask: (N, K), a row's answers from the best to the worst, real ones first. With two answers this
    is `bradley_terry_loss`.
    """
    left = scores.masked_fill(~mask, -math.inf).flip(1).logcumsumexp(1).flip(1)  # of all from k to the last
    return torch.where(mask, left - scores, 0.0).sum(1)


def ordered_thresholds(free: Tensor) -> Tensor:
    """L - 1 rising thresholds from as many unbounded numbers: the first, then steps of softplus(free)."""
    return torch.cat([free[:1], softplus(free[1:])]).cumsum(0)


def ordinal_loss(scores: Tensor, thresholds: Tensor, ratings: Tensor) -> Tensor:
    """Negative log likelihood (N,) of ratings 0 .. L - 1 under the cumulative logit model (McCullagh 1980),
    P(rating <= k) = sigmoid(threshold_k - score).

    scores: (N,); thresholds: (L - 1,) rising, or (N, L - 1) when raters differ; ratings: (N,) int64. The
    probability of a rating is a difference of two sigmoids, s(a) - s(b) = s(a) s(-b) (1 - exp(b - a)), whose
    logarithm in the second form is exact however small it is.
    """
    rows = thresholds.expand(len(scores), -1)
    end = torch.full_like(rows[:, :1], math.inf)
    edges = torch.cat([-end, rows, end], 1)
    below, above = (edges.gather(1, at[:, None]).squeeze(1) for at in (ratings, ratings + 1))
    inside = torch.log1p(-torch.exp(below - above))
    return -(logsigmoid(above - scores) + logsigmoid(scores - below) + inside)


def learning_rate_scale(step: int, warmup_steps: int, decay_steps: int, floor: float) -> float:
    """Share of the peak learning rate at a step (from 0): a linear rise over `warmup_steps`, then a linear
    fall to `floor` over `decay_steps` (0: none), as in Stiennon et al. 2020 (arXiv:2009.01325), appendix B.
    """
    rise = (step + 1) / max(warmup_steps, 1)
    if rise <= 1 or decay_steps <= 0:
        return min(rise, 1.0)
    return max(floor, 1 - (1 - floor) * (step - warmup_steps) / decay_steps)


def importance_weights(trainer: Tensor, engine: Tensor, cap: float) -> Tensor:
    """min(pi_trainer / pi_engine, cap) per token, without gradient.

    Tokens were drawn by the engine, whose arithmetic differs a little from the trainer's (other kernels,
    other precision): truncated importance sampling (Ionides 2008) corrects for it with bounded variance.
    """
    return torch.exp((trainer - engine).detach()).clamp(max=cap)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """How far the engine that drew the tokens is from the trainer that learns from them.

    mean_nats, max_nats: of |trainer - engine| per token; kl_nats: KL(engine || trainer) per token;
    capped_ratio: the share of tokens whose importance weight was truncated; effective_ratio: the effective
    sample size under the weights, (sum w)^2 / (n sum w^2) (Kish 1965), 1 when the two agree.
    """

    mean_nats: float
    max_nats: float
    kl_nats: float
    capped_ratio: float
    effective_ratio: float


def mismatch(trainer: Tensor, engine: Tensor, cap: float) -> Mismatch:
    """The mismatch of flat logprobs (N,), N > 0, with weights truncated at `cap`."""
    apart = trainer - engine
    weights = importance_weights(trainer, engine, cap)
    return Mismatch(
        mean_nats=float(apart.abs().mean()),
        max_nats=float(apart.abs().max()),
        kl_nats=float(kl_k3(engine, trainer).mean()),
        capped_ratio=float((apart > math.log(cap)).float().mean()),
        effective_ratio=float(weights.sum() ** 2 / (len(weights) * (weights**2).sum())),
    )


def explained_variance(predicted: Tensor, actual: Tensor) -> float:
    """1 - Var(actual - predicted) / Var(actual) over flat tensors; 0 when `actual` does not vary."""
    spread = float(actual.var(unbiased=False)) if len(actual) else 0.0
    if spread < 1e-12 or not math.isfinite(spread):
        return 0.0
    return 1.0 - float((actual - predicted).var(unbiased=False)) / spread
