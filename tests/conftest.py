"""What all tests share: real servers, started once, and which tests run, together or at all."""

import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from deploy.engines.key import VARIABLE
from tests.servers import free_port, kafka_bootstrap, kafka_server, redis_url

if TYPE_CHECKING:
    from tests.deploy.world import World

__all__ = ["kafka_bootstrap", "kafka_server", "redis_url"]

os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell has what it starts in the background ignore Ctrl-C, and so would all that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Like the other requests that are drawn (tests/fuzzing.py): the same in every run, others by `make fuzz`.
settings.register_profile("hearken", deadline=None, derandomize="HEARKEN_FUZZ" not in os.environ)
settings.load_profile("hearken")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Who runs together where several processes share the tests (`make test`)."""
    return _ByServer(config, log)


class _ByServer(LoadScopeScheduling):
    """The tests of a file together, and all files that start real engines, or need the broker: these are
    started once, and two engines at a time are slower than one after the other."""

    def _split_scope(self, nodeid: str) -> str:
        return _server_of(nodeid.partition("::")[0])


@functools.cache
def _server_of(file: str) -> str:
    text = (Path(__file__).parent.parent / file).read_text()
    return next((mark for mark in ("engine", "kafka") if f"pytest.mark.{mark}" in text), file)


STARTS = re.compile(
    r"pytest\.mark\.(engine|kafka|redis|browser)\b|\b(Gateway|World|FakeVllm|FakeEngine|S3Server|subprocess)\b"
    r"|\b(Learner|SharedModel|random_model|tiny_model|importorskip|helm|hadolint|promtool)\b"
)
"""What the text of a test file has where its tests start a server or a process, or make a model."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make test-fast`."""
    parser.addoption("--fast", action="store_true", help="only files that start nothing and make no model")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --fast a file that starts something, or damages things for long, is not even imported."""
    if not config.getoption("--fast") or not collection_path.name.startswith("test_"):
        return None
    if collection_path.parent.name == "faults":
        return True
    return STARTS.search(collection_path.read_text()) is not None or None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI (env CI=true) nothing may be lacking: a test that skips fails, unless its `skipif` says that it
    is not for this machine."""
    report = yield
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return report
    reason = getattr(call.excinfo and call.excinfo.value, "msg", None)
    if reason not in [mark.kwargs.get("reason") for mark in item.iter_markers("skipif")]:
        report.outcome = "failed"
        report.longrepr = f"in CI nothing may be skipped: {reason}"
    return report


@pytest.fixture(autouse=True)
def engine_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that ask a service's own engines put their key into the environment: not for other tests."""
    monkeypatch.setenv(VARIABLE, "")


@pytest.fixture
def world(tmp_path: Path) -> "Iterator[World]":
    """A service's controller and engines on the test's own folder; it works where a test lets it."""
    from tests.deploy.world import World

    made = World(tmp_path)
    yield made
    made.close()


@dataclass(frozen=True)
class Engine:
    """A running vLLM server and the folder of the model that it serves."""

    url: str
    model: Path


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The model that the project trains itself; made once per user by `hearken tiny`, on all cores."""
    from hearken.models.tiny import default_folder

    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    subprocess.run([sys.executable, "-m", "hearken", "tiny"], env=environment, check=True)
    return default_folder()


@contextmanager
def running_engine(model: Path, log: Path, *extra: str) -> Iterator[Engine]:
    """A real vLLM server on a model, with LoRA, as `hearken up` starts it, and some arguments more."""
    from deploy.engines.client import EngineClient
    from hearken.machine import engine as vllm

    options = vllm.EngineOptions(
        model=model,
        port=free_port(),
        cuda=vllm.use_cuda(),
        max_model_len=vllm.context_length(model),
        tool_parser=vllm.tool_parser(model),
        reasoning_parser=vllm.reasoning_parser(model),
    )
    with log.open("w") as output:
        process = subprocess.Popen(
            [*vllm.engine_command(options), *extra],
            env=vllm.engine_environment(options, os.environ),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    client = EngineClient(f"http://127.0.0.1:{options.port}")
    try:
        deadline = time.monotonic() + 600
        while not client.is_healthy():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the engine did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.25)
        yield Engine(url=client.url, model=model)
    finally:
        client.close()
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="session")
def engine(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One real vLLM server for all tests of a run."""
    with running_engine(tiny_model, tmp_path_factory.mktemp("engine") / "engine.log") as found:
        yield found
