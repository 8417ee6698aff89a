"""TRL's side of `python -m bench reward`: RewardTrainer in TRL's own environment.

Uses nothing of ours. Fits a fresh reward model for each set-up and data set, and writes how long
`trainer.train()` took and what the model gives to the held-out pairs.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True, help="JSON of the workload")
    parser.add_argument("--out", type=Path, required=True, help="folder for what was measured")
    arguments = parser.parse_args()
    work: dict[str, Any] = json.loads(arguments.work.read_text())

    import torch

    torch.set_num_threads(work["threads"])
    fits = [
        [_fit(work, fit, set_up, arguments.out / "trl") for fit in work["fits"]] for set_up in work["trl"]
    ]
    (arguments.out / "trl.json").write_text(json.dumps(fits))
    return 0


def _fit(work: dict[str, Any], fit: dict[str, Any], set_up: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train on a fit's pairs of whole conversations, (preferred, other), and score its held-out ones."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    model = AutoModelForSequenceClassification.from_pretrained(
        work["model"], num_labels=1, dtype=torch.float32
    )
    pairs = [[list(prompt) + list(answer) for prompt, answer in pair] for pair in fit["train"]]
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(
            output_dir=str(folder),
            report_to="none",
            use_cpu=True,
            bf16=work.get("bf16", False),
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
            gradient_checkpointing=False,  # it saves memory and costs time
            max_length=None,
            per_device_train_batch_size=set_up["batch"],
            num_train_epochs=set_up["epochs"],
            learning_rate=set_up["learning_rate"],
            seed=work["seed"],
        ),
        train_dataset=Dataset.from_dict(
            {"chosen_ids": [pair[0] for pair in pairs], "rejected_ids": [pair[1] for pair in pairs]}
        ),
        processing_class=AutoTokenizer.from_pretrained(work["model"]),
        peft_config=LoraConfig(
            r=set_up["rank"],
            lora_alpha=2 * set_up["rank"],
            target_modules="all-linear",
            modules_to_save=["score"],
            task_type="SEQ_CLS",
        )
        if set_up["rank"]
        else None,
    )
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    trainer.model.eval()
    with torch.autocast("cpu", torch.bfloat16, enabled=work.get("bf16", False)):
        return {"seconds": seconds, "logits": [_margin(trainer.model, pair) for pair in fit["test"]]}


def _margin(model: Any, pair: list[list[list[int]]]) -> float:
    """How much higher the first answer's score is."""
    import torch

    with torch.no_grad():
        scores = [
            float(model(input_ids=torch.tensor([[*prompt, *answer]])).logits) for prompt, answer in pair
        ]
    return scores[0] - scores[1]


if __name__ == "__main__":
    raise SystemExit(main())
