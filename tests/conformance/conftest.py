"""A gateway on a real vLLM, and the official client in both of its forms."""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import openai
import pytest

from deploy.engines.client import EngineClient
from feedback.shared import SqliteStore
from feedback.sqlite.log import SqliteLog
from serve.auth.keyfile import edit_keys
from serve.auth.keys import make_key
from serve.auth.limits import Limits
from tests.conftest import Engine
from tests.serve.conftest import Gateway, eventually, serving

T = TypeVar("T")

QUESTION = [{"role": "user", "content": "Where is my order?"}]
SOME_TEXT = {"min_tokens": 4}  # else an answer that is sampled may end before its first word
# With an engine on a slow machine; and whoever asks is shown logprobs, though they may vote.
PATIENT = {"queue_seconds": 60.0, "engine_timeout_seconds": 600.0, "blind_voters": False}


@pytest.fixture(scope="package")
def service(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway on the real engine; all of the suite shares it."""
    data = tmp_path_factory.mktemp("conformance")
    events, store = SqliteLog(data / "log.db"), SqliteStore(data / "shared.db")
    with serving(data, events, store, (engine.url,), **PATIENT) as gateway:
        eventually(gateway.is_ready, "the gateway is ready")
        yield gateway
    store.close()
    events.close()


class Client:
    """The official client, sync or async, behind one set of methods; `create` fills in what is needed."""

    def __init__(self, url: str, form: str, **options: Any) -> None:
        self._is_async = form == "async"
        self._options = {"base_url": url + "/v1", "api_key": "unused", "max_retries": 0, **options}

    def use(
        self, sync: Callable[[openai.OpenAI], T], asynchronous: Callable[[openai.AsyncOpenAI], Awaitable[T]]
    ) -> T:
        """What the form at hand gives, with a client of its own."""
        if not self._is_async:
            with openai.OpenAI(**self._options) as client:
                return sync(client)

        async def with_client() -> T:
            async with openai.AsyncOpenAI(**self._options) as client:
                return await asynchronous(client)

        return asyncio.run(with_client())

    def create(self, **fields: Any) -> Any:
        """A whole chat completion."""
        body = {"model": "hearken", "messages": QUESTION, "max_tokens": 40} | fields
        return self.use(
            lambda c: c.chat.completions.create(**body), lambda c: c.chat.completions.create(**body)
        )

    def stream(self, **fields: Any) -> list[Any]:
        """The chunks of a streamed chat completion."""
        body = {"model": "hearken", "messages": QUESTION, "max_tokens": 40, "stream": True} | fields

        async def collect(client: openai.AsyncOpenAI) -> list[Any]:
            return [chunk async for chunk in await client.chat.completions.create(**body)]

        return self.use(lambda c: list(c.chat.completions.create(**body)), collect)

    def parse(self, kind: type, **fields: Any) -> Any:
        """A chat completion parsed into a pydantic model."""
        body = {"model": "hearken", "messages": QUESTION, "response_format": kind} | fields
        return self.use(
            lambda c: c.chat.completions.parse(**body), lambda c: c.chat.completions.parse(**body)
        )


@pytest.fixture(params=["sync", "async"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(service: Gateway, form: str) -> Client:
    return Client(service.url, form)


@pytest.fixture(scope="package")
def adapters(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Names of two LoRA adapters, loaded, whose random weights are large enough to be noticed."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    control = EngineClient(engine.url)
    names = ["policy-1-c0ffee01", "policy-2-c0ffee02"]
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(engine.model), config)
        folder: Path = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        control.load(name, str(folder))
    yield names
    for name in names:
        control.unload(name)
    control.close()


class Wire:
    """A TCP connection to an engine that can be cut, and that can be absent at first."""

    def __init__(self, target: str) -> None:
        self._target = ("127.0.0.1", int(target.rsplit(":", 1)[1]))
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.refusing = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                near.close()
                continue
            far = socket.create_connection(self._target)
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()

    def cut(self) -> None:
        """Break every connection."""
        for end in self._open:
            with _ignored():
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        self._listener.close()
        self.cut()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with _ignored():
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with _ignored():
            end.shutdown(socket.SHUT_RDWR)


class _ignored:
    """A connection that is gone already is what was wanted."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, OSError)


@pytest.fixture
def wire(engine: Engine) -> Iterator[Wire]:
    made = Wire(engine.url)
    yield made
    made.close()


@pytest.fixture
def wired(wire: Wire, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway of the test's own, whose engine is at the other end of `wire`."""
    events, store = SqliteLog(tmp_path / "log.db"), SqliteStore(tmp_path / "shared.db")
    with serving(tmp_path, events, store, (wire.url,)) as gateway:
        eventually(gateway.is_ready, "the gateway is ready")
        yield gateway
    store.close()
    events.close()


StartKeyed = Callable[[Limits], tuple[Gateway, str]]


@pytest.fixture
def start_keyed(engine: Engine, tmp_path: Path) -> Iterator[StartKeyed]:
    """Starts a gateway that asks for a key with these limits; the gateway and the key."""
    events, store = SqliteLog(tmp_path / "log.db"), SqliteStore(tmp_path / "shared.db")
    with ExitStack() as stack:

        def start(limits: Limits) -> tuple[Gateway, str]:
            key, secret = make_key("conformance", ["chat"], datetime.now(UTC), limits=limits)
            edit_keys(tmp_path / "keys.json", lambda keys: [*keys, key])
            gateway = stack.enter_context(serving(tmp_path, events, store, (engine.url,), **PATIENT))
            eventually(gateway.is_ready, "the gateway is ready")
            return gateway, secret

        yield start
    store.close()
    events.close()
