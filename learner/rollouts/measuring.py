"""Measurements of rollouts, before an optimiser learns from them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from deploy.engines.client import Sample
from learner.batching import Batch, Item, by_length, in_buckets
from learner.losses import upper_bound
from learner.model.ranks import Ranks
from learner.model.shared import LIVE, POLICY, SharedModel
from learner.reward.features import AnswerFeatures
from learner.rollouts.critic import Critic

LOWER_BYTES = 1 << 30
"""Of `Measured.lower`, at most; where it would be larger, passes begin from the tokens."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Rollouts under the policy that made them: B responses of at most T tokens, N in all, 0 outside `mask`.

    mask, logprobs, base_logprobs, live_logprobs, engine_logprobs: (B, T); states: (N, H), prepared for the
    critic, those that predict each token, response after response. base_kl_nats, live_kl_nats: (B,) KL of
    each response, Rao-Blackwellised: the exact KL over the vocabulary where each token was drawn, summed over
    the response (Amini et al. 2025, arXiv:2504.10637); never below 0, and with the mean of the plain estimate
    and less spread. lower: each response's part of `Batch.lower`, None where passes begin from the tokens.
    """

    items: list[Item]
    answer_starts: Tensor  # (B,) where in a response the thought, if there is one, has ended
    cut_off: Tensor  # (B,) bool
    mask: Tensor
    logprobs: Tensor
    base_logprobs: Tensor
    live_logprobs: Tensor
    engine_logprobs: Tensor
    states: Tensor
    entropy_nats: float
    base_kl_nats: Tensor
    live_kl_nats: Tensor
    lower: Sequence[Tensor] | None = None

    @property
    def kl_nats_base(self) -> float:
        """KL to the base per response: the mean."""
        return float(self.base_kl_nats.double().mean())

    @property
    def kl_nats_live(self) -> float:
        """KL to the live policy per response: the mean."""
        return float(self.live_kl_nats.double().mean())

    @property
    def kl_nats_base_high(self) -> float:
        """The upper confidence bound of the KL to the base, which limits judge."""
        return upper_bound(self.base_kl_nats)

    @property
    def kl_nats_live_high(self) -> float:
        """The upper confidence bound of the KL to the live policy, which limits judge."""
        return upper_bound(self.live_kl_nats)

    @property
    def perplexity(self) -> float:
        """Of the rollouts under the base: exp of the mean negative log-likelihood per token."""
        return float(torch.exp(-self.base_logprobs[self.mask].mean()))

    @property
    def cut_off_ratio(self) -> float:
        """The share of responses that did not come to their end."""
        return float(self.cut_off.float().mean())

    @property
    def response_tokens(self) -> float:
        """The mean length of a response, thoughts included: all that was sampled."""
        return float(self.mask.sum(1).float().mean())

    @property
    def answer_tokens(self) -> float:
        """The mean length of an answer, without the thought."""
        return float((self.mask.sum(1) - self.answer_starts).float().mean())

    def part(self, first: int, end: int) -> "Measured":
        """Responses `first` to `end`; their entropy is taken for that of all."""
        rows, tokens = slice(first, end), self.mask.sum(1)
        before, within = int(tokens[:first].sum()), int(tokens[rows].sum())
        tables = (
            *("answer_starts", "cut_off", "mask", "base_kl_nats", "live_kl_nats"),
            *("logprobs", "base_logprobs", "live_logprobs", "engine_logprobs"),
        )
        return replace(
            self,
            items=self.items[rows],
            states=self.states[before : before + within],
            lower=None if self.lower is None else self.lower[rows],
            **{name: getattr(self, name)[rows] for name in tables},
        )

    def in_buckets(
        self, rows: Sequence[int], max_tokens: int, device: torch.device
    ) -> Iterator[tuple[list[int], Batch]]:
        """Batches of some of the responses, as `learner.batching.in_buckets` makes them, with those that each
        holds. Passes over them begin as high as can be."""
        lower = None if self.lower is None else [self.lower[row] for row in rows]
        for places, batch in in_buckets([self.items[row] for row in rows], max_tokens, device, lower):
            yield [rows[place] for place in places], batch

    @property
    def judged(self) -> list[Item]:
        """(context, answer): what is scored; a thought belongs to the context."""
        starts = self.answer_starts.tolist()
        return [
            ([*prompt, *response[:start]], response[start:])
            for (prompt, response), start in zip(self.items, starts, strict=True)
        ]


def _is_cut_off(rollout: Sample) -> bool:
    """Whether an answer did not come to its end, or a thought did not come to its answer."""
    return rollout.finish_reason != "stop" or rollout.answer_start == len(rollout.token_ids)


@torch.no_grad()
def measure(
    model: SharedModel, ranks: Ranks, rollouts: Sequence[Sample], features: AnswerFeatures | None = None
) -> Measured:
    """Logprobs, states and KL of rollouts, which the present policy must have made; or live, when it is a few
    steps from it, and those of the log.

    features: they are of the base's states, and the base passes over the rollouts here, so they are computed
    of the same pass.
    In the arithmetic that the policy is trained in: a ratio of PPO is 1 where the policy has not moved. The
    engine's logprobs differ from these by what its own arithmetic does, which importance weights correct. A
    rollout of the log has none: live made it, and live's stand for them.

    Raises `ValueError` for no rollouts or one without tokens.
    """
    if not rollouts or not all(rollout.token_ids for rollout in rollouts):
        raise ValueError("rollouts need at least one token each")
    items: list[Item] = [(rollout.prompt_token_ids, rollout.token_ids) for rollout in rollouts]
    lengths = torch.tensor([len(answer) for _, answer in items])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    shown = None if features is None else _Shown(features, [rollout.answer_start for rollout in rollouts])
    found = _passes(model, ranks, items, mask, shown)
    engine = found.live.clone()
    for row, rollout in enumerate(rollouts):
        if rollout.logprobs:
            engine[row, : len(rollout.logprobs)] = torch.tensor(rollout.logprobs)
    return Measured(
        items=items,
        answer_starts=torch.tensor([rollout.answer_start for rollout in rollouts]),
        cut_off=torch.tensor([_is_cut_off(rollout) for rollout in rollouts]),
        mask=mask,
        logprobs=found.policy,
        base_logprobs=found.base,
        live_logprobs=found.live,
        engine_logprobs=engine,
        states=found.states,
        entropy_nats=float(found.entropy) / max(int(mask.sum()), 1),
        base_kl_nats=found.base_kl.sum(1),
        live_kl_nats=found.live_kl.sum(1),
        lower=found.lower,
    )


@dataclass(frozen=True, slots=True)
class _Passes:
    """Logprobs under policy, base and live, and KL to base and live at each token, all (B, T); prepared
    states (N, H); the policy's summed entropy (1,); each item's part of `Batch.lower`."""

    policy: Tensor
    base: Tensor
    live: Tensor
    base_kl: Tensor
    live_kl: Tensor
    states: Tensor
    entropy: Tensor
    lower: list[Tensor] | None


class _Shown:
    """What the base makes of rollouts, shown to the features. starts: where their thoughts have ended."""

    def __init__(self, features: AnswerFeatures, starts: Sequence[int]) -> None:
        self._features, self._starts = features, starts
        self.layers = features.layers
        features.forget_shown()

    def show(self, rows: Sequence[int], items: Sequence[Item], states: Tensor) -> None:
        """states: (L, N, H) of the tokens of those responses, row after row."""
        sizes = [len(items[row][1]) for row in rows]
        for row, part in zip(rows, torch.split(states, sizes, 1), strict=True):
            start, (prompt, response) = self._starts[row], items[row]
            self._features.show(([*prompt, *response[:start]], response[start:]), part[:, start:])


@dataclass(frozen=True, slots=True, eq=False)
class _Beside:
    """Logprobs under an adapter (None: the base) and the policy's KL to it, (B, T) each."""

    adapter: str | None
    logprobs: Tensor
    kl: Tensor

    @classmethod
    def empty(cls, adapter: str | None, mask: Tensor) -> "_Beside":
        return cls(adapter, torch.zeros(mask.shape), torch.zeros(mask.shape))


