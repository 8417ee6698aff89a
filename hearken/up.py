"""`hearken up`: the whole service on one machine, as supervised processes.

engine (vLLM)  port + 1     controller  metrics on port + 3
gateway        port         learner     metrics on port + 2

With more than one engine, the second is on port + 4, the third on port + 5, and so on.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import httpx

from hearken import access, checks, engine
from hearken.access import NO_FLAGS, AccessFlags
from hearken.errors import UsageError
from hearken.paces import Pace
from hearken.supervisor import Child, ChildFailed, Supervisor

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class UpSettings:
    """What `hearken up` can be told. `model` None means the tiny model, trained on the first start."""

    data: Path
    model: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    kafka: str | None = None
    redis: str | None = None
    pace: Pace = "normal"
    seed: int = 0
    kl_budget_nats: float | None = None  # None: the learner's default
    engines: int = 1
    max_in_flight: int = 128  # this and the next two: the gateway's
    queue_length: int = 256
    queue_seconds: float = 10.0
    engine_flags: tuple[str, ...] = ()
    access: AccessFlags = NO_FLAGS

    @property
    def engine_ports(self) -> tuple[int, ...]:
        return (self.port + 1, *range(self.port + 4, self.port + 3 + self.engines))

    @property
    def learner_port(self) -> int:
        return self.port + 2

    @property
    def controller_port(self) -> int:
        return self.port + 3

    @property
    def ports(self) -> tuple[int, ...]:
        """Gateway, learner metrics, controller metrics, engines."""
        return (self.port, self.learner_port, self.controller_port, *self.engine_ports)

    @property
    def engine_urls(self) -> tuple[str, ...]:
        return tuple(f"http://127.0.0.1:{port}" for port in self.engine_ports)

    @property
    def engine_url(self) -> str:
        """The first engine, on which the learner samples."""
        return self.engine_urls[0]

    @property
    def metrics_urls(self) -> tuple[str, str, str]:
        """Where gateway, learner and controller show their metrics."""
        return (
            self.url,
            f"http://127.0.0.1:{self.learner_port}",
            f"http://127.0.0.1:{self.controller_port}",
        )

    @property
    def url(self) -> str:
        """Where this machine reaches the gateway."""
        local = self.host in ("0.0.0.0", "::", "")
        return f"http://{'127.0.0.1' if local else self.host}:{self.port}"


class Interrupted(Exception):
    """The user asked to stop while something was starting."""


def check(settings: UpSettings, say: Say) -> None:
    """Everything that can be known to be wrong before anything is started. Raises UsageError."""
    if settings.engines < 1:
        raise UsageError(f"--engines {settings.engines} leaves nothing to chat with; it must be at least 1")
    if settings.max_in_flight < 1 or settings.queue_length < 0 or settings.queue_seconds <= 0:
        raise UsageError(
            "--max-in-flight must be at least 1, --queue-length 0 or more, and --queue-seconds above 0"
        )
    for port in settings.ports:
        checks.check_port(settings.host if port == settings.port else "127.0.0.1", port)
    if settings.redis is not None:
        checks.check_redis(settings.redis)
    if settings.kafka is not None and (problem := checks.kafka_warning(settings.kafka)):
        say(problem)
    if problem := access.check(settings.host, settings.data, settings.access):
        say(problem)


def choose_model(settings: UpSettings, say: Say) -> Path:
    """The folder of the base model; trains the tiny one when none was named."""
    if settings.model is not None:
        return engine.resolve_model(settings.model)
    from hearken.tiny import default_folder

    # In a process of its own: it needs torch, which this one would carry along for as long as it runs.
    say("no --model given: taking the built-in tiny model (it is trained once, in about a minute)")
    if subprocess.run([sys.executable, "-m", "hearken", "tiny"], check=False).returncode != 0:
        raise UsageError("the tiny model could not be trained; its output above says why", code=1)
    return default_folder()


def children(settings: UpSettings, model: Path, cuda: bool) -> dict[str, Child]:
    """The processes, in the order in which they are started (they are stopped in reverse).

    Raises UsageError when there are fewer GPUs than engines.
    """
    me = (sys.executable, "-m", "hearken")
    shared = ("--data", str(settings.data), *_optional("--kafka", settings.kafka))
    redis = _optional("--redis", settings.redis)
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    logs = settings.data / "logs"
    engines = [word for url in settings.engine_urls for word in ("--engine", url)]
    controller = (
        *me, "controller", *shared, *redis, *engines,
        "--metrics-port", str(settings.controller_port), "--pace", settings.pace,
    )  # fmt: skip
    learner = (
        *me, "learner", *shared, *redis, "--engine", settings.engine_url, "--model", str(model),
        "--metrics-port", str(settings.learner_port), "--pace", settings.pace,
        "--seed", str(settings.seed), "--threads", str(engine.engine_threads()),
        *_optional("--kl-budget-nats", settings.kl_budget_nats),
    )  # fmt: skip
    gateway = (
        *me, "gateway", *shared, *redis, *engines,
        "--host", settings.host, "--port", str(settings.port), *settings.access.arguments(),
        "--max-in-flight", str(settings.max_in_flight), "--queue-length", str(settings.queue_length),
        "--queue-seconds", str(settings.queue_seconds),
    )  # fmt: skip
    return {
        **_engines(settings, model, cuda, env),
        "controller": Child("controller", controller, env, logs / "controller.log", 2.0),
        "learner": Child("learner", learner, env, logs / "learner.log", 2.5),
        "gateway": Child("gateway", gateway, env, logs / "gateway.log", 4.0),
    }


def _engines(settings: UpSettings, model: Path, cuda: bool, env: Mapping[str, str]) -> dict[str, Child]:
    """The engines: "engine", "engine-2" and so on, each with its share of the GPUs or of the CPU."""
    gpus = None
    if cuda and settings.engines > 1:
        visible = env.get("CUDA_VISIBLE_DEVICES", "")
        gpus = engine.share_gpus(settings.engines, engine.cuda_devices(), visible)
    made = {}
    for i, port in enumerate(settings.engine_ports):
        name = f"engine-{i + 1}" if i else "engine"
        options = engine.EngineOptions(
            model=model,
            port=port,
            cuda=cuda,
            max_model_len=engine.context_length(model),
            threads=engine.engine_threads(settings.engines),
            tool_parser=engine.tool_parser(model),
            reasoning_parser=engine.reasoning_parser(model),
            gpus=None if gpus is None else gpus[i],
            extra=settings.engine_flags,
        )
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


def _optional(flag: str, value: object) -> tuple[str, ...]:
    return () if value is None else (flag, str(value))


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
        self._children = children(settings, model, cuda)
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


def banner(settings: UpSettings) -> str:
    """What is printed once the service is ready."""
    return "\n".join(
        [
            "hearken is ready",
            f"  chat page     {settings.url}/",
            f"  OpenAI API    {settings.url}/v1   (model: hearken)",
            "  metrics       " + "  ".join(f"{url}/metrics" for url in settings.metrics_urls),
            f"  data, logs    {settings.data}",
            "  Ctrl-C stops it",
        ]
    )
