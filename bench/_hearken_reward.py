"""Our side of `python -m bench reward`: a reward model fitted to each data set's pairs."""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Pair = Sequence[tuple[list[int], list[int]]]  # token ids of prompt and answer, of the preferred answer first


def main() -> int:
    """Fit the data sets of the workload and write how long it took and what is foreseen of held-out pairs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True, help="JSON of the workload")
    parser.add_argument("--out", type=Path, required=True, help="folder for what was measured")
    arguments = parser.parse_args()
    work: dict[str, Any] = json.loads(arguments.work.read_text())

    import torch

    from learner.machine import keep_freed_memory
    from learner.model import SharedModel

    torch.set_num_threads(work["threads"])
    keep_freed_memory()
    model = SharedModel(work["model"], device="cpu")
    fits = [_fit(model, fit, work["seed"]) for fit in work["fits"]]
    (arguments.out / "hearken.json").write_text(json.dumps(fits))
    return 0


def _fit(model: Any, fit: dict[str, Any], seed: int) -> dict[str, Any]:
    """The features of the answers, the fit, and the logit of each held-out pair's first answer."""
    import torch

    from learner.features import AnswerFeatures
    from learner.reward import RewardModel

    train, test = (
        [_label(pair, f"{part}-{i}") for i, pair in enumerate(fit[part])] for part in ("train", "test")
    )
    reward = RewardModel(AnswerFeatures(model), seed=seed)
    started = time.perf_counter()
    reward.update(train)
    seconds = time.perf_counter() - started
    probabilities = torch.tensor(reward.predictions(test), dtype=torch.float64)
    return {"seconds": seconds, "logits": torch.logit(probabilities, eps=1e-9).tolist()}


def _label(pair: Pair, name: str) -> Any:
    """A comparison that the first answer won, by a rater of its own."""
    from feedback.labels import Answer, Label

    answers = tuple(
        Answer(
            completion_id=f"{name}-{side}",
            choice=0,
            user=name,
            policy_version="base",
            arm="base",
            role="answer",
            table_epoch=0,
            prompt_token_ids=tuple(prompt),
            token_ids=tuple(answer),
            text="",
            finish_reason="stop",
            at=0.0,
            ttft_seconds=None,
            latency_seconds=0.0,
            sampling_plain=True,
        )
        for side, (prompt, answer) in enumerate(pair)
    )
    return Label(
        event_id=name,
        revision=1,
        kind="comparison",
        rater=name,
        tenant="bench",
        at=0.0,
        value=1.0,
        label="a",
        source="end_user",
        answers=answers,
    )


if __name__ == "__main__":
    raise SystemExit(main())
