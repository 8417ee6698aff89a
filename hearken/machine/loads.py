"""What a vLLM command line and a learner's settings say of the memory that they will take."""

from collections.abc import Sequence

from hearken.machine.memory import GIB, Blocks, EngineLoad, LearnerLoad
from hearken.models import vllm_flags
from hearken.models.shape import Config, Shape, language_part
from learner.model.width import default_rank
from learner.settings import LearnerSettings


def engine_load(command: Sequence[str], config: Config, *, cuda: bool, kv_cache_gib: int) -> EngineLoad:
    """Of a command that starts an engine. config: the model's; kv_cache_gib: what a CPU engine is given."""
    dtype = vllm_flags.value(command, "--dtype") or "auto"
    full = dtype in ("float32", "float") or (dtype == "auto" and not cuda and not _is_half(config))
    tensor = vllm_flags.number(command, "--tensor-parallel-size", "-tp") or 1
    pipeline = vllm_flags.number(command, "--pipeline-parallel-size", "-pp") or 1
    return EngineLoad(
        context=vllm_flags.number(command, "--max-model-len") or 0,
        rank=vllm_flags.number(command, "--max-lora-rank") or 8,
        loras=vllm_flags.number(command, "--max-loras") or 1,
        kept_loras=vllm_flags.number(command, "--max-cpu-loras") or 1,
        weight_bytes=4 if full else 2,
        cards=tensor * pipeline,
        kv_cache_bytes=kv_cache_gib * GIB,
    )


def _is_half(config: Config) -> bool:
    """Whether a model is stored in 16 bits, which vLLM's "auto" then takes."""
    stored = [part.get(name) for part in (language_part(config), config) for name in ("dtype", "torch_dtype")]
    return str(next(filter(None, stored), None)) in ("bfloat16", "float16")


def learner_load(
    settings: LearnerSettings, shape: Shape, context: int, *, on_card: bool, native: bool = False
) -> LearnerLoad:
    """Of a learner. context: tokens of the longest prompt with its answer; native: see
    `learner.model.native`.

    On a CPU a row longer than a backward pass's usual tokens is left out of the plan: it is rare, and what it
    takes is taken from the system only then. A GPU has what it has, so there the longest row counts.
    """
    rough = settings.products != "float32"
    return LearnerLoad(
        context=context if on_card else min(context, settings.ppo.update_tokens),
        rank=settings.rank or default_rank(shape.hidden),
        rollouts=settings.rollouts_per_step,
        rollout_tokens=min(settings.max_tokens, context),
        update_tokens=settings.ppo.update_tokens,
        pass_tokens=8192 if on_card else 1024,  # as `learner.model.shared` chooses
        weight_bytes=2 if on_card and rough else 4,
        base_bits=settings.base_bits,
        blocks=_blocks(shape, rough=rough, on_card=on_card, native=native and settings.base_bits == 16),
        recompute=settings.recompute,
        reader=settings.reward.reader_tokens > 0,
    )


def _blocks(shape: Shape, *, rough: bool, on_card: bool, native: bool) -> Blocks:
    if not shape.plain:
        return "transformers"
    return "native" if rough and native and not on_card else "packed"
