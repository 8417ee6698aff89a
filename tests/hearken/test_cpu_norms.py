"""RMS norms on vLLM's CPU build: what its kernel gives is what torch's operations give."""

from typing import Any

import pytest
import torch

from hearken.machine.engine import use_cuda

pytestmark = pytest.mark.skipif(use_cuda(), reason="a GPU has kernels of its own")

ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-7}


@pytest.fixture(scope="module")
def norm() -> Any:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    layernorm = pytest.importorskip("vllm.model_executor.layers.layernorm")
    from vllm.config import CompilationConfig, VllmConfig, set_current_vllm_config

    from hearken import cpu_norms

    cpu_norms.register()
    config = VllmConfig(compilation_config=CompilationConfig(mode=0, custom_ops=["all"]))  # as with LoRA
    with set_current_vllm_config(config):
        made = layernorm.RMSNorm(64, eps=1e-5)
    made.weight.data = torch.rand(64) + 0.5
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_gives_what_torch_gives(norm: Any, dtype: torch.dtype) -> None:
    weight = norm.weight.data
    norm.weight.data = weight.to(dtype)
    draw = torch.Generator().manual_seed(0)
    x, residual = (torch.randn(7, 64, generator=draw).to(dtype) for _ in range(2))
    close = {"atol": ROUNDING[dtype], "rtol": ROUNDING[dtype]}
    torch.testing.assert_close(norm(x.clone()), norm.forward_native(x.clone()), **close)
    found, total = norm(x.clone(), residual.clone())
    wanted, wanted_total = norm.forward_native(x.clone(), residual.clone())
    torch.testing.assert_close(found, wanted, **close)
    torch.testing.assert_close(total, wanted_total, **close)
    apart = torch.randn(64, 7, generator=draw).to(dtype).T  # not contiguous, as parts of a wider tensor
    torch.testing.assert_close(norm(apart), norm.forward_native(apart), **close)
    norm.weight.data = weight


def test_the_kernel_is_what_acts(norm: Any) -> None:
    x, residual = torch.ones(2, 64), torch.ones(2, 64)
    _, total = norm(x, residual)
    assert total is residual  # in place, as only the kernel does
    assert torch.equal(total, torch.full((2, 64), 2.0))
