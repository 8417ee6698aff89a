"""`hearken up`: the whole service on one machine, as supervised processes."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from deploy.engines.key import take_engine_key
from hearken.base import checks
from hearken.base.errors import UsageError
from hearken.config.check import check_optimiser, check_own, check_signals
from hearken.config.resolve import Config
from hearken.machine import engine
from hearken.machine.fitting import APART, Layout
from hearken.machine.huge_pages import with_huge_pages
from hearken.models import vllm_flags
from hearken.service import access, flags
from hearken.service.plan import UpSettings
from hearken.service.suggestions import suggestions
from hearken.service.suiting import followed, lay_out
from hearken.service.supervisor import Child, ChildFailed, Supervisor
from hearken.settings import EngineSettings

Say = Callable[[str], None]


class Interrupted(Exception):
    """The user asked to stop while something was starting."""


def check(settings: UpSettings, say: Say) -> None:
    """Everything that can be known to be wrong before anything is started. Raises UsageError."""
    for sentence in settings.unused:
        say(f"warning: {sentence}")
    check_optimiser(settings.config)
    checks.check_registry(settings.service.registry, settings.service.fetch_port)
    check_signals(settings.config)
    check_own(settings.config)
    for port in settings.ports:
        checks.check_port(settings.gateway.host if port == settings.gateway.port else "127.0.0.1", port)
    if settings.gateway.redis is not None:
        checks.check_redis(settings.gateway.redis)
    if settings.service.kafka is not None and (problem := checks.kafka_warning(settings.service.kafka)):
        say(problem)
    if problem := access.check(settings.gateway):
        say(problem)


def choose_model(settings: UpSettings, say: Say) -> Path:
    """The folder of the base model; trains the tiny one when none was named."""
    if settings.service.model is not None:
        template = vllm_flags.value(settings.engine.flags, "--chat-template")
        return engine.resolve_model(settings.service.model, say, template=template is None)
    from hearken.models.tiny import default_folder

    # In a process of its own: it needs torch, which this one would carry along for as long as it runs.
    say("no --model given: taking the built-in tiny model (it is trained once, in about a minute)")
    if subprocess.run([sys.executable, "-m", "hearken", "tiny"], check=False).returncode != 0:
        raise UsageError("the tiny model could not be trained; its output above says why", code=1)
    return default_folder()


def children(settings: UpSettings, model: Path, cuda: bool, layout: Layout = APART) -> dict[str, Child]:
    """The processes, in the order in which they are started (they are stopped in reverse).

    All roles get the file and what goes over it: what `up` was told and what it decided.
    Raises UsageError when there are fewer GPUs than engines, or the model does not suit the settings.
    """
    config = followed(settings, model, cuda, layout.context)
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    handed = tuple(_handed(settings, config, model))
    logs = settings.data / "logs"

    gpus = _gpus(layout) if cuda and layout.learner_card is not None else None

    def role(name: str, stop_seconds: float) -> Child:
        command = (sys.executable, "-m", "hearken", name, *handed)
        own = env
        if name == "learner":
            own = with_huge_pages(env) | ({} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus[-1]})
        return Child(name, command, own, logs / f"{name}.log", stop_seconds)

    return {
        **_engines(settings, config.build("engine"), model, cuda, layout, env),
        "controller": role("controller", 2.0),
        "learner": role("learner", 2.5),
        "gateway": role("gateway", 4.0),
    }


def _handed(settings: UpSettings, config: Config, model: Path) -> list[str]:
    """The arguments that every role is started with."""
    values: dict[str, Any] = {}
    for layer in reversed(settings.config.flags):
        values |= {path: given.value for path, given in layer.items()}
    values["service.model"] = str(model)
    values["learner.rank"] = config.get("learner.rank").value  # the engine was started for it
    values["service.memory_check"] = "off"  # it was done for all of them together
    for path, value in (
        ("learner.threads", engine.learner_threads()),
        ("gateway.max_model_len", config.get("engine.max_model_len").value),
        ("gateway.default_max_tokens", config.get("gateway.default_max_tokens").value),
        ("gateway.suggestions", suggestions(settings.service.model)),
    ):
        if value is not None and config.asked(path) is None:
            values[path] = value
    told = {path: value for path, value in values.items() if path.partition(".")[0] not in ("engine", "demo")}
    return [*(("--config", str(config.file)) if config.file else ()), *flags.written(told)]


def _gpus(layout: Layout) -> list[str]:
    """The names of all usable GPUs, up to the learner's own if it has one."""
    count = engine.cuda_devices() if layout.learner_card is None else layout.learner_card + 1
    return engine.gpu_names(count, os.environ.get("CUDA_VISIBLE_DEVICES", ""))


