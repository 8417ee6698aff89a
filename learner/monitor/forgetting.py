"""The figures of guards with their confidence bounds. Pure; see `deploy.guards` for what they are for.

Each takes `z`, the quantile of its one-sided interval, and gives (figure, best): best is the end of the
interval that speaks for the candidate.
"""

import math

import torch
from torch import Tensor


def perplexity_ratio(ours: Tensor, anchors: Tensor, tokens: Tensor, z: float) -> tuple[float, float]:
    """Perplexity of texts under the candidate over that under the anchor.

    ours, anchors: (N,) summed log-likelihood (nats) of each text, which has `tokens` (N,). The logarithm of
    the ratio is a ratio of two means, with the error of its linearised residuals (Cochran 1977, section 6).
    """
    lost, tokens = (anchors - ours).double(), tokens.double()
    log_ratio = lost.sum() / tokens.sum()
    error = (lost - log_ratio * tokens).std() * math.sqrt(len(lost)) / tokens.sum()
    return float(log_ratio.exp()), float((log_ratio - z * error).exp())


def highest_win_rate(ours: Tensor, anchors: Tensor, z: float) -> tuple[float, float]:
    """Share of pairs (N,) of scores that the candidate wins, ties half, and its upper limit (Wilson 1927)."""
    wins = (ours > anchors).double() + 0.5 * (ours == anchors).double()
    n, rate = len(wins), float(wins.mean())
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return rate, centre + half


def clusters(features: Tensor, count: int, least: int) -> list[list[int]]:
    """Groups of similar rows of `features` (N, F): at most `count`, none of fewer than `least` rows.

    k-means (Lloyd 1982) on features of equal spread, from rows that lie far apart (Gonzalez 1985), so the
    same rows always come to the same groups. A group that is too small joins the nearest one.
    """
    if len(features) < least:
        return []
    features = features.double()
    features = (features - features.mean(0)) / features.std(0).clamp(min=1e-6)
    centres = _far_apart(features, min(count, len(features) // least))
    owners = torch.zeros(len(features), dtype=torch.long)
    for _ in range(50):
        before, owners = owners, torch.cdist(features, centres).argmin(1)
        filled = [features[owners == i].mean(0) for i in range(len(centres)) if bool((owners == i).any())]
        if len(filled) == len(centres) and torch.equal(owners, before):
            break
        centres = torch.stack(filled)
    return _merged(features, centres, least)


def _far_apart(features: Tensor, count: int) -> Tensor:
    """`count` rows: the one that is nearest to the middle, then always the furthest from those chosen."""
    chosen = [int(features.square().sum(1).argmin())]
    while len(chosen) < count:
        chosen.append(int(torch.cdist(features, features[chosen]).amin(1).argmax()))
    return features[chosen]


def _merged(features: Tensor, centres: Tensor, least: int) -> list[list[int]]:
    """The rows by their nearest centre; the centre of the smallest group is left out as often as need be."""
    while True:
        owners = torch.cdist(features, centres).argmin(1)
        sizes = torch.bincount(owners, minlength=len(centres))
        if len(centres) == 1 or int(sizes.min()) >= least:
            return [(owners == i).nonzero().flatten().tolist() for i in range(len(centres))]
        keep = torch.arange(len(centres)) != int(sizes.argmin())
        centres = centres[keep]
