"""A base in 8 or 4 bits: what it computes, what it takes, and what is told of the base that is served."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaModel

from deploy.engines.client import Sample
from hearken.machine.memory import HELD_BITS
from learner.batching import make_batch
from learner.model.quantized import CannotQuantize, QuantizedLinear, Served, Stack
from learner.model.ranks import Ranks
from learner.model.shared import LIVE, POLICY, SharedModel
from learner.policy.probing import make_probes
from learner.rollouts.measuring import measure
from learner.settings import LearnerSettings
from tests.learner.test_blocks import ITEMS, KINDS, SIZES, saved
from tests.learner.test_model import disturb
from tests.learner.test_recompute import kept_and_gradient

BITS = (8, 4)
RELATIVE_ERROR = {8: 0.007, 4: 0.1}
"""Of weights that are spread normally: a step of 1/127 of the largest of 64 is .006, NF4 loses .092."""


@pytest.fixture(params=list(KINDS)[:2], scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("kind"), KINDS[request.param])


def quantized(folder: str, bits: int, **more: Any) -> SharedModel:
    model = SharedModel(folder, rank=4, device="cpu", base_bits=bits, **more)
    disturb(model, POLICY, 1)
    disturb(model, LIVE, 2)
    return model


def layers(model: SharedModel) -> dict[str, QuantizedLinear]:
    """The layers in few bits, by their weights' names in a file of the base."""
    found = {}
    for name, module in model._peft.named_modules():
        if isinstance(module, QuantizedLinear):
            found[name.removeprefix("base_model.model.").replace("base_layer", "weight")] = module
    return found


def gradient(model: SharedModel) -> Tensor:
    whole = model.flat[POLICY].zero_grad()
    batch = make_batch(ITEMS)
    weights = torch.randn(len(batch.targets), generator=torch.Generator().manual_seed(3))
    states = model.predicting_states(batch, POLICY)
    (model.token_logprobs(states, batch.targets) * weights).sum().backward()
    return whole.clone()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_it_computes_what_the_weights_that_are_left_give(
    folder: str, bits: int, packed: bool, tmp_path: Path
) -> None:
    """Against a base in 16 bits which has been given the weights that the few bits stand for."""
    ours = quantized(folder, bits, packed=packed)
    assert ours.is_packed == packed
    rounded = AutoModelForCausalLM.from_pretrained(folder)
    few = layers(ours)
    assert len(few) == 7 * SIZES["num_hidden_layers"]
    for name, weight in rounded.named_parameters():
        if name in few:
            weight.requires_grad_(False)
            apart = (few[name].whole() - weight).norm() / weight.norm()
            assert 0 < float(apart) < RELATIVE_ERROR[bits], name
            weight.data = few[name].whole()
    rounded.save_pretrained(tmp_path)
    truth = quantized(str(tmp_path), 16)
    for adapter in (None, POLICY, LIVE):
        one, two = (model.answer_logprobs(ITEMS, adapter) for model in (ours, truth))
        assert torch.allclose(one, two, atol=1e-4), adapter
    one, two = map(gradient, (ours, truth))
    assert bool(two.any())
    assert torch.allclose(one, two, atol=1e-4 * float(two.abs().max()))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_a_manifest_tells_what_is_served(folder: str, bits: int, packed: bool) -> None:
    """Probes are those of a learner with the whole base, to the last bit; PPO's passes are not."""
    ours, whole = quantized(folder, bits, packed=packed), quantized(folder, 16, packed=packed)
    apart = (ours.answer_logprobs(ITEMS, POLICY) - whole.answer_logprobs(ITEMS, POLICY)).abs().mean()
    assert make_probes(ours, ITEMS) == make_probes(whole, ITEMS)
    assert float(apart) > 0.001
    again = (ours.answer_logprobs(ITEMS, POLICY) - whole.answer_logprobs(ITEMS, POLICY)).abs().mean()
    assert torch.equal(again, apart)  # what is served acts no longer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_a_backward_pass_keeps_no_whole_weights(
    folder: str, bits: int, packed: bool, dtype: torch.dtype
) -> None:
    (kept, whole), (kept_less, again), (as_before, _) = (
        kept_and_gradient(quantized(folder, of, packed=packed, dtype=dtype, recompute=recompute))
        for of, recompute in ((bits, False), (bits, True), (16, False))
    )
    assert kept <= as_before
    assert torch.equal(whole, again)  # computed again, also after other adapters had acted
    assert kept_less < kept / 2


