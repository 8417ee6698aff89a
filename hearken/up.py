"""`hearken up`: the whole service on one machine, as four supervised processes.

engine (vLLM)  port + 1     controller  metrics on port + 3
gateway        port         learner     metrics on port + 2
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import httpx

from hearken import checks, engine
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
    engine_flags: tuple[str, ...] = ()

    @property
    def engine_port(self) -> int:
        return self.port + 1

    @property
    def learner_port(self) -> int:
        return self.port + 2

    @property
    def controller_port(self) -> int:
        return self.port + 3

    @property
    def ports(self) -> tuple[int, int, int, int]:
        """Gateway, engine, learner metrics, controller metrics."""
        return (self.port, self.engine_port, self.learner_port, self.controller_port)

    @property
    def engine_url(self) -> str:
        return f"http://127.0.0.1:{self.engine_port}"

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
    for port in settings.ports:
        checks.check_port(settings.host if port == settings.port else "127.0.0.1", port)
    if settings.redis is not None:
        checks.check_redis(settings.redis)
    if settings.kafka is not None and (warning := checks.kafka_warning(settings.kafka)):
        say(warning)


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
    """The four processes, in the order in which they are started (they are stopped in reverse)."""
    threads = engine.engine_threads()
    options = engine.EngineOptions(
        model=model,
        port=settings.engine_port,
        cuda=cuda,
        max_model_len=engine.context_length(model),
        threads=threads,
        extra=settings.engine_flags,
    )
    me = (sys.executable, "-m", "hearken")
    shared = ("--data", str(settings.data), *_optional("--kafka", settings.kafka))
    redis = _optional("--redis", settings.redis)
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    logs = settings.data / "logs"
    controller = (
        *me, "controller", *shared, "--engine", settings.engine_url,
        "--metrics-port", str(settings.controller_port), "--pace", settings.pace,
    )  # fmt: skip
    learner = (
        *me, "learner", *shared, *redis, "--engine", settings.engine_url, "--model", str(model),
        "--metrics-port", str(settings.learner_port), "--pace", settings.pace,
        "--seed", str(settings.seed), "--threads", str(threads),
        *_optional("--kl-budget-nats", settings.kl_budget_nats),
    )  # fmt: skip
    gateway = (
        *me, "gateway", *shared, *redis, "--engine", settings.engine_url,
        "--host", settings.host, "--port", str(settings.port),
    )  # fmt: skip
    return {
        "engine": Child(
            "engine",
            tuple(engine.engine_command(options)),
            engine.engine_environment(options, env),
            logs / "engine.log",
            stop_seconds=3.0,
        ),
        "controller": Child("controller", controller, env, logs / "controller.log", 2.0),
        "learner": Child("learner", learner, env, logs / "learner.log", 2.5),
        "gateway": Child("gateway", gateway, env, logs / "gateway.log", 4.0),
    }


def _optional(flag: str, value: object) -> tuple[str, ...]:
    return () if value is None else (flag, str(value))


class Service:
    """The four processes, started and watched by the thread that calls these methods.

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
        self._supervisor.start(self._children["engine"])
        with self._waiting(f"starting the engine (vLLM) with {self.model.name}"):
            self._wait_for(self.settings.engine_url + "/health")
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
