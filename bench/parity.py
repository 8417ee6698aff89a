"""Right and wrong adapters on a real engine: `python -m bench parity`, on SmolLM2 in bfloat16.

For each of `--adapters` policies whose KL to the base lies between .5 and 6 nats per response of 64 tokens,
half of them after steps along policy gradients and half random: the policy is published as a trainer does it
and a fleet proves it on the engine. Then, under the same manifest's probes, a wrong one is published:

    later       the same lineage some steps further on
    scaled .9   all its changes a tenth smaller
    scaled 1.1  all its changes a tenth larger
    permuted    the rows of its matrices A in another order
    truncated   half of its rank missing
    another     a policy of the same size with other random numbers
    none        the base

one after the other in turn, or with `--all` each for each policy. KL is exact, over the whole vocabulary, on
a part of the probes' texts. Printed for each: what the comparison came to (see `deploy.engines.parity`).
`--only 0:5` does a part of the policies, the same ones as in a whole run.
"""

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench._servers import engine
from deploy.engines.client import EngineClient
from deploy.engines.fleet import Fleet
from deploy.engines.parity import ParityLimits
from deploy.registry.manifest import GateNumbers, Manifest, Probe
from deploy.registry.registry import Registry
from hearken.machine.engine import resolve_model

RESPONSE_TOKENS = 64
KL_NATS = (0.5, 6.0)
CALIBRATION = slice(0, 6)  # probes whose tokens measure KL
STEP = 0.25  # of a further step, in the size of all before

State = dict[str, Any]  # an adapter's weights by name


@dataclass(frozen=True, slots=True)
class Found:
    """What became of one adapter on the engine."""

    proven: bool
    numbers: dict[str, Any]


class Trainer:
    """Makes policies of a wanted size."""

    def __init__(self, model: str) -> None:
        import torch

        from learner.model.shared import POLICY, SharedModel
        from learner.policy.probes import probe_items

        self.torch: Any = torch
        self.policy = POLICY
        self.model = SharedModel.fitting(model, rank=8)
        self.items = probe_items(model, self.model.vocab_size, self.model.context)
        self.fresh = self.model.adapter_state(POLICY)
        self._base = self._tables(None)

    def policies(self, number: int, kl_nats: float) -> tuple[State, State]:
        """A policy with this KL to the base, and the same some steps further on."""
        generator = self.torch.Generator().manual_seed(number)
        along = self._gradient(generator) if number % 2 == 0 else self._noise(generator)
        scale = 3e-4
        for _ in range(6):
            policy = self._moved(self.fresh, along, scale)
            share = kl_nats / max(self.kl_nats(policy), 1e-9)
            if 0.9 < share < 1.1:
                break
            scale *= max(0.1, min(8.0, math.sqrt(share)))
        self.model.load_adapter_state(self.policy, policy)
        return policy, self._moved(policy, self._gradient(generator), STEP * scale)

    def kl_nats(self, state: State, other: State | None = None) -> float:
        """KL (nats per response) of a policy to the base, or to another one."""
        reference = self._base if other is None else self._load(other)._tables(self.policy)
        ours = self._load(state)._tables(self.policy)
        pairs = zip(ours, reference, strict=True)
        kl = self.torch.cat([(one.exp() * (one - two)).sum(-1) for one, two in pairs])
        return float(kl.mean()) * RESPONSE_TOKENS

    def probes(self, state: State) -> list[Probe]:
        """What the trainer writes into the manifest."""
        from learner.policy.probing import make_probes

        return make_probes(self._load(state).model)

    def _load(self, state: State) -> "Trainer":
        self.model.load_adapter_state(self.policy, state)
        return self

    def _tables(self, adapter: str | None) -> list[Any]:
        """Log distributions (tokens, V) of the calibration's texts."""
        from learner.batching import in_buckets

        with self.torch.no_grad():
            return [
                self.model._head.logits(self.model.predicting_states(batch, adapter)).log_softmax(-1)
                for _, batch in in_buckets(self.items[CALIBRATION], 1024)
            ]

    def _gradient(self, generator: Any) -> State:
        """The signs of a policy gradient for answers that are liked at random: an optimiser's first steps."""
        from learner.batching import in_buckets

        self.model.flat[self.policy].zero_grad()
        likes = self.torch.randn(len(self.items[CALIBRATION]), generator=generator)
        for rows, batch in in_buckets(self.items[CALIBRATION], 1024):
            states = self.model.predicting_states(batch, self.policy)
            logprobs = self.model.token_logprobs(states, batch.targets)
            of_row = likes[rows].repeat_interleave(batch.mask.sum(1))
            (logprobs * of_row).sum().backward()
        named = zip(self.fresh, self.model.parameters(self.policy), strict=True)
        return {name: self.torch.sign(parameter.grad) for name, parameter in named}

    def _noise(self, generator: Any) -> State:
        return {
            name: self.torch.randn(value.shape, generator=generator) * (".lora_B." in name)
            for name, value in self.fresh.items()
        }

    @staticmethod
    def _moved(state: State, along: State, size: float) -> State:
        return {name: value + size * along[name] for name, value in state.items()}