def _passes(
    model: SharedModel, ranks: Ranks, items: Sequence[Item], mask: Tensor, shown: _Shown | None
) -> _Passes:
    """Each rank passes its share of the items, and zeros elsewhere are what the sum over the ranks fills.

    Two that are the same are passed once: the policy is live's copy after a release, and both are the base in
    the beginning.
    """
    own = _Beside.empty(POLICY, mask)
    base = own if model.is_base(POLICY) else _Beside.empty(None, mask)
    if model.same(POLICY, LIVE):
        live = own
    elif model.is_base(LIVE):
        live = base
    else:
        live = _Beside.empty(LIVE, mask)
    others = [each for each in dict.fromkeys((base, live)) if each is not own]
    states = torch.zeros(int(mask.sum()), model.hidden_size)
    entropy = torch.zeros(1)
    place = torch.zeros(mask.shape, dtype=torch.long)
    place[mask] = torch.arange(len(states))
    mine = ranks.share(by_length(range(len(items)), items))
    lower: dict[int, Tensor] = {}
    keeps = 4 * model.hidden_size * sum(len(prompt) + len(answer) for prompt, answer in items) <= LOWER_BYTES
    for rows, batch in in_buckets([items[i] for i in mine], model.max_tokens, model.device):
        where = torch.zeros_like(mask)
        chosen = torch.tensor([mine[row] for row in rows])
        inside = batch.mask.cpu()
        where[chosen, : inside.shape[1]] = inside
        # Targets come bucket row by bucket row; `order` puts them into the table's row by row.
        table = torch.zeros(inside.shape, dtype=torch.long)
        table[inside] = torch.arange(len(batch.targets))
        order = table[chosen.argsort()][inside[chosen.argsort()]]
        batch, base_states, taps = model.read_base(batch, shown.layers if shown else ())
        if shown:
            shown.show(chosen.tolist(), items, taps)
        if batch.lower is not None and keeps:
            sizes = [sum(map(len, items[row])) for row in chosen.tolist()]
            lower.update(zip(chosen.tolist(), torch.split(batch.lower.cpu(), sizes), strict=True))
        found = base_states if own is base else model.predicting_states(batch, POLICY)
        states[place[where]] = Critic.prepare(found).cpu()[order]
        passed = [
            base_states if other is base else model.predicting_states(batch, other.adapter)
            for other in others
        ]
        compared = model.compare(found, passed, batch.targets)
        own.logprobs[where] = compared.logprobs.float().cpu()[order]
        entropy += compared.entropies.sum().cpu()
        for other, logprobs, kl in zip(others, compared.other_logprobs, compared.kl_nats, strict=True):
            other.logprobs[where] = logprobs.float().cpu()[order]
            other.kl[where] = kl.float().cpu()[order]
    ranks.add_(own.logprobs, states, entropy, *chain.from_iterable((o.logprobs, o.kl) for o in others))
    kept = [lower[row] for row in range(len(items))] if len(lower) == len(items) else None
    return _Passes(own.logprobs, base.logprobs, live.logprobs, base.kl, live.kl, states, entropy, kept)
