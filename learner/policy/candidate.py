"""From a trained policy to a published candidate: the offline comparison, the probes, the registry."""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from deploy.engines.client import Sample
from deploy.guards import Guard
from deploy.registry.manifest import GateNumbers, Manifest, Probe
from deploy.registry.registry import Registry
from deploy.registry.versions import seq_of
from learner.losses import Z95
from learner.model.shared import SharedModel


def win_rate(candidate: torch.Tensor, live: torch.Tensor) -> tuple[float, float]:
    """Share of pairs that the candidate wins, ties half, and its lower one-sided 95% confidence limit.

    candidate, live: (B,) scores of the answers to the same prompts. The limit is Wilson's (1927), which
    stays inside [0, 1] for small B.
    """
    wins = (candidate > live).double() + 0.5 * (candidate == live).double()
    n, rate = len(wins), float(wins.mean())
    centre = (rate + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(rate * (1 - rate) / n + Z95**2 / (4 * n**2))
    return rate, centre - half


def chance_to_win(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The chance that one of our scores (N,) is above one of theirs (M,), ties half (Mann & Whitney 1947)."""
    above = (ours[:, None] > theirs).double() + 0.5 * (ours[:, None] == theirs).double()
    return float(above.mean())


def order_agreement(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The share of pairs of answers that two scores (N,) of the same answers put in the same order, ties half
    (Kendall's tau is twice that less 1); 0.5 for fewer than two answers."""
    if len(ours) < 2:
        return 0.5
    first, second = torch.triu_indices(len(ours), len(ours), offset=1)
    order = (ours[first] - ours[second]).sign() * (theirs[first] - theirs[second]).sign()
    return float((order.double() + 1).mean() / 2)


def compare(
    candidate: Sequence[Sample],
    live: Sequence[Sample],
    scores: tuple[torch.Tensor, torch.Tensor],
    kl_nats: tuple[float, float],
    kl_high_nats: tuple[float, float],
    budgets_nats: tuple[float, float],
    scale: float = 1.0,
    guards: Sequence[Guard] = (),
    vetoes: Sequence[str] = (),
) -> GateNumbers:
    """The numbers that the gate judges.

    scores: the judging model's scores (B,) of the candidate's and of live's answers; kl_nats, their
    upper confidence bounds kl_high_nats, and budgets_nats: (to the base, to live), per response. scale: of
    the candidate, see `learner.policy.scaling`; guards: what they found of it; vetoes: of the user's own
    checks.
    """
    rate, low = win_rate(*scores)
    return GateNumbers(
        prompts=len(candidate),
        scale=scale,
        guards=list(guards),
        vetoes=list(vetoes),
        win_rate=rate,
        win_rate_low=low,
        kl_nats_base=kl_nats[0],
        kl_nats_live=kl_nats[1],
        kl_nats_base_high=kl_high_nats[0],
        kl_nats_live_high=kl_high_nats[1],
        kl_budget_nats_base=budgets_nats[0],
        kl_budget_nats_live=budgets_nats[1],
        response_tokens=sum(len(s.judged[1]) for s in candidate) / len(candidate),
        response_tokens_live=sum(len(s.judged[1]) for s in live) / len(live),
    )


def publish(
    registry: Registry,
    model: SharedModel,
    *,
    parent: str,
    training: dict[str, int],
    offsets: dict[str, int],
    gate: GateNumbers,
    probes: list[Probe],
    first: bool = False,
) -> Manifest:
    """Put the policy adapter into the registry as a new version, or as the one that a service starts with."""
    with tempfile.TemporaryDirectory() as scratch:
        model.save_policy(Path(scratch))
        return registry.publish(
            Path(scratch),
            parent=parent,
            after_seq=-1 if first else seq_of(parent),
            base_digest=model.base_digest,
            rank=model.rank,
            modules=model.adapted,
            training=training,
            offsets=offsets,
            gate=gate,
            probes=probes,
        )
