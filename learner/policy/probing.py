"""Makes the probes of a policy. What they say of the base is computed once, best while a learner waits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deploy.registry.manifest import Probe
from learner.batching import Batch, Item, in_buckets
from learner.model.shared import POLICY, SharedModel
from learner.policy.probes import probe_items


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Items that are passed together. batch: where layers are frozen with `Batch.exact_lower`, on the CPU;
    base: logprobs (N,) of the N tokens of their answers, item after item, under the base."""

    rows: list[int]
    batch: Batch
    base: Tensor


class Prober:
    """Probes of one model's policies. items: prompts and answers other than those of
    `learner.policy.probes`."""

    def __init__(self, model: SharedModel, items: Sequence[Item] | None = None) -> None:
        self._model = model
        self._items = probe_items(model.name, model.vocab_size, model.context) if items is None else items
        self._buckets: list[_Bucket] = []

    @torch.no_grad()
    def prepare(self) -> None:
        """Compute what is the same for every policy: the base's logprobs, and the states after its frozen
        layers."""
        if self._buckets:
            return
        model = self._model
        for rows, batch in in_buckets(self._items, model.max_tokens, model.device):
            if model.frozen_layers:
                states = model.hidden(batch, None, model.frozen_layers, exact=True)
                batch = replace(batch, exact_lower=states.flatten(0, 1)[batch.real].cpu())
            self._buckets.append(_Bucket(rows, batch, self._logprobs(batch, None)))

    @torch.no_grad()
    def probes(self) -> list[Probe]:
        """Texts with the trainer's own logprobs of the policy, by which every engine's copy is recognised."""
        self.prepare()
        found: dict[int, Probe] = {}
        for bucket in self._buckets:
            policy = self._logprobs(bucket.batch, POLICY)
            served = self._logprobs(bucket.batch, POLICY, bf16_sums=True)
            sizes = [len(self._items[row][1]) for row in bucket.rows]
            parts = zip(*(torch.split(each, sizes) for each in (policy, served, bucket.base)), strict=True)
            for row, (of_policy, of_served, of_base) in zip(bucket.rows, parts, strict=True):
                prompt, answer = self._items[row]
                found[row] = Probe(
                    prompt_token_ids=list(prompt),
                    token_ids=list(answer),
                    logprobs=_rounded(of_policy),
                    bf16_logprobs=_rounded(of_served),
                    base_logprobs=_rounded(of_base),
                )
        return [found[row] for row in range(len(self._items))]

    def _logprobs(self, batch: Batch, adapter: str | None, *, bf16_sums: bool = False) -> Tensor:
        model = self._model
        if batch.exact_lower is not None:
            batch = replace(batch, exact_lower=batch.exact_lower.to(model.device))
        states = model.predicting_states(batch, adapter, exact=True, bf16_sums=bf16_sums)
        return model.token_logprobs(states, batch.targets).float().cpu()


def make_probes(model: SharedModel, items: Sequence[Item] | None = None) -> list[Probe]:
    """The probes of the policy that a model has now, see `Prober`."""
    return Prober(model, items).probes()


def _rounded(logprobs: Tensor) -> list[float]:
    """As a manifest has them: seven digits are what float32 can hold."""
    return [float(f"{x:.7g}") for x in logprobs.tolist()]
