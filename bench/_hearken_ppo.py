"""Our side of `python -m bench ppo`: scores, measures and steps on the answers that TRL's policy gave."""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

from bench._trl_ppo import memory_bytes, reset_peak


def main() -> int:
    """Measure PPO steps on the rollouts in TRL's report and write a report of our own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True, help="JSON of the workload")
    parser.add_argument("--out", type=Path, required=True, help="folder with trl.json; gets hearken.json")
    arguments = parser.parse_args()
    work: dict[str, Any] = json.loads(arguments.work.read_text())
    theirs = json.loads((arguments.out / "trl.json").read_text())

    from learner.model.ranks import Ranks

    with Ranks.join() as ranks:
        found = _measure(ranks, work, theirs)
        if ranks.rank == 0:
            (arguments.out / "hearken.json").write_text(json.dumps(found))
    return 0


def _measure(ranks: Any, work: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """This rank's part of all updates, and what they took."""
    import torch

    from deploy.engines.client import Sample
    from learner.model.machine import keep_freed_memory
    from learner.model.shared import SharedModel
    from learner.policy.ppo import PPO, PPOMetrics
    from learner.reward.features import AnswerFeatures
    from learner.reward.reward import RewardModel
    from learner.settings import PPOSettings

    torch.set_num_threads(max(1, work["threads"] // ranks.world))
    keep_freed_memory()
    batches = [_samples(found, theirs, Sample) for found in theirs["rollouts"]]
    reset_peak()
    imported = memory_bytes("VmRSS")

    device = work.get("device", "cpu")
    model = SharedModel(
        work["model"],
        rank=work["rank"],
        device=device,
        dtype=torch.bfloat16 if device == "cuda" else torch.float32,
        bf16_products=work["bf16_products"],
    )
    reward = RewardModel(AnswerFeatures(model))
    ppo = PPO(
        model,
        PPOSettings(
            learning_rate=work["learning_rate"],
            epochs=work["epochs"],
            minibatches=work["minibatches"],
            kl_step_nats=math.inf,  # all epochs, as the other side does
            critic_warmup_steps=0,
        ),
        ranks=ranks,
    )
    seconds, parts = [], []
    for rollouts in batches:
        started = time.perf_counter()
        mean, std = reward.score([(r.prompt_token_ids, r.token_ids) for r in rollouts])
        scored = time.perf_counter()
        measured = ppo.measure(rollouts)
        known = time.perf_counter()
        report = ppo.step(measured, mean - 0.5 * std)
        if device == "cuda":
            torch.cuda.synchronize()
        ended = time.perf_counter()
        assert isinstance(report, PPOMetrics)
        assert report.epochs == work["epochs"]
        assert report.skipped_updates == 0
        seconds.append(ended - started)
        parts.append((scored - started, known - scored, ended - known))
    used = torch.cuda.max_memory_allocated() if device == "cuda" else memory_bytes("VmHWM") - imported
    peak = torch.tensor([used])
    ranks.add_(peak)
    return {
        "update_seconds": seconds,
        "parts_seconds": parts,  # scoring, measuring, stepping
        "peak_bytes": int(peak),  # of all ranks
        "imported_bytes": imported,
        "trained_parameters": sum(
            p.numel() for p in [model.flat["policy"].weights, *ppo.critic.parameters()]
        ),
    }


def _samples(found: dict[str, Any], theirs: dict[str, Any], sample: Any) -> list[Any]:
    """One update's rollouts without padding; an answer ends with its first end token."""
    pad, end, rows = theirs["pad_token_id"], theirs["eos_token_id"], []
    for query, answer, logprobs in zip(found["queries"], found["answers"], found["logprobs"], strict=True):
        length = answer.index(end) + 1 if end in answer else len(answer)
        rows.append(
            sample(
                prompt_token_ids=[token for token in query if token != pad],
                token_ids=answer[:length],
                logprobs=logprobs[:length],
                text="",
                finish_reason="stop" if end in answer else "length",
            )
        )
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
