"""The compiled output layer against float64, and against the one in torch."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from learner.model import native
from learner.model.blocks import Unsuitable
from learner.model.head import OutputLayer, TokenLogprobs
from learner.model.native.head import NativeOutputLayer
from learner.model.shared import SharedModel
from tests.learner.conftest import need_fast_bf16
from tests.learner.test_blocks import SIZES, saved

ENTRIES, WIDTH = 4128, 64  # more than fit into one part of a gradient's product, and a last panel of 32
PLACES = 300  # more than a thread takes at a time


@pytest.fixture(autouse=True, scope="module")
def fast_bf16() -> None:
    need_fast_bf16()


@pytest.fixture(autouse=True, params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def linear(entries: int = ENTRIES, width: int = WIDTH, *, bias: bool = True) -> torch.nn.Linear:
    """An output layer whose weights, as a real model's, are numbers in bfloat16."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(width, entries, bias=bias).requires_grad_(False)
    layer.weight.copy_((3 * layer.weight).bfloat16())
    return layer


def compiled(layer: torch.nn.Linear) -> NativeOutputLayer:
    library = native.library()
    assert library is not None
    return NativeOutputLayer(library, OutputLayer(layer))


def drawn(seed: int) -> Tensor:
    return 2 * torch.randn(PLACES, WIDTH, generator=torch.Generator().manual_seed(seed))


TOKENS = torch.randint(ENTRIES, (PLACES,), generator=torch.Generator().manual_seed(1))


def exactly(layer: torch.nn.Linear, states: Tensor) -> Tensor:
    """Logprobs (N, V) in float64."""
    return torch.nn.functional.linear(
        states.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double()
    ).log_softmax(-1)


@pytest.mark.parametrize("bias", [False, True])
def test_logprobs_and_their_gradients(bias: bool) -> None:
    layer = linear(bias=bias)
    states = drawn(2).requires_grad_()
    weights = torch.linspace(-1, 1, PLACES)
    found = TokenLogprobs.apply(states, TOKENS, compiled(layer))
    (gradient,) = torch.autograd.grad((found * weights).sum(), states)
    expected = exactly(layer, states)[range(PLACES), TOKENS]
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), states)
    assert torch.allclose(found.double(), expected, atol=1e-4)
    assert float((gradient - expected_gradient).norm()) < 2e-3 * float(expected_gradient.norm())


@pytest.mark.parametrize("others", [0, 1, 2])
def test_comparisons_are_over_the_whole_vocabulary(others: int) -> None:
    layer = linear()
    states, beside = drawn(3), [drawn(3) + 0.1 * drawn(4 + i) for i in range(others)]
    found = compiled(layer).compare(states, beside, TOKENS)
    table = exactly(layer, states)
    assert torch.allclose(found.logprobs.double(), table[range(PLACES), TOKENS], atol=1e-4)
    assert torch.allclose(found.entropies.double(), -(table.exp() * table).sum(-1), atol=1e-4)
    assert found.kl_nats.shape == found.other_logprobs.shape == (others, PLACES)
    for place, other in enumerate(beside):
        theirs = exactly(layer, other)
        assert torch.allclose(found.other_logprobs[place].double(), theirs[range(PLACES), TOKENS], atol=1e-4)
        kl = (table.exp() * (table - theirs)).sum(-1)
        assert torch.allclose(found.kl_nats[place].double(), kl, atol=1e-5, rtol=1e-3)


def test_a_distribution_is_at_no_distance_from_itself() -> None:
    found = compiled(linear()).compare(drawn(5), [drawn(5)], TOKENS)
    assert torch.equal(found.kl_nats, torch.zeros(1, PLACES))


def test_logits() -> None:
    layer = linear()
    expected = layer(drawn(6))
    assert torch.allclose(compiled(layer).logits(drawn(6)), expected, atol=1e-3)


def test_a_place_has_the_same_bits_in_any_company() -> None:
    ours, states = compiled(linear()), drawn(7)
    whole, gradient = ours.token_logprobs(states, TOKENS, with_gradient=True)
    assert gradient is not None
    for place in (0, 31, 64, PLACES - 1):
        alone = ours.token_logprobs(states[place : place + 1], TOKENS[place : place + 1], with_gradient=True)
        assert torch.equal(alone[0], whole[place : place + 1])
        assert torch.equal(alone[1], gradient[place : place + 1])
    compared = ours.compare(states, [drawn(8)], TOKENS)
    assert torch.equal(compared.logprobs, whole)  # compared as they are trained


def test_what_is_no_number_stays_none() -> None:
    """A broken policy must not look like one at no distance from the base."""
    states = drawn(9)
    states[3, 5] = torch.nan
    ours = compiled(linear())
    found = ours.compare(drawn(9), [states], TOKENS)
    assert found.kl_nats.isnan().nonzero().tolist() == [[0, 3]]
    assert ours.token_logprobs(states, TOKENS, with_gradient=False)[0].isnan().nonzero().tolist() == [[3]]


def test_no_places() -> None:
    ours, none = compiled(linear()), torch.empty(0, dtype=torch.int64)
    found, gradient = ours.token_logprobs(drawn(0)[:0], none, with_gradient=True)
    assert gradient is not None
    assert (found.shape, gradient.shape) == ((0,), (0, WIDTH))


def test_tokens_that_are_not_in_the_vocabulary_are_refused() -> None:
    with pytest.raises(IndexError, match=f"from 0 to {ENTRIES - 1}"):
        compiled(linear()).token_logprobs(drawn(0), TOKENS + ENTRIES, with_gradient=False)


def test_other_layers_are_left_to_torch() -> None:
    layer = linear()
    layer.weight[0, 0] = 1 / 3
    with pytest.raises(Unsuitable, match="more digits than bfloat16"):
        compiled(layer)
    with pytest.raises(Unsuitable, match="no multiples of 16"):
        compiled(linear(entries=100))


@pytest.mark.parametrize("is_bf16", [True, False])
def test_a_model_has_it_where_its_weights_are_in_bfloat16(is_bf16: bool, tmp_path: Path) -> None:
    def made() -> LlamaForCausalLM:
        model = LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2))
        return model.bfloat16().float() if is_bf16 else model

    model = SharedModel(saved(tmp_path, made), device="cpu", bf16_products=True)
    assert model.is_native
    assert isinstance(model._head, NativeOutputLayer) is is_bf16
