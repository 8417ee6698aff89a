"""TRL's side of `python -m bench ppo`: runs in TRL's own environment and writes what it measured.

Uses nothing of ours. Times are taken from outside: a callback marks the end of every update, and the calls of
`batch_generation` are timed and their results passed on as they are. What was generated is written too, so
that the other side trains on the very same answers.
"""

import argparse
import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


def memory_bytes(field: str) -> int:
    """A line of /proc/self/status: VmRSS, or VmHWM for its peak since the last `reset_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def reset_peak() -> None:
    """Let VmHWM start again from VmRSS."""
    Path("/proc/self/clear_refs").write_text("5")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True, help="JSON of the workload")
    parser.add_argument("--out", type=Path, required=True, help="folder for what was measured")
    arguments = parser.parse_args()
    work: dict[str, Any] = json.loads(arguments.work.read_text())

    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        TrainerCallback,
    )
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    on_gpu = work.get("device", "cpu") == "cuda"
    torch.set_num_threads(work["threads"])
    if work["bf16_products"]:  # what the other side does to its products, by torch's own switch
        torch.set_float32_matmul_precision("medium")
    reset_peak()
    imported = memory_bytes("VmRSS")

    tokenizer = AutoTokenizer.from_pretrained(work["model"], padding_side="left")
    dtype = torch.bfloat16 if on_gpu else torch.float32
    policy = AutoModelForCausalLM.from_pretrained(work["model"], dtype=dtype)
    value, reward = (
        AutoModelForSequenceClassification.from_pretrained(work["model"], num_labels=1, dtype=dtype)
        for _ in range(2)
    )
    batch, updates = work["batch"], work["updates"]
    config = PPOConfig(
        output_dir=str(arguments.out / "trl"),
        report_to="none",
        use_cpu=not on_gpu,
        disable_tqdm=True,
        save_strategy="no",
        num_sample_generations=0,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=1,
        num_mini_batches=work["minibatches"],
        num_ppo_epochs=work["epochs"],
        total_episodes=batch * updates,
        local_rollout_forward_batch_size=batch,
        response_length=work["max_tokens"],
        stop_token="eos",
        temperature=1.0,
        missing_eos_penalty=1.0,
        learning_rate=work["learning_rate"],
        bf16=on_gpu,  # like checkpointing without effect on a CPU: this trainer's accelerator ignores both
        gradient_checkpointing=False,
        seed=work["seed"],
    )
    ends: list[float] = []
    generations: list[float] = []
    left_out: list[float] = []
    rollouts: list[dict[str, Any]] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    generate = ppo_trainer.batch_generation

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        sequences, logits = generate(*args, **kwargs)
        generations.append(time.perf_counter() - started)
        queries = args[1]
        chosen = torch.log_softmax(logits.float(), -1)
        answers = sequences[:, queries.shape[1] :]
        logprobs = chosen.gather(-1, answers[..., None]).squeeze(-1)
        rollouts.append(
            {"queries": queries.tolist(), "answers": answers.tolist(), "logprobs": logprobs.tolist()}
        )
        left_out.append(time.perf_counter() - started)  # the writing down is no part of TRL's work
        return sequences, logits

    ppo_trainer.batch_generation = timed
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=None,  # the reference is the policy with its adapters off
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": work["prompts"]}),
        callbacks=[Clock()],
        peft_config=LoraConfig(
            r=work["rank"], lora_alpha=2 * work["rank"], target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    trainer.train()
    found = {
        "update_seconds": [b - a for a, b in itertools.pairwise(ends)],
        "generation_seconds": generations,
        "left_out_seconds": left_out,
        "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else memory_bytes("VmHWM") - imported,
        "imported_bytes": imported,
        "trained_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "rollouts": rollouts,
    }
    (arguments.out / "trl.json").write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
