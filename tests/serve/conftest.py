"""A real gateway on a real socket, over a fake engine, an embedded log and an embedded shared store."""

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
from starlette.applications import Starlette

from deploy.engines.discovery import Resolve, addresses
from deploy.history.releases import Decision, entry
from deploy.history.states import ReleaseState
from deploy.history.table import RoutingTable, assign
from feedback.core.events import BASE, COMPLETIONS, FEEDBACK, Completion, Feedback
from feedback.core.ids import Signer
from feedback.core.log import EventLog, Record
from feedback.opening import open_sealer
from feedback.shared import SharedStore, SqliteStore
from feedback.sqlite.log import SqliteLog
from hearken.service.roles import import_command
from serve.app import create_app
from serve.server.listening import server
from serve.settings import GatewaySettings
from serve.storage.redis import open_stored
from tests.serve.fake_vllm import FakeVllm, fake_engine
from tests.servers import need

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SECRET = b"0123456789abcdef0123456789abcdef"
DEADLINE_SECONDS = 60.0


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until a condition holds; fail when it does not within the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {DEADLINE_SECONDS} s in vain: {what}")
        time.sleep(0.01)


@dataclass
class Gateway:
    """A running gateway and what it works on."""

    url: str
    data: Path
    log: EventLog
    signer: Signer
    http: httpx.Client

    @property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url + "/v1", api_key="unused", max_retries=0)

    def records(self, topic: str) -> list[Record]:
        return self.log.read([topic], {})[0]

    def completions(self) -> list[Completion]:
        """What is in the log, unsealed."""
        sealer = open_sealer(self.data)
        records = self.records(COMPLETIONS)
        return [sealer.open(Completion.model_validate_json(record.value)) for record in records]

    def completion(self, completion_id: str) -> Completion:
        (found,) = [c for c in self.completions() if c.completion_id == completion_id]
        return found

    def votes(self) -> list[Feedback]:
        sealer = open_sealer(self.data)
        return [sealer.open(Feedback.model_validate_json(record.value)) for record in self.records(FEEDBACK)]

    def chat(self, content: str = "hi", **fields: object) -> httpx.Response:
        body = {"model": "hearken", "messages": [{"role": "user", "content": content}], **fields}
        return self.http.post("/v1/chat/completions", json=body)

    def metric(self, line: str) -> float:
        """The value of a sample, written as in the exposition text."""
        for row in self.http.get("/metrics").text.splitlines():
            if row.startswith(line + " "):
                return float(row.rsplit(" ", 1)[1])
        return 0.0

    def decide(
        self,
        table: RoutingTable,
        number: int | None = None,
        fence: int = 0,
        lives: tuple[str, ...] = (BASE,),
    ) -> None:
        """Put a routing table in force, as the controller does, and wait until it is."""
        self.append(table, number, fence, lives)
        eventually(lambda: self.metric("hearken_table_epoch") == table.epoch, f"table {table.epoch} in force")

    def append(
        self,
        table: RoutingTable,
        number: int | None = None,
        fence: int = 0,
        lives: tuple[str, ...] = (BASE,),
    ) -> None:
        """Log a decision with a routing table. lives: the versions that are or were live, oldest first."""
        number = table.epoch if number is None else number
        decision = Decision(
            event_id=f"decision-{number}-{table.epoch}",
            at=time.time(),
            number=number,
            fence=fence,
            outcome="promoted",
            stage_before="idle",
            stage_after="idle",
            table=table,
            sentence="A test decided.",
            state=ReleaseState(table=table, lives=lives),
        )
        self.log.append([entry(decision)]).result()

    def is_ready(self) -> bool:
        return self.http.get("/readyz").status_code == 200

    def user_of_arm(self, arm: str, table: RoutingTable) -> str:
        """The name of a user whom the table sends to an arm."""
        for i in range(10_000):
            if assign(self.signer.pseudonym("default", f"user-{i}"), table) == arm:
                return f"user-{i}"
        raise AssertionError(f"no user for {arm} in {table}")


def ask_and_leave(gateway: Gateway, content: str, until: Callable[[], object], what: str) -> None:
    """Ask for a whole answer and, once a condition holds, leave without it."""
    body = {"model": "hearken", "messages": [{"role": "user", "content": content}]}

    async def story() -> None:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=None) as http:
            asking = asyncio.create_task(http.post("/v1/chat/completions", json=body))
            await asyncio.to_thread(eventually, until, what)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    asyncio.run(story())


