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
compiled product takes both factors as float32 (`learner/model/native/products.h`), and is 1.6 times as fast.
"""

from collections.abc import Callable
from ctypes import CDLL, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from deploy.engines.parity import ROUNDS_ONCE
from learner.model import native

BATCH = 64  # the rows for which oneDNN lays out the weights; other numbers are as fast within noise
LANES = 16

Linear = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
"""x @ W.T + bias + share, rounded once. x: (..., in); share, if any, and the result: (..., out)."""


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


def compiled(weight: Tensor, library: CDLL) -> Linear:
    """The product with a layer's weight (out, in), by `linear.cpp`."""
    outputs, inputs = weight.shape
    packed = torch.empty(outputs * inputs, dtype=torch.bfloat16)
    weight = weight.detach().contiguous()
    library.hearken_pack_linear(_pointer(weight), c_int64(outputs), c_int64(inputs), _pointer(packed))

    def linear(x: Tensor, bias: Tensor | None, share: Tensor | None) -> Tensor:
        rows = x.reshape(-1, inputs)
        rows = rows if rows.stride(1) == 1 else rows.contiguous()
        y = x.new_empty(*x.shape[:-1], outputs)
        bias = None if bias is None else bias.float()
        share = None if share is None else share.to(torch.bfloat16).contiguous()
        library.hearken_linear(
            _pointer(rows),
            c_int64(rows.stride(0)),
            c_int64(len(rows)),
            _pointer(packed),
            c_int64(inputs),
            c_int64(outputs),
            _pointer(bias),
            _pointer(share),
            _pointer(y),
            c_int64(torch.get_num_threads()),
        )
        return y

    return linear


def fast_linear(weight: Tensor) -> Linear | None:
    """`compiled` where that is faster than oneDNN; None elsewhere, and for sizes that it does not take."""
    outputs, inputs = weight.shape
    library = native.library()
    if library is None or not library.hearken_widens() or outputs % LANES or inputs % 2:
        return None
    return compiled(weight, library)


def _pointer(tensor: Tensor | None) -> c_void_p:
    return c_void_p(None if tensor is None else tensor.data_ptr())


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
        linear = fast_linear(layer.weight)
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
