"""The equations of RLHF as pure functions.

Shapes: B responses of at most T tokens; `mask: (B, T)` is True at real tokens. Losses come back as one
value per token or per pair, not averaged: whoever sums them divides by the count of the whole batch, so that
a batch and its shards give the same gradient.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


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


def adapt_kl_coefficient(
    coefficient: float, kl_nats: float, target_nats: float, episodes: int, horizon: float
) -> float:
    """The KL coefficient after a step of `episodes` responses that measured `kl_nats` per response.

    Ziegler et al. 2019 (arXiv:1909.08593), section 2.2: proportional control, its error clipped to 20%.
    """
    error = min(max(kl_nats / target_nats - 1, -0.2), 0.2)
    return coefficient * (1 + error * episodes / horizon)


def bradley_terry_loss(scores_a: Tensor, scores_b: Tensor, preferred: Tensor) -> Tensor:
    """Negative log likelihood per comparison under P(a over b) = sigmoid(a - b) (Bradley & Terry 1952).

    preferred: 1 where a won, 0 where b won, 0.5 for a tie, which counts half for each. One shape.
    """
    return binary_cross_entropy_with_logits(scores_a - scores_b, preferred, reduction="none")


def thumbs_loss(scores: Tensor, bias: Tensor, up: Tensor) -> Tensor:
    """Negative log likelihood per thumb under P(up) = sigmoid(score + bias).

    bias: how readily thumbs go up whatever the answer, of all raters or of each thumb's. up: 1 or 0.
    """
    return binary_cross_entropy_with_logits(scores + bias, up, reduction="none")


def importance_weights(trainer: Tensor, engine: Tensor, cap: float) -> Tensor:
    """min(pi_trainer / pi_engine, cap) per token, without gradient.

    Tokens were drawn by the engine, whose arithmetic differs a little from the trainer's (other kernels,
    other precision): truncated importance sampling (Ionides 2008) corrects for it with bounded variance.
    """
    return torch.exp((trainer - engine).detach()).clamp(max=cap)


def explained_variance(predicted: Tensor, actual: Tensor) -> float:
    """1 - Var(actual - predicted) / Var(actual) over flat tensors; 0 when `actual` does not vary."""
    spread = float(actual.var(unbiased=False)) if len(actual) else 0.0
    if spread < 1e-12 or not math.isfinite(spread):
        return 0.0
    return 1.0 - float((actual - predicted).var(unbiased=False)) / spread
