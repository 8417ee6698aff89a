"""A linear layer of vLLM's CPU build in bfloat16: its output and an adapter's share are rounded once."""

from typing import Any

import pytest
import torch

from deploy.engines.client import EngineClient
from deploy.engines.parity import ROUNDS_ONCE
from hearken.machine.engine import use_cuda
from learner.model import native
from learner.model.native import linear
from tests.conftest import Engine

WIDTH, OUTPUTS, RANK = 256, 192, 4
FAINT = 1e-4  # of B: shares are a thousandth of the outputs
MIXED = [0, 0, -1, 1, 0, -1, 1, 0] * 32


@pytest.fixture
def cpu_linear() -> Any:
    found = pytest.importorskip("hearken.cpu_linear", reason="vLLM is not installed")
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this machine's oneDNN has no bfloat16")
    return found


@pytest.fixture(params=["oneDNN", "compiled"])
def linear_of(request: pytest.FixtureRequest, cpu_linear: Any) -> Any:
    """What makes a product of a weight: either way, also where it is not the faster one."""
    if request.param == "oneDNN":
        return cpu_linear.by_onednn
    return compiled()


def compiled() -> Any:
    """What makes a compiled product of a weight."""
    if native.library() is None:
        pytest.skip("this processor does not multiply in bfloat16, or there is no compiler")
    return linear.compiled


class Layer:
    """A layer with two adapters, and a batch."""

    def __init__(self, slots: list[int], bias: bool = False) -> None:
        from hearken import cpu_lora

        draw = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=draw) / shape[-1] ** 0.5

        self.weight = normal(OUTPUTS, WIDTH).bfloat16()
        self.bias = normal(OUTPUTS).bfloat16() if bias else None
        self.a = normal(2, 1, RANK, WIDTH).bfloat16()
        self.b = (FAINT * normal(2, 1, OUTPUTS, RANK) * RANK**0.5).bfloat16()
        self.x = (normal(len(slots), WIDTH) * WIDTH**0.5).bfloat16()
        self.slots, self.groups = slots, cpu_lora.group_rows(slots)
        self.lora = cpu_lora.PackedWeights((self.a,), (self.b,))

    def shares(self) -> torch.Tensor:
        """What the adapters add, in float64. (N, outputs)"""
        rows = [
            self.b[slot, 0].double() @ (self.a[slot, 0].double() @ x.double()) * (slot >= 0)
            for slot, x in zip(self.slots, self.x, strict=True)
        ]
        return torch.stack(rows)

    def base(self) -> torch.Tensor:
        """The base's output, in float64. (N, outputs)"""
        bias = 0 if self.bias is None else self.bias.double()
        return self.x.double() @ self.weight.double().T + bias

    def served(self, y: torch.Tensor, base: torch.Tensor) -> float:
        """How much of the adapters' shares is in outputs, beside those of the base."""
        shares = self.shares()
        return float(((y.double() - base.double()) * shares).sum() / (shares * shares).sum())


@pytest.mark.parametrize("slots", [[1] * 256, MIXED], ids=["one adapter", "mixed"])
@pytest.mark.parametrize("bias", [False, True])
def test_all_of_a_faint_adapter_is_served(linear_of: Any, slots: list[int], bias: bool) -> None:
    layer = Layer(slots, bias)
    product = linear_of(layer.weight)
    base = product(layer.x, layer.bias, None)
    y = product(layer.x, layer.bias, layer.lora.share(layer.x, layer.groups))
    assert layer.served(y, base) == pytest.approx(1, abs=0.1)
    added = base.clone()
    layer.lora.add(added, layer.x, layer.groups, 1.0)
    assert layer.served(added, base) < 0.4  # what adding to a rounded output leaves
    torch.testing.assert_close(y.double(), layer.base() + layer.shares(), atol=0.01, rtol=0.005)


def test_a_row_of_the_base_has_no_share_and_the_same_bits(linear_of: Any) -> None:
    layer = Layer(MIXED)
    product = linear_of(layer.weight)
    share = layer.lora.share(layer.x, layer.groups)
    y = product(layer.x, None, share)
    ours = torch.tensor(MIXED) < 0
    assert not share[ours].any()
    assert torch.equal(y[ours], product(layer.x, None, None)[ours])


def test_a_broken_adapter_spoils_only_its_own_rows(linear_of: Any) -> None:
    layer = Layer(MIXED)
    layer.lora._b[1].fill_(float("inf"))
    y = linear_of(layer.weight)(layer.x, None, layer.lora.share(layer.x, layer.groups))
    broken = torch.tensor(MIXED) == 1
    assert y[~broken].isfinite().all()
    assert not y[broken].isfinite().any()


@pytest.mark.parametrize(("outputs", "inputs"), [(16, 2), (80, 30), (208, 576), (64, 1538)])
def test_the_compiled_product_takes_every_size_and_number_of_rows(outputs: int, inputs: int) -> None:
    draw = torch.Generator().manual_seed(outputs)
    weight = (torch.randn(outputs, inputs, generator=draw) / inputs**0.5).bfloat16()
    product = compiled()(weight)
    wide = torch.randn(27, 2, inputs, generator=draw).bfloat16()
    share = torch.randn(27, outputs, generator=draw).bfloat16()
    for rows in range(28):
        x = wide[:rows, 1]  # rows that do not lie one behind the other
        wanted = x.double() @ weight.double().T + share[:rows].double()
        torch.testing.assert_close(product(x, None, share[:rows]).double(), wanted, atol=1e-2, rtol=4e-3)
    every = product(wide[:, 0], None, None)
    for row in range(27):  # whoever else is in the batch
        assert torch.equal(product(wide[row : row + 1, 0], None, None)[0], every[row])
    assert torch.equal(product(wide.view(3, 18, inputs), None, None).view(54, -1)[::2], every)


CASES = {"adapters": (True, torch.bfloat16), "none": (False, torch.bfloat16), "fine": (True, torch.float32)}


@pytest.mark.parametrize(("has_adapters", "dtype"), CASES.values(), ids=CASES)
def test_vllm_packs_a_layer_so_where_adapters_would_lose(
    cpu_linear: Any, has_adapters: bool, dtype: torch.dtype
) -> None:
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.config.lora import LoRAConfig
    from vllm.model_executor.layers import utils
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    layer: Any = torch.nn.Module()
    given = Layer([0])
    layer.weight = torch.nn.Parameter(given.weight.to(dtype), requires_grad=False)
    config = VllmConfig()
    config.lora_config = LoRAConfig() if has_adapters else None
    with set_current_vllm_config(config):
        utils.dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
    assert hasattr(layer, "hearken_linear") == (has_adapters and dtype is torch.bfloat16)
    assert layer.weight.numel() == 0
    y = layer.cpu_linear(given.x.to(dtype), layer.weight, None)
    torch.testing.assert_close(y.double(), given.base(), atol=0.02, rtol=0.01)


@pytest.mark.engine
@pytest.mark.skipif(use_cuda(), reason="a GPU build has kernels of its own")
def test_an_engine_says_that_it_rounds_once(engine: Engine, cpu_linear: Any) -> None:
    client = EngineClient(engine.url)
    assert ROUNDS_ONCE in client.version()
    client.close()
