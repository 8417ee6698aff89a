"""Supervised fine-tuning of the adapter against plain cross-entropy, and what it must never do."""

import pytest
import torch
from torch.nn import functional

from learner.batching import Item
from learner.model.shared import POLICY, SharedModel
from learner.settings import FineTuningSettings
from learner.sft.fine_tuning import fine_tune, gradient, held_out_loss

ANSWER = [7, 8, 9, 2]


@pytest.fixture
def model(random_model: str) -> SharedModel:
    return SharedModel(random_model, rank=4, device="cpu")


def demonstrations(count: int) -> list[Item]:
    """Different prompts of different lengths, all with one answer."""
    return [([10 + i % 40, *range(3, 3 + i % 5)], ANSWER) for i in range(count)]


def test_the_loss_is_the_mean_cross_entropy_of_answer_tokens(model: SharedModel) -> None:
    items = demonstrations(7)
    expected, tokens = 0.0, 0
    for prompt, answer in items:
        row = torch.tensor([[*prompt, *answer]])
        with torch.no_grad():
            logits = model._peft(row, use_cache=False).logits[0, len(prompt) - 1 : -1]
        expected += float(functional.cross_entropy(logits, torch.tensor(answer), reduction="sum"))
        tokens += len(answer)
    assert held_out_loss(model, items) == pytest.approx(expected / tokens, abs=1e-5)
    assert gradient(model, items, 2048) == pytest.approx(expected / tokens, abs=1e-5)


def test_a_batch_in_pieces_has_the_whole_ones_gradient(model: SharedModel) -> None:
    model.load_adapter_state(POLICY, {k: v + 0.01 for k, v in model.adapter_state(POLICY).items()})
    items = demonstrations(9)
    gradient(model, items, 10_000)
    whole = model.flat[POLICY].weights.grad.clone()  # type: ignore[union-attr]
    gradient(model, items, 12)  # one or two at a time
    pieces = model.flat[POLICY].weights.grad
    assert float(whole.abs().max()) > 0
    assert torch.allclose(pieces, whole, atol=1e-6)  # type: ignore[arg-type]


def test_it_learns_what_is_shown_and_leaves_the_base_alone(model: SharedModel) -> None:
    items = demonstrations(40)
    base = model.answer_logprobs(items, None)
    seen: list[int] = []
    settings = FineTuningSettings(epochs=8, batch_size=8, learning_rate=1e-2)
    report = fine_tune(model, items, settings, lambda step, steps, loss: seen.append(step))
    assert seen == list(range(1, report.steps + 1))
    assert (report.demonstrations, report.held_out) == (36, 4)
    assert report.loss_after < 0.5 * report.loss_before
    assert torch.equal(model.answer_logprobs(items, None), base)


def test_the_same_twice_is_the_same(random_model: str) -> None:
    weights = []
    for _ in range(2):
        model = SharedModel(random_model, rank=4, device="cpu")
        fine_tune(model, demonstrations(20), FineTuningSettings(epochs=2, batch_size=4))
        weights.append(model.flat[POLICY].weights.detach().clone())
    assert torch.equal(*weights)


def test_an_epoch_that_makes_it_worse_is_not_kept(model: SharedModel) -> None:
    """The held-out answers are others than those that are trained: learning the latter harms the former."""
    items = demonstrations(30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0)).tolist()
    for i in order[:3]:
        items[i] = (items[i][0], [50, 51, 52, 53])
    report = fine_tune(model, items, FineTuningSettings(epochs=6, batch_size=3, learning_rate=3e-2))
    assert report.loss_after <= report.loss_before
    held_out = [items[i] for i in order[:3]]
    assert held_out_loss(model, held_out) == pytest.approx(report.loss_after, abs=1e-6)


def test_what_cannot_be_trained_is_refused(model: SharedModel) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        fine_tune(model, demonstrations(1), FineTuningSettings())
    for wrong in ({"epochs": 0}, {"learning_rate": 0.0}, {"held_out": 1.0}):
        with pytest.raises(ValueError, match="must be"):
            FineTuningSettings(**wrong)  # type: ignore[arg-type]
