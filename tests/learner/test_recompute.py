"""Activations that are computed again in the backward pass: the same gradients with less memory."""

import pytest
import torch
from torch import Tensor

from learner.batching import make_batch
from learner.model.shared import LIVE, POLICY, SharedModel
from tests.learner.test_model import ITEMS, disturb


def kept_and_gradient(model: SharedModel) -> tuple[int, Tensor]:
    """The bytes of activations that are kept for the backward pass, and its gradient."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    whole = model.flat[POLICY].zero_grad()
    batch = make_batch(ITEMS)
    weights = {parameter.data_ptr() for parameter in model._peft.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = model.predicting_states(batch, POLICY)
        loss = model.token_logprobs(states, batch.targets).sum()
    model.answer_logprobs(ITEMS, LIVE)  # another adapter acts when the layers are computed again
    loss.backward()
    return sum(size for place, size in sizes.items() if place not in weights), whole.clone()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("packed", [True, False])
def test_gradients_stay_and_memory_goes(random_model: str, packed: bool, dtype: torch.dtype) -> None:
    found = []
    for recompute in (False, True):
        model = SharedModel(random_model, device="cpu", dtype=dtype, packed=packed, recompute=recompute)
        assert model.is_packed == packed
        disturb(model, POLICY)
        disturb(model, LIVE, 5)
        found.append(kept_and_gradient(model))
    (kept, gradient), (kept_less, again) = found
    assert bool(gradient.any())
    assert torch.equal(gradient, again)
    assert kept_less < kept / 2