def wrong_ones(trainer: Trainer, policy: State, later: State, another: State) -> dict[str, State]:
    """By name, what an engine might have instead of a policy."""

    def changed(change: Callable[[str, Any], Any]) -> State:
        return {name: change(name, value) for name, value in policy.items()}

    order = trainer.torch.arange(8).roll(3)
    kept = trainer.torch.arange(8) < 4
    return {
        "later": later,
        "scaled .9": changed(lambda name, value: value * 0.9 if ".lora_B." in name else value),
        "permuted": changed(lambda name, value: value[order] if ".lora_A." in name else value),
        "scaled 1.1": changed(lambda name, value: value * 1.1 if ".lora_B." in name else value),
        "truncated": changed(lambda name, value: value * kept if ".lora_B." in name else value),
        "another": another,
        "none": trainer.fresh,
    }


class Prover:
    """A registry and a fleet of one engine."""

    def __init__(self, url: str, folder: Path, base_digest: str, limits: ParityLimits) -> None:
        self._folder, self._base_digest = folder, base_digest
        self._registry = Registry(folder / "adapters")
        self._fleet = Fleet([EngineClient(url, 600.0)], self._registry, limits, round_seconds=600.0)
        self._fleet.look()

    def prove(self, trainer: Trainer, state: State, probes: list[Probe]) -> Found:
        """Publish an adapter under these probes, let the engine load and prove it, and unload it."""
        trainer.model.load_adapter_state(trainer.policy, state)
        scratch = self._folder / "scratch"
        trainer.model.save_policy(scratch)
        manifest: Manifest = self._registry.publish(
            scratch, parent="base", after_seq=0, base_digest=self._base_digest, rank=trainer.model.rank,
            training={}, offsets={}, gate=GateNumbers(), probes=probes,
        )  # fmt: skip
        problems = self._fleet.prepare(manifest.version, time.time())
        if problems:
            return Found(False, problems[0].numbers or {"refused": problems[0].sentence})
        parity = self._fleet.parity_of(manifest.version)
        assert parity is not None
        self._fleet.unload([manifest.version])
        return Found(True, parity.numbers | {"tells": int(parity.tells)})


def sizes(count: int) -> Iterator[float]:
    """KL to the base, in equal ratios."""
    low, high = KL_NATS
    return (low * (high / low) ** (number / max(count - 1, 1)) for number in range(count))


def main(argv: list[str]) -> int:
    """Run it and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m bench parity", description=__doc__)
    parser.add_argument("--model", default="smollm2", help="as `hearken up` takes it (default: smollm2)")
    parser.add_argument("--dtype", default="bfloat16", help="of the engine")
    parser.add_argument("--adapters", type=int, default=20)
    parser.add_argument("--only", default=":", help="FIRST:END of the adapters")
    parser.add_argument("--all", action="store_true", help="each wrong one for each adapter")
    arguments = parser.parse_args(argv)
    first, end = (int(part) if part else None for part in arguments.only.split(":"))
    wanted = list(enumerate(sizes(arguments.adapters)))[first:end]

    model = resolve_model(arguments.model)
    trainer = Trainer(str(model))
    right = wrong = proven = refused = 0
    extra = ("--dtype", arguments.dtype, "--max-model-len", "512")
    cores = sorted(os.sched_getaffinity(0))
    with (
        tempfile.TemporaryDirectory() as scratch,
        engine(Path(scratch), "engine", cores=cores, extra=extra, model=model) as server,
    ):
        prover = Prover(server.url, Path(scratch), trainer.model.base_digest, ParityLimits())
        for number, kl_nats in wanted:
            policy, later = trainer.policies(number, kl_nats)
            another, _ = trainer.policies(number + 1000, kl_nats)
            probes = trainer.probes(policy)
            found = prover.prove(trainer, policy, probes)
            right, proven = right + 1, proven + found.proven
            _tell(number, "right", found, trainer.kl_nats(policy))
            ones = wrong_ones(trainer, policy, later, another)
            names = list(ones) if arguments.all else [list(ones)[number % len(ones)]]
            for name in names:
                found = prover.prove(trainer, ones[name], probes)
                wrong, refused = wrong + 1, refused + (not found.proven)
                _tell(number, name, found, trainer.kl_nats(ones[name], policy))
    print(json.dumps({"right": right, "proven": proven, "wrong": wrong, "refused": refused}))
    return 0


def _tell(number: int, name: str, found: Found, kl_nats: float) -> None:
    numbers = {
        key.removeprefix("parity_"): round(value, 4)
        for key, value in found.numbers.items()
        if isinstance(value, int | float)
    }
    verdict = "proven" if found.proven else "refused"
    print(f"{number:2} {name:10} KL {kl_nats:6.3f} {verdict:7} {json.dumps(numbers)}", flush=True)
