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
    """A line of a demonstrations file is not a demonstration. The message says where and what is right."""


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
        raise BadDemonstration(f'{path} is empty: give lines of {{"prompt": ..., "completion": ...}}')
    return found


def _demonstration(row: Any) -> Demonstration:
    if not isinstance(row, dict) or not {"prompt", "completion"} <= row.keys():
        raise ValueError('expected an object with "prompt" and "completion"')
    prompt, completion = row["prompt"], row["completion"]
    if not isinstance(completion, str) or not completion:
        raise ValueError('"completion" must be a text that is not empty')
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise ValueError('"prompt" must be a text or a list of {"role": text, "content": text}')
    return Demonstration(tuple(messages), completion)


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def encode(demonstration: Demonstration, tokenizer: Any) -> Example:
    """Tokenize with the chat template, as the engine does for a chat; the answer ends with `eos`."""
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


def draws(examples: Sequence[Example], batch_size: int, seed: int) -> Iterator[list[Example]]:
    """Draw batches of `batch_size` examples for ever, each epoch in a new order.

    An epoch's incomplete last batch is left out, unless it is the only one. Raises ValueError when
    there are no examples.
    """
    if not examples:
        raise ValueError("no examples to draw batches from")
    rng = random.Random(seed)
    size = min(batch_size, len(examples))
    while True:
        order = rng.sample(range(len(examples)), len(examples))
        for begin in range(0, len(order) - size + 1, size):
            yield [examples[i] for i in order[begin : begin + size]]


def micro_batches(examples: Sequence[Example], size: int, pad_token_id: int) -> list[Batch]:
    """Cut one drawn batch into batches of at most `size` examples of similar length, to save padding.

    Sorting here, inside a batch drawn at random, leaves the step's gradient as it is; sorting before
    drawing would put short answers together, where each of their tokens counts for more.
    """
    ordered = sorted(examples, key=lambda example: len(example.token_ids))
    return [collate(ordered[i : i + size], pad_token_id) for i in range(0, len(ordered), size)]


def answer_nll(model: Any, batch: Batch) -> Tensor:
    """The answers' negative log-likelihood (nats), summed over the batch: a scalar with a gradient.

    Logits are made only for the N positions that predict an answer token: (N, V), not (B, T, V).
    """
    hidden = model.get_decoder()(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
    ).last_hidden_state  # (B, T, hidden size)
    targets = batch.labels[:, 1:]  # position t predicts token t + 1
    answers = targets != IGNORED
    logits = model.get_output_embeddings()(hidden[:, :-1][answers])
    return functional.cross_entropy(logits.float(), targets[answers], reduction="sum")


def backward(model: Any, batches: Sequence[Batch]) -> float:
    """Add the gradient of the mean loss per answer token over all the batches; return that loss (nats).

    The same as one big batch would give, with the memory of the largest small one.
    """
    tokens = sum(int((batch.labels != IGNORED).sum()) for batch in batches)
    total = 0.0
    for batch in batches:
        loss = answer_nll(model, batch) / tokens
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total
