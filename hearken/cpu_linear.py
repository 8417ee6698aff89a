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

Intel's processors without tiles (AMX) multiply in bfloat16 half as fast as in float32. There the learner's
compiled product takes both factors as float32 (`learner/model/native/linear.py`), and is 1.6 times as fast.
"""

from typing import Any

import torch
from torch import Tensor

from deploy.engines.parity import ROUNDS_ONCE
from learner.model.native.linear import Linear, faster

BATCH = 64  # the rows for which oneDNN lays out the weights; other numbers are as fast within noise


def by_onednn(weight: Tensor) -> Linear:
    """The product with a layer's weight (out, in), by oneDNN."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), BATCH)

    def linear(x: Tensor, bias: Tensor | None, share: Tensor | None) -> Tensor:
        y: Tensor
        if share is None:
            y = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
        else:
            y = torch.ops.mkldnn._linear_pointwise.binary(x, share, packed, bias, "add")
        return y

    return linear


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
        """Called for each layer when the weights are read; the embedding's, which may be the output layer's
        as well, are not removed."""
        if get_current_vllm_config().lora_config is None or not is_for(layer.weight):
            stock_dispatch(layer, remove_weight)
            return
        linear = faster(layer.weight)
        if linear is None and not remove_weight:
            stock_dispatch(layer, remove_weight)
            return
        linear = linear or by_onednn(layer.weight)
        layer.cpu_linear = lambda x, _, bias: linear(x, bias, None)
        if remove_weight:
            layer.hearken_linear = linear
            layer.weight = torch.nn.Parameter(layer.weight.new_empty(0), requires_grad=False)

    def apply(self: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """A layer's output with adapters' shares. x: (N, in) or (1, N, in)."""
        linear: Linear | None = getattr(self.base_layer, "hearken_linear", None)
        if linear is None:
            done: Tensor = stock_apply(self, x, bias)
            return done
        return linear(x, bias, self.punica_wrapper.share(x, self.lora_a_stacked, self.lora_b_stacked))

    utils.dispatch_cpu_unquantized_gemm = dispatch
    BaseLinearLayerWithLoRA._apply_sync = apply
    basic.VLLM_VERSION = f"{basic.VLLM_VERSION}{'.' if '+' in basic.VLLM_VERSION else '+'}{ROUNDS_ONCE}"
