"""What the composition on one machine can be told: what all roles share, the engines, and the demo."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from deploy.registry.bucket import COPIES
from deploy.registry.registries import FetchPort, RegistryCopies, RegistryPlace, check_registry
from hearken.base.paces import Pace

MemoryCheck = Literal["refuse", "warn", "off"]

ENGINE_URL = "http://127.0.0.1:8001"


def default_data() -> Path:
    """Where a service's data lies unless told otherwise: ~/.local/share/hearken, or under XDG_DATA_HOME."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "hearken"


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """What several roles share. Each takes it where its own table does not say otherwise."""

    data: Annotated[Path | None, "folder of the service's data; without it ~/.local/share/hearken"] = None
    model: Annotated[
        str | None,
        "folder or Hugging Face name of the base model, or smollm2, which is set up once; without it a tiny "
        "one is trained once",
    ] = None
    engines: Annotated[
        tuple[str, ...],
        "base URLs of the vLLM servers, or dns://NAME:PORT (docs/engines.md); `hearken up` runs its own "
        "instead; the learner takes the first, which has to be a URL",
    ] = (ENGINE_URL,)
    kafka: Annotated[
        str | None,
        "HOST:PORT[,HOST:PORT...] of Kafka, or a file of client settings (docs/kafka.md); without it the "
        "embedded log is used",
    ] = None
    redis: Annotated[str | None, "URL of a Redis server; without it a local file does its work"] = None
    registry: RegistryPlace = None
    fetch_port: FetchPort = None
    registry_copies: RegistryCopies = COPIES
    pace: Annotated[
        Pace, "how fast releases go: seconds and small samples (demo), or hours and large ones (normal)"
    ] = "normal"
    seed: Annotated[int, "seed of everything random"] = 0
    memory_check: Annotated[
        MemoryCheck,
        "what happens when a model needs more memory than there is: refuse to start, warn, or nothing (off)",
    ] = "refuse"

    def __post_init__(self) -> None:
        check_registry(self.registry, self.fetch_port, self.registry_copies)

    @property
    def folder(self) -> Path:
        """The data folder."""
        return (self.data or default_data()).expanduser().resolve()


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The engines (vLLM servers) that `hearken up` and `hearken demo` run."""

    count: Annotated[int, "how many engines to run; on GPUs, one or more each"] = 1
    max_model_len: Annotated[
        int | None, "longest prompt and answer together, in tokens; without it the model's own limit, bounded"
    ] = None
    longest_context: Annotated[
        int | None,
        "what bounds the model's own limit, in tokens, for its key-value cache costs memory; without it 4096 "
        "on CPUs and 32768 on GPUs",
    ] = None
    dtype: Annotated[
        str | None,
        "arithmetic of the model, as vLLM's --dtype; without it auto on GPUs, and on CPUs bfloat16 for "
        "models of 50 million parameters and more where the processor is fast at it, else float32",
    ] = None
    lora_rank: Annotated[
        int | None, "largest LoRA rank that is loaded; without it the learner's rank (vLLM's next one)"
    ] = None
    max_loras: Annotated[int, "adapters that one batch may mix: live, canary, anchor and the learner's"] = 4
    max_cpu_loras: Annotated[
        int | None,
        "adapters that an engine keeps; without it 16, fewer where those take more than 2 GiB, but 8 or more",
    ] = None
    kv_cache_gib: Annotated[
        int | None,
        "GiB of key-value cache of an engine on CPUs; without it four sequences of full length, 1 at least",
    ] = None
    memory_share: Annotated[
        float | None,
        "share of its GPU's memory that an engine takes (--gpu-memory-utilization); without it what a "
        "learner on the same GPU leaves by the plan, and vLLM's own choice elsewhere",
    ] = None
    threads: Annotated[
        int | None,
        "OpenMP threads of an engine on CPUs; without it its share of the cores, or of half of them for a "
        "small model",
    ] = None
    tool_parser: Annotated[
        str | None, "vLLM's parser of calls of functions; without it by the model's chat template"
    ] = None
    reasoning_parser: Annotated[
        str | None,
        "vLLM's parser of what a model thinks before it answers; without it by the model's chat template",
    ] = None
    flags: Annotated[tuple[str, ...], "further flags for vLLM; the last of two equal ones counts"] = ()

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count is {self.count}, nothing to chat with; it must be at least 1")
        for name in ("max_model_len", "longest_context", "lora_rank", "kv_cache_gib", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.memory_share is not None and not 0 < self.memory_share < 1:
            raise ValueError(f"memory_share is {self.memory_share}; it must lie between 0 and 1")
        if self.max_loras < 1:
            raise ValueError(f"max_loras is {self.max_loras}; it must be at least 1")
        if self.max_cpu_loras is not None and self.max_cpu_loras < self.max_loras + 5:
            raise ValueError(
                f"max_cpu_loras is {self.max_cpu_loras}; it must be max_loras + 5 = {self.max_loras + 5} or "
                "more: live, previous, control, canary and a rollout stay loaded beside what a batch mixes"
            )


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """`hearken demo`. Its users are not real, so it has data of its own, not [service]'s."""

    data: Annotated[Path | None, "folder of the demo's data; without it a fresh one under the cache"] = None
    kafka: Annotated[
        str | None,
        "HOST:PORT[,HOST:PORT...] of Kafka, or a file of client settings (docs/kafka.md); without it the "
        "embedded log is used",
    ] = None
    redis: Annotated[str | None, "URL of a Redis server; without it a local file does its work"] = None
    pace: Annotated[
        Pace, "how fast releases go: seconds and small samples (demo), or hours and large ones (normal)"
    ] = "demo"
    minutes: Annotated[float, "how long the simulated users stay, from when all is ready"] = 10.0
    persona: Annotated[
        str | None,
        "what they like: a shipped persona's name or a JSON file; without it one that suits the model",
    ] = None
    users: Annotated[int, "how many different simulated users there are"] = 5000
    concurrency: Annotated[
        int | None, "how many of them chat at the same time; without it as many as suit the model"
    ] = None
    report: Annotated[
        Path | None, "write the report of the run to this JSON file, and its page beside it as .html"
    ] = None
    exit: Annotated[bool, "end when the time is up, rather than go on serving"] = False

    def __post_init__(self) -> None:
        if not self.minutes > 0:
            raise ValueError(f"minutes is {self.minutes:g}; it must be above 0")
        if self.users < 1 or (self.concurrency is not None and self.concurrency < 1):
            raise ValueError("users and concurrency must be at least 1")
