"""A vLLM plugin for its CPU build: a linear layer's output and its adapter's share are rounded once.

In bfloat16 vLLM rounds a layer's output and then adds the adapter's share to it. Numbers have eight bits
there, so a share below 1/512 of its output changes nothing: of an adapter whose shares are a thousandth of
the outputs a quarter is served, and the rest of what was trained is lost. oneDNN adds a matrix to its sums in
float32, before they are rounded. Then a small share moves as many outputs over the edge between two numbers
as it should, and all of it is served on the average. The engine's version says so (`ROUNDS_ONCE`), for who
compares logprobs.

For that the weights are packed for torch's entry to oneDNN instead of vLLM's own, which takes no such matrix.
The kernel behind both is the same; a call takes some 10 us more. Other dtypes round finely enough, and
quantised layers have kernels of their own: they stay as they are.
"""

from typing import Any

import torch
from torch import Tensor

from deploy.engines.parity import ROUNDS_ONCE

BATCH = 64  # the rows for which oneDNN lays out the weights; other numbers are as fast within noise


def pack(weight: Tensor) -> Tensor:
    """A layer's weight (out, in) as oneDNN wants it."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), BATCH)
    return packed


def product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """x @ W.T + bias. x: (..., in); the result: (..., out)."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return y


def product_and(x: Tensor, packed: Tensor, bias: Tensor | None, share: Tensor) -> Tensor:
    """x @ W.T + bias + share, rounded once. x: (..., in); share and the result: (..., out)."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, share, packed, bias, "add")
    return y


def is_for(weight: Tensor) -> bool:
    """Whether a layer with this weight is packed here."""
    return weight.dtype is torch.bfloat16 and weight.ndim == 2 and not weight.is_meta


def register() -> None:
    """Pack the linear layers of an engine with adapters, and have these add their share in the product."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    from vllm.config import get_current_vllm_config
    from vllm.entrypoints.serve.instrumentator import basic
    from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
    from vllm.model_executor.layers import utils

    stock_dispatch, stock_apply = utils.dispatch_cpu_unquantized_gemm, BaseLinearLayerWithLoRA._apply_sync

    def dispatch(layer: Any, remove_weight: bool) -> None:
        """Called for each layer when the weights are read."""
        if not remove_weight or get_current_vllm_config().lora_config is None or not is_for(layer.weight):
            stock_dispatch(layer, remove_weight)
            return
        packed = pack(layer.weight)
        layer.hearken_packed = packed
        layer.cpu_linear = lambda x, _, bias: product(x, packed, bias)
        layer.weight = torch.nn.Parameter(layer.weight.new_empty(0), requires_grad=False)

    def apply(self: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """A layer's output with adapters' shares. x: (N, in) or (1, N, in)."""
        packed = getattr(self.base_layer, "hearken_packed", None)
        if packed is None:
            done: Tensor = stock_apply(self, x, bias)
            return done
        share = self.punica_wrapper.share(x, self.lora_a_stacked, self.lora_b_stacked)
        return product(x, packed, bias) if share is None else product_and(x, packed, bias, share)

    utils.dispatch_cpu_unquantized_gemm = dispatch
    BaseLinearLayerWithLoRA._apply_sync = apply
    basic.VLLM_VERSION = f"{basic.VLLM_VERSION}{'.' if '+' in basic.VLLM_VERSION else '+'}{ROUNDS_ONCE}"
