"""Whether a model's folder can be served and trained: told by its small files, in one line, before it is.

Nothing here imports torch or transformers, which take seconds; what transformers has a class for is read off
its source. A model that gets past these checks and cannot be trained after all is refused by the learner,
which compares the logits themselves (`learner.model.shared`).
"""

import ast
import importlib.util
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from hearken.base.errors import UsageError
from hearken.models import vllm_flags
from hearken.models.shape import Config, language_part, position_limit, read_config
from learner.settings import BASE_BITS


def check_model(folder: Path, name: str | None = None, *, template: bool = True) -> None:
    """Raises UsageError when a model cannot be served or trained.

    name: what the user calls it; `folder` if not given. template: whether it needs one for chats.
    """
    name, config = name or str(folder), read_config(folder)
    problem = _kind_problem(config) or _head_problem(config)
    if problem:
        raise UsageError(f"{name} cannot be trained: {problem}")
    if template and not has_chat_template(folder):
        raise UsageError(
            f"{name} has no chat template, neither chat_template.jinja nor one in tokenizer_config.json; "
            'take the chat or instruct version of it, or pass --engine-flags "--chat-template FILE"'
        )


def has_chat_template(folder: Path) -> bool:
    """Whether chats can be written down for this model."""
    for name in ("chat_template.jinja", "chat_template.json", "tokenizer_config.json"):
        file = folder / name
        if not file.is_file():
            continue
        text = file.read_text(errors="replace")
        if name.endswith(".jinja"):
            return bool(text.strip())
        try:
            found = json.loads(text)
        except ValueError as error:
            raise UsageError(f"{file} cannot be read: {error}") from error
        if isinstance(found, dict) and found.get("chat_template"):
            return True
    return False


# ---- what kind of model it is


_WRITES = re.compile(r"(CausalLM|LMHeadModel|ConditionalGeneration)$")  # such architectures write text


def _kind_problem(config: Config) -> str | None:
    """Why transformers has no causal language model of this kind, None where it has."""
    kind = config.get("model_type")
    if not kind:
        return 'its config.json names no "model_type"; take a folder that transformers has saved'
    if config.get("is_encoder_decoder"):
        return f"{kind} is an encoder-decoder; take a decoder-only model"
    names = [str(name) for name in config.get("architectures") or ()]
    if names and not any(_WRITES.search(name) for name in names):
        return f"{names[0]} is no causal language model; take one whose architecture ends in ForCausalLM"
    known = causal_kinds()
    if known and kind not in known:
        own = "code of its own, which is not run here" if config.get("auto_map") else "a newer transformers"
        return f"transformers has no causal language model of the kind {kind}; it needs {own}"
    return None


_CAUSAL_TABLE = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"


@cache
def causal_kinds() -> frozenset[str]:
    """The model types that transformers' AutoModelForCausalLM knows; none where it is not installed."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return frozenset()
    source = Path(spec.origin).parent / "models" / "auto" / "modeling_auto.py"
    try:
        tree = ast.parse(source.read_text())
    except (OSError, SyntaxError):
        return frozenset()
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == _CAUSAL_TABLE:
            assert isinstance(node.value, ast.Call)
            return frozenset(kind for kind, _ in ast.literal_eval(node.value.args[0]))
    return frozenset()


# ---- what comes after the output layer

_SCALES = ("logits_scaling", "logit_scale", "lm_head_multiplier", "output_multiplier")
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
_CHANGED_BY_DEFAULT = {
    "cohere": "logit_scale",
    "cohere2": "logit_scale",
    "cohere2_moe": "logit_scale",
    "gemma2": "final_logit_softcapping",
    "minicpm3": "dim_model_base",
    "recurrent_gemma": "logits_soft_cap",
    "xlstm": "output_logit_soft_cap",
}
"""The kinds of models whose logits are changed also where config.json is silent, and by what."""


def _head_problem(config: Config) -> str | None:
    """What a model does to its logits after the output layer, None where that is nothing.

    The learner makes logits by the output layer alone, a slice at a time; it would train another policy than
    the engine serves.
    """
    inner = language_part(config)
    kind = str(inner.get("model_type") or config.get("model_type"))
    changed = next((f for f in _SCALES if inner.get(f) is not None and float(inner[f]) != 1.0), None)
    changed = changed or next((f for f in _CAPS if inner.get(f)), None)
    default = _CHANGED_BY_DEFAULT.get(kind)
    if changed is None and default is not None and default not in inner:
        changed = default
    if changed is None:
        return None
    value = inner.get(changed, "its default")
    return (
        f"it changes its logits after the output layer ({changed} is {value}); "
        "take a model that does not, such as those of the Qwen, Llama or Mistral families"
    )


# ---- how much it reads at a time


def check_context(folder: Path, command: Sequence[str]) -> None:
    """Raises UsageError when an engine's command line asks for a longer context than the model can have."""
    asked = vllm_flags.number(command, "--max-model-len")
    if asked is None or vllm_flags.value(command, "--hf-overrides") is not None:
        return
    limit = position_limit(read_config(folder))
    if limit is not None and asked > limit:
        raise UsageError(
            f"--max-model-len {asked} is longer than {folder.name} can read: {limit} tokens; pass at most "
            f"--max-model-len {limit}"
        )


# ---- in how many bits it is trained


def check_base_bits(folder: Path, bits: int, products: str, *, on_card: bool) -> None:
    """Raises UsageError when a learner's base cannot be had in so few bits.

    products: the learner's setting; on_card: whether it computes on a GPU.
    """
    if bits == 16:
        return
    if bits not in BASE_BITS:
        known = ", ".join(map(str, BASE_BITS))
        raise UsageError(f"learner.base_bits is {bits}; it must be one of {known}")
    asked, back = f"learner.base_bits is {bits}", "or leave learner.base_bits at 16"
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(f'{asked}, which needs bitsandbytes: pip install "hearken[quant]", {back}')
    if read_config(folder).get("quantization_config"):
        raise UsageError(f"{asked}, and {folder.name} is quantized already: take the model before, {back}")
    if products == "bfloat16" and not on_card:
        raise UsageError(
            f"{asked}, and learner.products is bfloat16, which on a CPU needs 16 bits: leave "
            f"learner.products at auto, {back}"
        )