def _engines(
    settings: UpSettings,
    asked: EngineSettings,
    model: Path,
    cuda: bool,
    layout: Layout,
    env: Mapping[str, str],
) -> dict[str, Child]:
    """The engines: "engine", "engine-2" and so on, each with its share of the GPUs or of the CPU."""
    gpus = None
    if cuda and (asked.count > 1 or layout.learner_card is not None):
        names = _gpus(layout)[: layout.learner_card]
        gpus = engine.share_gpus(asked.count, len(names), ",".join(names))
    made = {}
    for i, port in enumerate(settings.engine_ports):
        name = f"engine-{i + 1}" if i else "engine"
        options = engine.options(asked, model, port, cuda, None if gpus is None else gpus[i])
        if i == 0 and layout.engine_share is not None:
            options = replace(options, memory_share=layout.engine_share)
        made[name] = Child(
            name,
            tuple(engine.engine_command(options)),
            engine.engine_environment(options, env),
            settings.data / "logs" / f"{name}.log",
            stop_seconds=3.0,
            health=settings.engine_urls[i] + "/health",
            group="engine",
        )
    return made


class Service:
    """The processes, started and watched by the thread that calls these methods.

    `waiting(text)` is a context manager that shows what is being waited for (a spinner, or a line).
    """

    def __init__(
        self,
        settings: UpSettings,
        model: Path,
        cuda: bool,
        say: Say,
        waiting: Callable[[str], AbstractContextManager[object]],
        stopping: threading.Event,
    ) -> None:
        self.settings = settings
        self.model = model
        take_engine_key(settings.data)
        self._children = children(settings, model, cuda, lay_out(settings, model, cuda, say))
        self._supervisor = Supervisor(report=say)
        self._waiting = waiting
        self._stopping = stopping

    def start(self) -> None:
        """Start everything; returns when the gateway is ready.

        Raises ChildFailed when a process cannot be kept running, Interrupted on Ctrl-C.
        """
        engines = [child for child in self._children.values() if child.group == "engine"]
        for child in engines:
            self._supervisor.start(child)
        what = "the engine" if len(engines) == 1 else f"{len(engines)} engines"
        with self._waiting(f"starting {what} (vLLM) with {self.model.name}"):
            for url in self.settings.engine_urls:
                self._wait_for(url + "/health")
        for name in ("controller", "learner", "gateway"):
            self._supervisor.start(self._children[name])
        with self._waiting("starting controller, learner and gateway"):
            self._wait_for(self.settings.url + "/readyz")

    def poll(self) -> None:
        """Look after the processes once. Raises ChildFailed when one cannot be kept running."""
        self._supervisor.poll()

    def stop(self) -> None:
        """Stop all: the gateway first, so that it finishes its answers, the engine last."""
        self._supervisor.stop()

    def _wait_for(self, url: str) -> None:
        """Wait until `url` answers 200."""
        with httpx.Client(timeout=2.0, trust_env=False) as client:
            while not self._stopping.is_set():
                self._supervisor.poll()
                with contextlib.suppress(httpx.HTTPError):
                    if client.get(url).status_code == 200:
                        return
                self._stopping.wait(0.25)
        raise Interrupted


@contextmanager
def stop_on_signals(stopping: threading.Event) -> Iterator[None]:
    """Set `stopping` on Ctrl-C, SIGTERM and a closed terminal, instead of being torn down by them."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: stopping.set()) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def spinner(say: Say) -> Callable[[str], AbstractContextManager[object]]:
    """How waiting is shown: a spinner on a terminal, a line anywhere else."""
    if not sys.stderr.isatty():

        def line(text: str) -> AbstractContextManager[object]:
            say(text + " ...")
            return nullcontext()

        return line
    from rich.console import Console

    return Console(stderr=True).status


def run(settings: UpSettings) -> int:
    """Run the service until Ctrl-C. Returns the exit code; raises UsageError for what the user can mend."""

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    stopping = threading.Event()
    checks.prepare_data(settings.data)
    with checks.only_one(settings.data), stop_on_signals(stopping):
        check(settings, say)
        cuda = engine.use_cuda()
        checks.ensure_secret(settings.data)
        model = choose_model(settings, say)
        service = Service(settings, model, cuda, say, spinner(say), stopping)
        try:
            service.start()
            say(banner(settings))
            while not stopping.wait(0.3):
                service.poll()
        except Interrupted:
            pass
        except ChildFailed as error:
            raise failure(error) from error
        finally:
            say("stopping ...")
            service.stop()
    return 0


def failure(error: ChildFailed) -> UsageError:
    """A child that cannot run, told to the user with the end of its log."""
    tail = "".join(f"\n    {line}" for line in error.tail)
    return UsageError(f"{error}{tail}", code=1)


def look(settings: UpSettings) -> str:
    """The command that shows where the service's releases stand."""
    words = ["hearken", "status", "--data", str(settings.data.resolve())]
    if settings.service.kafka is not None:
        words += ["--kafka", settings.service.kafka]
    return shlex.join(words)


def banner(settings: UpSettings) -> str:
    """What is printed once the service is ready."""
    return "\n".join(
        [
            "hearken is ready",
            f"  chat page     {settings.url}/",
            f"  releases      {settings.url}/operate",
            f"  OpenAI API    {settings.url}/v1   (model: hearken)",
            "  metrics       " + "  ".join(f"{url}/metrics" for url in settings.metrics_urls),
            f"  data, logs    {settings.data}",
            f"  look at it    {look(settings)}",
            "  Ctrl-C stops it",
        ]
    )
