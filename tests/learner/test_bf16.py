"""Products in bfloat16: the tiles against plain float32, and what a model makes of them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from learner.batching import make_batch
from learner.bf16 import TILES, batched, filled, product, product_of_columns, rounded, up_to
from learner.machine import has_fast_bf16
from learner.model import POLICY, SharedModel
from tests.learner.test_batching import some_items
from tests.learner.test_blocks import KINDS, saved
from tests.learner.test_model import disturb

needs_bf16 = pytest.mark.skipif(not has_fast_bf16(), reason="this processor has no bfloat16 matrix products")
COUNTS = [1, TILES[-1], TILES[-1] + 1, TILES[0], TILES[0] + TILES[-1], sum(TILES), 2 * TILES[0] + 5]
ITEMS = [([1, *range(20 + i, 30 + i), 2, 1], list(range(40 + i, 50 + 2 * i))) for i in range(11)]


def matrix(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)).bfloat16()


@pytest.mark.parametrize("count", COUNTS)
def test_tiles_make_whole_products(count: int) -> None:
    x, weight = rounded(matrix(count, 48)), matrix(48, 72)
    assert len(x) == up_to(count, TILES[-1])
    expected = x.float() @ weight.float()
    assert torch.allclose(product(x, weight).float(), expected, atol=0.05, rtol=0.01)
    room = torch.full((len(x), 100), 7.0, dtype=torch.bfloat16)
    product(x, weight, room[:, 28:])
    assert torch.allclose(room[:, 28:].float(), expected, atol=0.05, rtol=0.01)
    assert bool((room[:, :28] == 7).all())


@pytest.mark.parametrize("count", COUNTS)
def test_products_of_columns_sum_over_all_tiles(count: int) -> None:
    one, two = rounded(matrix(count, 24)), rounded(matrix(count, 40))
    expected = one.float().t() @ two.float()
    found = product_of_columns(one, two)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=0.02 * count**0.5, rtol=0.01)


def test_batched_products_are_all_there() -> None:
    one, two = matrix(12 * 5, 7).view(12, 5, 7), matrix(12 * 7, 3).view(12, 7, 3)
    assert torch.allclose(batched(one, two, 4).float(), one.float() @ two.float(), atol=0.05, rtol=0.01)


def test_places_are_filled_up_with_the_first() -> None:
    places = torch.tensor([5, 2, 9])
    assert filled(places).tolist() == [5, 2, 9, *[5] * (TILES[-1] - 3)]
    whole = torch.arange(TILES[-1])
    assert torch.equal(filled(whole), whole)


@needs_bf16
def test_a_fresh_policy_is_the_base_bit_for_bit(tiny_model: Path) -> None:
    model = SharedModel(str(tiny_model), device="cpu", bf16_products=True)
    policy, base = (model.answer_logprobs(ITEMS, name) for name in (POLICY, None))
    assert torch.equal(policy, base)


@needs_bf16
def test_a_gradient_is_the_sum_of_its_items(tiny_model: Path) -> None:
    """Rows that only fill up a tile teach nothing."""
    model = SharedModel(str(tiny_model), device="cpu", bf16_products=True)
    disturb(model, POLICY, 1)

    def gradient(groups: list[list[int]]) -> Tensor:
        whole = model.flat[POLICY].zero_grad()
        for group in groups:
            batch = make_batch([ITEMS[i] for i in group])
            model.token_logprobs(model.predicting_states(batch, POLICY), batch.targets).sum().backward()
        return whole.clone()

    together, apart = gradient([[*range(len(ITEMS))]]), gradient([[i] for i in range(len(ITEMS))])
    assert float(torch.nn.functional.cosine_similarity(together, apart, dim=0)) > 0.999
    assert float(together.norm() / apart.norm()) == pytest.approx(1, abs=0.01)


@needs_bf16
def test_a_mean_kl_is_that_of_float32(tiny_model: Path) -> None:
    def kl(products: bool) -> float:
        model = SharedModel(str(tiny_model), device="cpu", bf16_products=products)
        disturb(model, POLICY, 1)
        policy, base = (model.answer_logprobs(ITEMS, name) for name in (POLICY, None))
        return float((policy - base).sum(1).mean())

    assert kl(True) == pytest.approx(kl(False), rel=0.03, abs=0.05)


@needs_bf16
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_block_keeps_its_gradients_direction(kind: str, tmp_path: Path) -> None:
    folder, found = saved(tmp_path, KINDS[kind]), []
    for products in (True, False):
        model = SharedModel(folder, rank=4, device="cpu", bf16_products=products)
        disturb(model, POLICY, 1)
        batch = make_batch(some_items(9, seed=4))
        gradient = model.flat[POLICY].zero_grad()
        logprobs = model.token_logprobs(model.predicting_states(batch, POLICY), batch.targets)
        logprobs.sum().backward()
        found.append((logprobs.detach(), gradient.clone()))
    (rough, one), (fine, two) = found
    assert float((rough - fine).abs().mean()) < 0.1
    assert float(torch.nn.functional.cosine_similarity(one, two, dim=0)) > 0.98
