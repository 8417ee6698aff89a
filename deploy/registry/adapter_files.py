"""What an adapter's two files must be: a LoRA adapter of the manifest's rank for the manifest's modules.

An engine takes what it can of a folder. A wrong rank, a matrix of another model or a single nan would come to
light when it serves, if at all.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.registry.safetensors_file import Broken, Tensor, is_finite, read_tensors

Modules = Mapping[str, tuple[int, int]]
"""The matrices of the base that an adapter changes: name -> (inputs, outputs)."""

_NAME = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_ABSENT = ("rank_pattern", "alpha_pattern", "modules_to_save", "use_dora")
"""Settings of peft that would make another adapter of the same matrices; false or empty, or not there."""


class WrongAdapter(ValueError):
    """Files that are no such adapter; the message says what of them is wrong."""


def check_adapter(weights: Path, config: Path, rank: int, modules: Modules) -> Modules:
    """The modules of an adapter, of which there must be `rank` directions each.

    modules: what they have to be, {} where that is not known. Raises `WrongAdapter`, and OSError.
    """
    _check_config(config, rank)
    data = weights.read_bytes()
    try:
        tensors = read_tensors(data)
        found = _modules(tensors, rank)
    except (Broken, WrongAdapter) as error:
        raise WrongAdapter(f"{weights}: {error}") from error
    for name, tensor in tensors.items():
        if not is_finite(tensor, data):
            raise WrongAdapter(f"{weights}: {name} has values that are infinite or not a number")
    for module in sorted(found.keys() | modules.keys()) if modules else ():
        ours, known = found.get(module), modules.get(module)
        if ours != (None if known is None else tuple(known)):
            raise WrongAdapter(f"{weights}: {module} is {ours}, and {known} in the manifest")
    return found


def _modules(tensors: Mapping[str, Tensor], rank: int) -> dict[str, tuple[int, int]]:
    """The modules by the shapes of their pairs: A is (rank, inputs), B is (outputs, rank)."""
    sides: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise WrongAdapter(f"{name} is no tensor of a LoRA adapter")
        sides.setdefault(match["module"], {})[match["side"]] = tensor.shape
    if not sides:
        raise WrongAdapter("it has no tensors")
    found = {}
    for module, shapes in sides.items():
        if len(shapes) != 2:
            raise WrongAdapter(f"{module} has one side only")
        a, b = shapes["A"], shapes["B"]
        if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
            raise WrongAdapter(f"{module} is {b} times {a}, which is not of rank {rank}")
        found[module] = (a[1], b[0])
    return found


def _check_config(file: Path, rank: int) -> None:
    try:
        config: Any = json.loads(file.read_bytes())
        r, alpha = config["r"], config.get("lora_alpha", 1)
        wanted = {name: config.get(name) for name in _ABSENT}
        kind, bias = config.get("peft_type", "LORA"), config.get("bias", "none")
        alpha = math.nan if isinstance(alpha, bool) else float(alpha)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise WrongAdapter(f"{file} is no configuration of an adapter: {str(error)[:200]}") from error
    if type(r) is not int or r != rank:
        raise WrongAdapter(f"{file} is of rank {r!r}, the manifest of {rank}")
    if not 0 < alpha < math.inf:
        raise WrongAdapter(f"{file} has a lora_alpha of {alpha!r}")
    if (kind, bias) != ("LORA", "none"):
        raise WrongAdapter(f"{file} is of a {kind!r} with bias {bias!r}, not of a plain LoRA adapter")
    for name, value in wanted.items():
        if value:
            raise WrongAdapter(f"{file} has {name}, which a plain LoRA adapter has not")
