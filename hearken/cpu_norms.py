"""A vLLM plugin for its CPU build: RMS norms by vLLM's own kernel.

vLLM 0.32 has one for CPUs and does not use it: a norm is six small operations of torch, sixty-one times a
step for a model of thirty blocks. Their calls cost more than their arithmetic.
"""

from typing import Any

import torch
from torch import Tensor


def register() -> None:
    """Mend the class of these norms, also where it was imported already."""
    from vllm.model_executor.layers.layernorm import RMSNorm

    def forward_cpu(self: Any, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """The norm of x: (..., H), or of x + residual, and that sum with it."""
        weight = self.weight.data if self.has_weight else None
        plain = weight is not None and self.variance_size_override is None and weight.dtype == x.dtype
        if not plain or not x.is_contiguous() or (residual is not None and not residual.is_contiguous()):
            found: Tensor | tuple[Tensor, Tensor] = self.forward_native(x, residual)
            return found
        if residual is None:
            out = torch.empty_like(x)
            torch.ops._C.rms_norm(out, x, weight, self.variance_epsilon)
            return out
        torch.ops._C.fused_add_rms_norm(x, residual, weight, self.variance_epsilon)
        return x, residual

    RMSNorm.forward_cpu = forward_cpu
