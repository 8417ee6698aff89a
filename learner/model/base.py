"""Loading the frozen base: its files, its arithmetic, its bits."""

import logging
import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import AutoModelForCausalLM

from learner.model.quantized import CannotQuantize, Served, quantize

logger = logging.getLogger("hearken.learner")

_ROUTER = re.compile(r"gate|.*_gate|.*router.*")
"""Names of what chooses experts or weighs them, or of what that lies in."""


def load(name: str, dtype: torch.dtype, device: torch.device, bits: int = 16) -> tuple[Any, Served | None]:
    """The base of a folder or hub name, frozen, in memory of our own; and, of one in fewer than 16 bits, its
    weights as they are served.

    dtype: of what is not quantized. bits: 16 for `dtype`, 8 or 4, see `learner.model.quantized`. Raises
    `CannotQuantize` for a base that cannot be had in so few bits.
    """
    # What is to be quantized is read as the files have it: a copy in `dtype` would be the most memory of all.
    base = AutoModelForCausalLM.from_pretrained(
        name, dtype=dtype if bits == 16 else "auto", trust_remote_code=False
    )
    base.eval().requires_grad_(False)
    served = None
    if bits < 16:
        if getattr(base.config, "quantization_config", None) is not None:
            raise CannotQuantize(f"{name} is quantized already; leave base_bits at 16")
        served = Served(weight_files(name), dtype)
        quantize(base, linear_names(base), bits, served, device)
        logger.info("the linear layers of %s are held in %d bits; it is served as it is", name, bits)
    base.to(device)
    for weight in base.parameters():
        # A copy, or the whole file stays mapped.
        kind = dtype if weight.is_floating_point() else weight.dtype
        weight.data = weight.data.to(kind, copy=True)
    return base, served


def weight_files(name: str) -> list[Path]:
    """The base's safetensors files, in the order of their names."""
    path = Path(name)
    if not path.is_dir():
        path = Path(snapshot_download(name, local_files_only=True))
    return sorted(path.glob("*.safetensors"))


def linear_names(base: Any) -> list[str]:
    """The names of the blocks' linear layers, without their path: what the adapters sit on.

    Not the routers of a mixture of experts: which experts see a token is not to be learnt from votes, and no
    engine has adapters on them.
    """
    skip = base.get_output_embeddings()
    found = (
        name.split(".")
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear) and module is not skip
    )
    return sorted({path[-1] for path in found if not any(map(_ROUTER.fullmatch, path))})
