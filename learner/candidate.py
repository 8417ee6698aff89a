"""From a trained policy to a published candidate: the offline comparison, the probes, the registry."""

import math
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from deploy.engine import Sample
from deploy.manifest import GateNumbers, Manifest, Probe
from deploy.registry import Registry, seq_of
from learner.model import SharedModel

PROBES = 4
PROBE_TOKENS = 12  # of a probe's prompt
Z95 = 1.645  # one-sided 95% point of the normal distribution


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
    budgets_nats: tuple[float, float],
) -> GateNumbers:
    """The numbers that the gate judges.

    scores: the judging model's scores (B,) of the candidate's and of live's answers; kl_nats and
    budgets_nats: (to the base, to live), per response.
    """
    rate, low = win_rate(*scores)
    return GateNumbers(
        prompts=len(candidate),
        win_rate=rate,
        win_rate_low=low,
        kl_nats_base=kl_nats[0],
        kl_nats_live=kl_nats[1],
        kl_budget_nats_base=budgets_nats[0],
        kl_budget_nats_live=budgets_nats[1],
        response_tokens=sum(len(s.judged[1]) for s in candidate) / len(candidate),
        response_tokens_live=sum(len(s.judged[1]) for s in live) / len(live),
    )


def probe_prompts(vocab_size: int) -> list[list[int]]:
    """Prompts (token ids) that the probes' answers are sampled for: always the same, and nobody's.

    A manifest is kept for ever and in the clear, so what a user said must not be in it.
    """
    draw = random.Random("probes")
    return [[draw.randrange(vocab_size) for _ in range(PROBE_TOKENS)] for _ in range(PROBES)]


def make_probes(model: SharedModel, samples: Sequence[Sample]) -> list[Probe]:
    """Answers with the trainer's own logprobs, by which every engine's copy is recognised.

    `samples` are answers to `probe_prompts`.
    """
    return _probes(model, [(s.prompt_token_ids, s.token_ids) for s in samples if s.token_ids])


def scripted_probes(model: SharedModel) -> list[Probe]:
    """Probes where no engine is there to sample: each prompt is answered by another one's words."""
    prompts = probe_prompts(model.vocab_size)
    return _probes(model, [(prompt, prompts[i - 1]) for i, prompt in enumerate(prompts)])


def _probes(model: SharedModel, items: Sequence[tuple[list[int], list[int]]]) -> list[Probe]:
    rows = model.answer_logprobs(items, adapter="policy", exact=True)
    return [
        Probe(prompt_token_ids=prompt, token_ids=answer, logprobs=[float(x) for x in row[: len(answer)]])
        for (prompt, answer), row in zip(items, rows, strict=True)
    ]


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
            training=training,
            offsets=offsets,
            gate=gate,
            probes=probes,
        )
