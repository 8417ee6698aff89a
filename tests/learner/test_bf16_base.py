"""A base in bfloat16: what is computed from it, against transformers in bfloat16 and against float32."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import MixtralConfig, MixtralForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

from learner.batching import make_batch
from learner.model import head
from learner.model.head import OutputLayer, TokenLogprobs
from learner.model.shared import LIVE, POLICY, SharedModel
from tests.learner.test_batching import some_items
from tests.learner.test_blocks import KINDS, SIZES, saved
from tests.learner.test_model import disturb

ITEMS = some_items(9, seed=4)
BF16 = torch.bfloat16


@pytest.fixture(params=KINDS, scope="module")
def three(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model whose weights bfloat16 can hold, with the same adapters: our blocks and transformers' layers in
    bfloat16, and float32."""
    folder = saved(tmp_path_factory.mktemp("kind"), lambda: KINDS[request.param]().to(BF16))
    models = [
        SharedModel(folder, rank=4, device="cpu", dtype=dtype, packed=packed)
        for dtype, packed in ((BF16, True), (BF16, False), (torch.float32, True))
    ]
    assert [model.is_packed for model in models] == [True, False, True]
    for model in models:
        disturb(model, POLICY, 1)
        disturb(model, LIVE, 2)
    return models


@pytest.mark.parametrize("adapter", [None, POLICY])
def test_our_blocks_are_no_further_from_float32_than_transformers(three: Any, adapter: str | None) -> None:
    ours, theirs, truth = (model.answer_logprobs(ITEMS, adapter) for model in three)
    apart, allowed = ((each - truth).norm() / truth.norm() for each in (ours, theirs))
    assert 0 < float(apart) < float(allowed)
    assert float(allowed) < 0.05


@pytest.mark.parametrize("layers", [0, 2])
def test_states_in_between_are_float32_and_close(three: Any, layers: int) -> None:
    batch = make_batch(ITEMS)
    ours, theirs, truth = (m.hidden(batch, POLICY, layers).flatten(0, 1)[batch.real] for m in three)
    assert ours.dtype == theirs.dtype == torch.float32
    for each in (ours, theirs):
        apart = float((each - truth).detach().norm() / truth.detach().norm())
        assert apart == 0 if layers == 0 else 0 < apart < 0.05


def test_an_exact_pass_is_that_of_float32(three: Any) -> None:
    ours, _, truth = (model.answer_logprobs(ITEMS, POLICY, exact=True) for model in three)
    assert torch.allclose(ours, truth, atol=1e-4)


def test_gradients_are_those_of_float32(three: Any) -> None:
    batch = make_batch(ITEMS)
    weights = torch.randn(len(batch.targets), generator=torch.Generator().manual_seed(3))

    def gradient(model: SharedModel) -> list[Tensor]:
        logprobs = model.token_logprobs(model.predicting_states(batch, POLICY), batch.targets)
        return list(torch.autograd.grad((logprobs * weights).sum(), model.parameters(POLICY)))

    ours, _, truth = map(gradient, three)
    for name, one, two in zip(three[0].adapter_state(POLICY), ours, truth, strict=True):
        assert one.dtype == torch.float32
        assert float(cosine_similarity(one.flatten(), two.flatten(), dim=0)) > 0.99, name
        assert float(one.norm() / two.norm()) == pytest.approx(1, abs=0.05), name


def test_logits_are_float32_of_the_states(three: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded to bfloat16 they would be off by a hundred times as much."""
    monkeypatch.setattr(head, "UPCAST_BYTES", 4 * 64 * 10)  # ten entries of the vocabulary at a time
    states = 4 * torch.randn(7, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    tokens = torch.tensor([0, 1, 9, 10, 11, 62, 63])
    for model in three[:2]:
        table = (states.double() @ model._head.weight.double().t()).log_softmax(-1)
        chosen = table[range(7), tokens]
        found = model.token_logprobs(states, tokens)
        assert torch.allclose(found.double(), chosen, atol=1e-5)
        entropy = -(table.exp() * table).sum(-1)
        assert torch.allclose(model.compare(states, [], tokens).entropies.double(), entropy, atol=1e-5)
        one, two = (torch.autograd.grad(each.sum(), states)[0] for each in (found, chosen.float()))
        assert torch.allclose(one, two, atol=1e-4)


def test_an_output_layer_may_have_a_bias() -> None:
    layer = torch.nn.Linear(8, 20).requires_grad_(False)
    states = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    tokens = torch.arange(5)
    found = TokenLogprobs.apply(states, tokens, OutputLayer(layer))
    assert torch.allclose(found, layer(states).log_softmax(-1)[range(5), tokens], atol=1e-6)


EXPERTS = {
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=4)),
    "qwen2 moe, with an expert that all share": lambda: Qwen2MoeForCausalLM(
        Qwen2MoeConfig(
            **SIZES, num_key_value_heads=2, num_experts=4, moe_intermediate_size=16,
            shared_expert_intermediate_size=32,
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", EXPERTS)
def test_a_router_has_no_adapter(kind: str, tmp_path: Path) -> None:
    model = SharedModel(saved(tmp_path, EXPERTS[kind]), rank=2, device="cpu")
    assert {"q_proj", "k_proj", "v_proj", "o_proj"} <= set(model.target_modules)
    assert not [name for name in model.adapter_state(POLICY) if "gate." in name or "router" in name]
    batch = make_batch(ITEMS)
    model.token_logprobs(model.predicting_states(batch, POLICY), batch.targets).sum().backward()
    assert any(bool(parameter.grad.any()) for parameter in model.parameters(POLICY))
