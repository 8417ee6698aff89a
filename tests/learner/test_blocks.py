"""The written-out blocks against transformers and peft with autograd."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from learner.batching import make_batch
from learner.model.shared import LIVE, POLICY, SharedModel
from tests.learner.test_batching import some_items
from tests.learner.test_model import disturb

SIZES = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
KINDS = {
    "qwen2 with biases": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=4)),
    "llama, two heads of keys": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2)),
    "llama 3's rotation, wide heads": lambda: LlamaForCausalLM(
        LlamaConfig(
            **SIZES,
            num_key_value_heads=4,
            head_dim=32,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        )
    ),
}
ITEMS = some_items(9, seed=4)


def saved(folder: Path, make: Any) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:  # not the ones and zeros that they start from
                torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.3)
        model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(params=KINDS, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same model twice, with the same disturbed adapters: by our blocks, and by peft."""
    folder = saved(tmp_path_factory.mktemp("kind"), KINDS[request.param])
    ours, theirs = (SharedModel(folder, rank=4, device="cpu", packed=packed) for packed in (True, False))
    assert ours.is_packed
    assert not theirs.is_packed
    for model in (ours, theirs):
        disturb(model, POLICY, 1)
        disturb(model, LIVE, 2)
    return ours, theirs


@pytest.mark.parametrize("adapter", [None, POLICY, LIVE])
@pytest.mark.parametrize("layers", [None, 0, 1, 3])
def test_the_states_are_the_same(pair: Any, adapter: str | None, layers: int | None) -> None:
    batch = make_batch(ITEMS)
    if layers is None:
        one, two = (model.predicting_states(batch, adapter) for model in pair)
    else:
        one, two = (model.hidden(batch, adapter, layers).flatten(0, 1)[batch.real] for model in pair)
        if layers == 3:  # transformers puts the final norm on the last entry of its hidden states
            one = pair[0].hidden(batch, adapter).flatten(0, 1)[batch.real]
    assert torch.allclose(one, two, atol=1e-4, rtol=1e-4)


def test_the_gradients_are_the_same(pair: Any) -> None:
    batch = make_batch(ITEMS)
    weights = torch.randn(len(batch.targets), generator=torch.Generator().manual_seed(3))

    def gradients(model: SharedModel) -> dict[str, Tensor]:
        logprobs = model.token_logprobs(model.predicting_states(batch, POLICY), batch.targets)
        found = torch.autograd.grad((logprobs * weights).sum(), model.parameters(POLICY))
        return dict(zip(model.adapter_state(POLICY), found, strict=True))

    one, two = map(gradients, pair)
    for name, gradient in two.items():
        assert bool(gradient.any())
        assert torch.allclose(one[name], gradient, atol=1e-4 * float(gradient.abs().max()), rtol=1e-3), name


def test_a_batch_is_the_sum_of_its_items(pair: Any) -> None:
    model = pair[0]

    def gradient(groups: list[list[int]]) -> Tensor:
        whole = model.flat[POLICY].zero_grad()
        for group in groups:
            batch = make_batch([ITEMS[i] for i in group])
            logprobs = model.token_logprobs(model.predicting_states(batch, POLICY), batch.targets)
            logprobs.sum().backward()
        return whole.clone()

    some = [i for i, (_, answer) in enumerate(ITEMS) if answer]
    together, apart = gradient([some]), gradient([[i] for i in some])
    assert torch.allclose(together, apart, atol=1e-5 * float(apart.abs().max()), rtol=1e-4)


def test_flat_weights_are_the_adapters_own(pair: Any) -> None:
    for model in pair:
        before = model.adapter_state(POLICY)
        with torch.no_grad():
            model.flat[POLICY].weights.mul_(2)
        assert all(torch.equal(2 * before[key], value) for key, value in model.adapter_state(POLICY).items())
        model.load_adapter_state(POLICY, before)


def test_other_kinds_of_models_go_through_transformers(tmp_path: Path) -> None:
    folder = saved(
        tmp_path, lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=16))
    )
    model = SharedModel(folder, device="cpu")
    assert not model.is_packed
    assert model.answer_logprobs(ITEMS, None).shape[0] == len(ITEMS)
