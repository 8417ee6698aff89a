"""Supervised fine-tuning's batches and loss, against one example at a time and full logits."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from learner.sft.demonstrations import (
    IGNORED,
    BadDemonstration,
    Demonstration,
    Example,
    answer_nll,
    backward,
    collate,
    draws,
    encode,
    micro_batches,
    read_demonstrations,
)
from learner.sft.tiny import TinyRecipe, new_model, train_tokenizer

PAD = 0
RECIPE = TinyRecipe(vocabulary=300, hidden=16, layers=2, heads=2, intermediate=32, max_tokens=64)
TALKS = [
    Demonstration(({"role": "user", "content": "Where is it?"},), "It is on its way."),
    Demonstration(({"role": "user", "content": "Hi"},), "Hello!"),
    Demonstration(
        (
            {"role": "system", "content": "Be nice."},
            {"role": "user", "content": "My lamp is broken."},
            {"role": "assistant", "content": "Oh."},
            {"role": "user", "content": "What now?"},
        ),
        "Send it back, please, and we will send you a new one.",
    ),
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(TALKS, RECIPE)


@pytest.fixture
def model(tokenizer: Any) -> Any:
    torch.manual_seed(3)
    return new_model(RECIPE, tokenizer)


def straight_nll(model: Any, example: Example) -> torch.Tensor:
    """The sum of -log p(token | everything before it) over the answer, token after token, without padding."""
    total = torch.zeros(())
    for end in range(example.answer_start, len(example.token_ids)):
        logits = model(input_ids=torch.tensor([example.token_ids[:end]])).logits[0, -1]
        total = total - functional.log_softmax(logits, dim=-1)[example.token_ids[end]]
    return total


def gradients(model: Any) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters()]


def test_an_example_is_the_chat_as_the_engine_sees_it_and_the_answer_with_its_end(tokenizer: Any) -> None:
    example = encode(TALKS[2], tokenizer)
    whole = [*TALKS[2].messages, {"role": "assistant", "content": TALKS[2].completion}]
    expected = tokenizer.apply_chat_template(whole, tokenize=False)
    assert tokenizer.decode(example.token_ids) + "\n" == expected
    answer = example.token_ids[example.answer_start :]
    assert tokenizer.decode(answer) == TALKS[2].completion + "<|im_end|>"
    assert answer[-1] == tokenizer.eos_token_id


def test_collate_marks_answers_alone() -> None:
    batch = collate([Example((5, 6, 7, 8), 2), Example((9, 4), 1)], PAD)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8], [9, 4, PAD, PAD]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.labels.tolist() == [[IGNORED, IGNORED, 7, 8], [IGNORED, 4, IGNORED, IGNORED]]


def test_a_batch_costs_what_its_examples_cost_one_by_one(model: Any, tokenizer: Any) -> None:
    examples = [encode(talk, tokenizer) for talk in TALKS]
    expected = torch.stack([straight_nll(model, example) for example in examples]).sum()
    loss = answer_nll(model, collate(examples, tokenizer.pad_token_id))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_small_batches_add_up_to_the_gradient_of_the_mean(model: Any, tokenizer: Any, size: int) -> None:
    examples = [encode(talk, tokenizer) for talk in TALKS]
    tokens = sum(len(example.token_ids) - example.answer_start for example in examples)
    expected = torch.stack([straight_nll(model, example) for example in examples]).sum() / tokens
    expected.backward()  # type: ignore[no-untyped-call]
    whole = gradients(model)
    model.zero_grad()
    loss = backward(model, micro_batches(examples, size, tokenizer.pad_token_id))
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for got, wanted in zip(gradients(model), whole, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_micro_batches_hold_every_example_once_with_little_padding() -> None:
    lengths = [9, 2, 7, 3, 8, 2, 5]
    examples = [Example((i + 1,) * length, 1) for i, length in enumerate(lengths)]
    cut = micro_batches(examples, 3, PAD)
    assert [tuple(batch.input_ids.shape) for batch in cut] == [(3, 3), (3, 8), (1, 9)]
    rows = [row[row != PAD].tolist() for batch in cut for row in batch.input_ids]
    assert sorted(rows) == sorted(list(example.token_ids) for example in examples)


def test_draws_give_each_example_once_an_epoch_in_new_orders_that_the_seed_decides() -> None:
    examples = [Example((i, i), 1) for i in range(12)]
    one = list(itertools.islice(draws(examples, 4, seed=1), 6))
    epochs = [[example for batch in one[i : i + 3] for example in batch] for i in (0, 3)]
    for epoch in epochs:
        assert sorted(example.token_ids for example in epoch) == [example.token_ids for example in examples]
    assert epochs[0] != epochs[1]
    assert one == list(itertools.islice(draws(examples, 4, seed=1), 6))
    assert one != list(itertools.islice(draws(examples, 4, seed=2), 6))


def test_draws_of_too_few_examples() -> None:
    examples = [Example((i, i), 1) for i in range(3)]
    assert [len(batch) for batch in itertools.islice(draws(examples, 8, seed=0), 3)] == [3, 3, 3]
    with pytest.raises(ValueError, match="no examples"):
        next(draws([], 8, seed=0))


def test_reading_demonstrations(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    rows = [{"prompt": "p", "completion": "c"}, {"prompt": chat, "completion": "d"}]
    path.write_text(json.dumps(rows[0]) + "\n\n" + json.dumps(rows[1]) + "\n")
    assert read_demonstrations(path) == [
        Demonstration(({"role": "user", "content": "p"},), "c"),
        Demonstration(tuple(chat), "d"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: Expecting"),
        ('{"prompt": "p"}', 'line 2: expected an object with "prompt" and "completion"'),
        ('["p", "c"]', "line 2: expected an object"),
        ('{"prompt": "p", "completion": ""}', 'line 2: "completion" must be a text that is not empty'),
        ('{"prompt": [], "completion": "c"}', 'line 2: "prompt" must be a text or a list'),
        ('{"prompt": [{"role": "user"}], "completion": "c"}', 'line 2: "prompt" must be a text or a list'),
    ],
)
def test_a_bad_line_is_refused_by_number(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"prompt": "p", "completion": "c"}\n' + line + "\n")
    with pytest.raises(BadDemonstration) as raised:
        read_demonstrations(path)
    assert f"{path}, {message}" in str(raised.value)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text("\n")
    with pytest.raises(BadDemonstration, match="is empty"):
        read_demonstrations(tmp_path / "d.jsonl")
