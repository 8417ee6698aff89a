"""Supervised fine-tuning's data and loss: demonstrations in, masked cross-entropy on the answers out.

Shapes: B sequences in a batch, T tokens in the longest of them, V entries in the vocabulary.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100
"""The label of a position that is not trained: prompt and padding."""


class BadDemonstration(ValueError):
    """A line of a demonstrations file is not a demonstration. The message names file, line and what is expected."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A conversation that ends with a user's turn, and the answer to give."""

    messages: tuple[dict[str, str], ...]
    completion: str


@dataclass(frozen=True, slots=True)
class Example:
    """A tokenized demonstration; `token_ids[answer_start:]` is the answer with its end-of-turn token."""

    token_ids: tuple[int, ...]
    answer_start: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded examples. `input_ids`, `attention_mask` and `labels` are (B, T) int64.

    `labels[b, t]` is the token at position t itself (the loss shifts), or `IGNORED` on prompt and padding.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


def read_demonstrations(path: Path) -> list[Demonstration]:
    """Read JSON lines of {"prompt": text or a list of chat messages, "completion": text}.

    Raises BadDemonstration for a line that is anything else, and for a file without any.
    """
    found = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    found.append(_demonstration(json.loads(line)))
                except ValueError as error:
                    raise BadDemonstration(f"{path}, line {number}: {error}") from error
    if not found:
        raise BadDemonstration(f'{path} has no demonstrations: give lines of {{"prompt": ..., "completion": ...}}')
    return found


def _demonstration(row: Any) -> Demonstration:
    if not isinstance(row, dict) or not {"prompt", "completion"} <= row.keys():
        raise ValueError('expected an object with "prompt" and "completion"')
    prompt, completion = row["prompt"], row["completion"]
    if not isinstance(completion, str) or not completion:
        raise ValueError('"completion" must be a text that is not empty')
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not isinstance(messages, list) or not messages or not all(_is_message(message) for message in messages):
        raise ValueError('"prompt" must be a text or a list of {"role": text, "content": text}')
    return Demonstration(tuple(messages), completion)


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def encode(demonstration: Demonstration, tokenizer: Any) -> Example:
    """Tokenize with the tokenizer's chat template, as the engine does for a chat; the answer ends with `eos`."""
    prompt = tokenizer.apply_chat_template(
        list(demonstration.messages), add_generation_prompt=True, tokenize=False
    )
    prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
    answer_ids = tokenizer.encode(demonstration.completion, add_special_tokens=False)
    return Example((*prompt_ids, *answer_ids, tokenizer.eos_token_id), len(prompt_ids))


def collate(examples: Sequence[Example], pad_token_id: int) -> Batch:
    """Pad examples on the right to the longest of them."""
    shape = len(examples), max(len(example.token_ids) for example in examples)
    input_ids = torch.full(shape, pad_token_id)
    attention_mask = torch.zeros(shape, dtype=torch.int64)
    labels = torch.full(shape, IGNORED)
    for row, example in enumerate(examples):
        length, start = len(example.token_ids), example.answer_start
        input_ids[row, :length] = torch.tensor(example.token_ids)
        attention_mask[row, :length] = 1
        labels[row, start:length] = input_ids[row, start:length]
    return Batch(input_ids, attention_mask, labels)


def batches(
    examples: Sequence[Example], batch_size: int, pad_token_id: int, seed: int, *, pool: int = 8
) -> Iterator[Batch]:
    """Shuffled batches for ever, epoch after epoch.

    Examples of similar length share a batch, which saves padding: each run of `pool` batches of the shuffled epoch
    is sorted by length before it is cut, and its batches are shuffled again. An incomplete last batch is left out
    unless it is the epoch's only one.
    """
    if not examples:
        raise ValueError("no examples to make batches of")
    rng = random.Random(seed)
    size = min(batch_size, len(examples))
    while True:
        order = rng.sample(range(len(examples)), len(examples))
        for begin in range(0, len(order), size * pool):
            run = sorted(order[begin : begin + size * pool], key=lambda i: len(examples[i].token_ids))
            cuts = [run[i : i + size] for i in range(0, len(run) - size + 1, size)]
            for cut in rng.sample(cuts, len(cuts)):
                yield collate([examples[i] for i in cut], pad_token_id)


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood (nats) over all answer tokens of the batch, as a scalar.

    `logits`: (B, T, V), where `logits[:, t]` predicts token t + 1. `labels`: (B, T), not shifted.
    """
    predicted = logits[:, :-1].float().flatten(0, 1)
    return functional.cross_entropy(predicted, labels[:, 1:].flatten(), ignore_index=IGNORED)
