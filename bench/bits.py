"""What a base in 8 or 4 bits costs and saves a learner: `python -m bench bits --model FOLDER`.

Against a learner whose base is in float32, with the same adapter: a policy of some 2 nats to the base per
response of 64 tokens, on the texts that adapters are recognised by (`learner.policy.probes`). Everything that
is an expectation is exact, over the vocabulary. One line of JSON for each number of bits:

    base_mib             what the base takes, scales included
    blocks_mib           the part of it that is in so few bits
    peak_mib             of a process that loads it, above what importing takes
    apart_nats           |difference| of a text token's logprob under the policy: mean, sd, largest
    kl_nats              KL of the served policy to the learner's, a token
    effective_ratio      effective sample size of the importance weights, cut off at 2 (Kish 1965)
    policy_kl_nats       KL of the policy to its base, a response: as limits measure it, and as it is served
    gradient_cosine      of a policy gradient's two directions
    probes_equal         whether a manifest's probes are those of the float32 learner, to the last bit
    naive_noise_nats     mean noise (log-odds) that parity would see if they were made with these bits
    cpu_seconds          of a forward and a backward pass over the texts
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

POLICY_KL_NATS = 2.0
MIB = 1 << 20

_PEAK = """
import sys
from bench._trl_ppo import memory_bytes
from learner.model.shared import SharedModel
before = memory_bytes("VmHWM")
SharedModel(sys.argv[1], rank=8, device="cpu", base_bits=int(sys.argv[2]))
print(memory_bytes("VmHWM") - before)
"""


def peak_bytes(model: str, bits: int) -> int:
    """The most memory of a process that loads a base, above what it had imported."""
    command = [sys.executable, "-c", _PEAK, model, str(bits)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def held_bytes(model: Any) -> tuple[int, int]:
    """What a model's base takes, and the part of that in few bits."""
    from learner.model.quantized import QuantizedLinear

    layers = [each for each in model._peft.modules() if isinstance(each, QuantizedLinear)]
    few = sum(layer.held_bytes for layer in layers)
    packed = {layer.weight.data_ptr() for layer in layers}
    rest = {p.data_ptr(): p.nbytes for n, p in model._peft.named_parameters() if ".lora_" not in n}
    return few + sum(size for place, size in rest.items() if place not in packed), few


class Measured:
    """One learner's view of a policy."""

    def __init__(self, folder: str, bits: int, policy: dict[str, Any]) -> None:
        import torch

        from learner.batching import in_buckets
        from learner.model.shared import POLICY, SharedModel
        from learner.policy.probes import probe_items
        from learner.policy.probing import make_probes

        model = SharedModel(folder, rank=8, device="cpu", base_bits=bits)
        model.load_adapter_state(POLICY, policy)
        items = probe_items(folder, model.vocab_size, model.context)
        self.bytes, self.few = held_bytes(model)
        with torch.no_grad():
            self.tables, self.bases = (
                [
                    model._head.logits(model.predicting_states(batch, adapter)).log_softmax(-1)
                    for _, batch in in_buckets(items[::4], 1024)
                ]
                for adapter in (POLICY, None)
            )
        self.logprobs = {adapter: model.answer_logprobs(items, adapter) for adapter in (POLICY, None)}
        self.mask = torch.arange(max(map(len, (a for _, a in items)))) < torch.tensor(
            [[len(answer)] for _, answer in items]
        )
        self.probes = make_probes(model, items)
        likes = torch.randn(len(items), generator=torch.Generator().manual_seed(1))
        gradient, started = model.flat[POLICY].zero_grad(), time.process_time()
        for rows, batch in in_buckets(items, 2048):
            logprobs = model.token_logprobs(model.predicting_states(batch, POLICY), batch.targets)
            (logprobs * likes[rows].repeat_interleave(batch.mask.sum(1))).sum().backward()  # type: ignore[no-untyped-call]
        self.seconds, self.gradient = time.process_time() - started, gradient.clone()


def compare(ours: Measured, truth: Measured) -> dict[str, Any]:
    """The figures of one learner against those of the one in float32."""
    import torch

    from deploy.engines.parity import ParityLimits
    from deploy.engines.parity import compare as parity
    from learner.model.shared import POLICY

    apart = (ours.logprobs[POLICY] - truth.logprobs[POLICY])[ours.mask]
    kl, one, two = [], 0.0, 0.0
    for served, learner in zip(truth.tables, ours.tables, strict=True):
        chances = served.exp()
        kl.append((chances * (served - learner)).sum(-1))
        weights = (learner - served).exp().clamp(max=2.0)
        one += float((chances * weights).sum())
        two += float((chances * weights**2).sum())
    flat = torch.cat(kl)
    naive = [
        probe.model_copy(update={"logprobs": rows[0], "bf16_logprobs": rows[0], "base_logprobs": rows[1]})
        for i, probe in enumerate(truth.probes)
        for rows in [[t[i, : len(probe.token_ids)].tolist() for t in ours.logprobs.values()]]
    ]
    engine = [[each.logprobs for each in truth.probes], [each.base_logprobs for each in truth.probes]]
    seen = parity(naive, engine[0], engine[1], ParityLimits())
    return {
        "apart_nats": [round(float(x), 4) for x in (apart.abs().mean(), apart.std(), apart.abs().max())],
        "kl_nats": round(float(flat.mean()), 5),
        "effective_ratio": round(one**2 / (len(flat) * two), 4),
        "policy_kl_nats": [round(response_kl(each), 3) for each in (ours, truth)],
        "gradient_cosine": round(float(torch.cosine_similarity(ours.gradient, truth.gradient, dim=0)), 4),
        "gradient_norm_ratio": round(float(ours.gradient.norm() / truth.gradient.norm()), 4),
        "probes_equal": ours.probes == truth.probes,
        "naive_noise_nats": None if seen.rough is None else round(seen.rough.noise_nats, 4),
        "naive_refusal": seen.refusal,
    }


def response_kl(measured: Measured) -> float:
    """KL (nats) of the policy to the base, both as one learner has them, per response of 64 tokens."""
    pairs = zip(measured.tables, measured.bases, strict=True)
    parts = [(policy.exp() * (policy - base)).sum(-1) for policy, base in pairs]
    return 64 * sum(float(part.sum()) for part in parts) / sum(map(len, parts))


def main(argv: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench bits", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a model's folder")
    folder = str(parser.parse_args(argv).model)

    from bench.parity import Trainer

    policy, _ = Trainer(folder).policies(0, POLICY_KL_NATS)
    truth = Measured(folder, 16, policy)
    for bits in (16, 8, 4):
        found = truth if bits == 16 else Measured(folder, bits, policy)
        line = {
            "bits": bits,
            "base_mib": round(found.bytes / MIB, 1),
            "blocks_mib": round(found.few / MIB, 1),
            "peak_mib": round(peak_bytes(folder, bits) / MIB),
            "cpu_seconds": round(found.seconds, 2),
        }
        print(json.dumps(line | (compare(found, truth) if bits < 16 else {})), flush=True)
    return 0