@pytest.mark.parametrize("bits", BITS)
def test_it_takes_what_is_planned(bits: int, tmp_path: Path) -> None:
    linear = torch.nn.Linear(512, 256, dtype=torch.bfloat16)
    layer = QuantizedLinear(linear, bits, Served([], torch.bfloat16), "", torch.device("cpu"))
    assert 8 * layer.held_bytes / linear.weight.numel() == pytest.approx(HELD_BITS[bits], rel=0.01)
    assert layer.whole().dtype == torch.bfloat16


@pytest.mark.parametrize("bits", BITS)
def test_layers_of_any_width_lie_one_below_the_other(bits: int) -> None:
    """Also where a scale's 64 weights reach over a row, and rows are odd."""
    served = Served([], torch.float32)
    parts = [torch.nn.Linear(33, rows) for rows in (5, 8, 1)]
    few = [QuantizedLinear(part, bits, served, "", torch.device("cpu")) for part in parts]
    stack = Stack(few)
    assert (len(stack), stack.shape) == (14, (14, 33))
    assert torch.equal(stack.to(torch.float32), torch.cat([layer.whole() for layer in few]))
    weights = torch.cat([part.weight.detach() for part in parts])
    assert float((stack.to(torch.float32) - weights).norm() / weights.norm()) < RELATIVE_ERROR[bits]


@pytest.mark.parametrize("bits", BITS)
def test_a_fresh_policy_is_the_base_and_no_kl_from_it(random_model: str, bits: int) -> None:
    model = SharedModel(random_model, rank=4, device="cpu", base_bits=bits)
    one = Sample([5, 6], [7, 8, 2], [-3.0] * 3, text="", finish_reason="stop")
    rollouts = [one] * 3
    found = measure(model, Ranks(), rollouts)
    assert torch.equal(found.logprobs, found.base_logprobs)
    assert found.kl_nats_base == found.kl_nats_live == 0
    disturb(model, POLICY)
    assert measure(model, Ranks(), rollouts).kl_nats_base > 0.01


def test_without_the_library_it_is_told_what_to_install(
    random_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(CannotQuantize, match=r'pip install "hearken\[quant\]"'):
        SharedModel(random_model, device="cpu", base_bits=4)


def test_files_with_other_names_are_refused(tmp_path: Path) -> None:
    """What could not be read again could not be told to an engine."""
    LlamaModel(LlamaConfig(**SIZES, tie_word_embeddings=True)).save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace("LlamaModel", "LlamaForCausalLM"))
    SharedModel(str(tmp_path), device="cpu")
    with pytest.raises(CannotQuantize, match=r"model\.layers\.0\..*take base_bits = 16"):
        SharedModel(str(tmp_path), device="cpu", base_bits=8)


def test_compiled_blocks_need_the_whole_base(random_model: str) -> None:
    with pytest.raises(CannotQuantize, match='take products "auto"'):
        SharedModel(random_model, device="cpu", base_bits=8, bf16_products=True)
    model = SharedModel.fitting(random_model, rank=None, base_bits=8)
    assert not model.is_native


@pytest.mark.parametrize("bits", [0, 3, 5, 32])
def test_other_numbers_of_bits_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"base_bits is {bits}; it must be one of 16, 8, 4"):
        LearnerSettings(data=Path(), model="m", engine="e", base_bits=bits)