class Server:
    """uvicorn in a thread, on a free port."""

    def __init__(self, app: Starlette) -> None:
        self._server = server(app, "127.0.0.1", 0, drain_seconds=2.0)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        eventually(lambda: self._server.started, "the gateway starts")
        return f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive(), "the gateway did not end"


@contextmanager
def serving(
    data: Path,
    events: EventLog,
    store: SharedStore,
    engines: tuple[str, ...],
    import_command: Sequence[str] | None = None,
    resolve: Resolve = addresses,
    **fields: Any,
) -> Iterator[Gateway]:
    """A gateway while the block lasts."""
    settings = GatewaySettings(
        data=data, engines=engines, **{"poll_seconds": 0.05, "queue_seconds": 0.3, **fields}
    )
    signer = Signer(SECRET)
    with (
        closing(open_stored(data, settings.redis, settings.stored_days * 24 * 3600)) as stored,
        Server(
            create_app(settings, events, store, signer, stored, None, import_command, resolve=resolve)
        ) as url,
        httpx.Client(base_url=url, timeout=30) as http,
    ):
        yield Gateway(url, data, events, signer, http)


@contextmanager
def ready(data: Path, **fields: Any) -> Iterator[Gateway]:
    """A gateway that is ready, on an engine, a log and a store of its own."""
    with (
        fake_engine() as engine,
        closing(SqliteLog(data / "log.db")) as log,
        closing(SqliteStore(data / "shared.db")) as store,
        serving(data, log, store, (engine.url,), **fields) as gateway,
    ):
        eventually(gateway.is_ready, "the gateway is ready")
        yield gateway


@pytest.fixture
def fake() -> Iterator[FakeVllm]:
    with fake_engine() as server:
        yield server


@pytest.fixture
def other() -> Iterator[FakeVllm]:
    """A second engine."""
    with fake_engine() as server:
        yield server


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[SharedStore]:
    store = SqliteStore(tmp_path / "shared.db")
    yield store
    store.close()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    events = SqliteLog(tmp_path / "log.db")
    yield events
    events.close()


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    need("chromium")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=30_000)
    arguments = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        yield started
        started.close()


@pytest.fixture
def page(browser: "Browser", gateway: "Gateway") -> Iterator["Page"]:
    """The chat page, opened by a new visitor. What its scripts complain about fails the test, and so does a
    request to anybody but the gateway."""
    opened = browser.new_page()
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda message: complaints.append(message.text))
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(gateway.url)
    yield opened
    opened.close()
    assert [c for c in complaints if "Failed to load resource" not in c] == []
    assert [url for url in asked if not url.startswith((gateway.url + "/", "data:"))] == []


Start = Callable[..., Gateway]


@pytest.fixture
def start(tmp_path: Path, fake: FakeVllm, log: EventLog, shared: SharedStore) -> Iterator[Start]:
    """Starts gateways; by default one on the fixtures above, ready to serve."""
    with ExitStack() as stack:

        def start_one(
            *,
            events: EventLog = log,
            store: SharedStore = shared,
            engines: tuple[str, ...] | None = None,
            wait: bool = True,
            **fields: Any,
        ) -> Gateway:
            running = serving(tmp_path, events, store, engines or (fake.url,), **fields)
            gateway = stack.enter_context(running)
            if wait:
                eventually(gateway.is_ready, "the gateway is ready")
            return gateway

        yield start_one


@pytest.fixture
def gateway(start: Start) -> Gateway:
    """A gateway of the test's own, ready to serve."""
    return start()


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway for all tests of a file that leave nothing behind. It shows logprobs to everyone."""
    with ready(tmp_path_factory.mktemp("steady"), blind_voters=False) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def command(tiny_model: Path) -> tuple[str, ...]:
    return import_command(str(tiny_model))


@pytest.fixture(scope="module")
def importer(tmp_path_factory: pytest.TempPathFactory, command: tuple[str, ...]) -> Iterator[Gateway]:
    """A gateway that imports, without an engine. Each test has rows of its own."""
    data = tmp_path_factory.mktemp("importer")
    log, store = SqliteLog(data / "log.db"), SqliteStore(data / "shared.db")
    with serving(data, log, store, ("http://127.0.0.1:9",), command, max_import_bytes=1_000_000) as gateway:
        yield gateway
    store.close()
    log.close()
