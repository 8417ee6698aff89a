"""The gateway as an ASGI application: routes, and what every route shares."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Send

from feedback.ids import Signer
from feedback.log import EventLog
from feedback.shared import SharedStore
from serve.chat import Chat
from serve.comparisons import Comparisons
from serve.engines import Fleet
from serve.errors import ApiError, ClientGone, MethodNotAllowed, NotFound, error_response, json_response
from serve.feedback_api import FeedbackApi
from serve.following import TableFollower
from serve.idempotency import Idempotency
from serve.metrics import Metrics
from serve.observing import Observe
from serve.recording import Recorder
from serve.requests import parse_chat, read_body, unknown_model
from serve.settings import GatewaySettings
from serve.upstream import Upstream

log = logging.getLogger(__name__)

T = TypeVar("T")
RelayLag = Callable[[], tuple[int, float]]

_PAGES = Path(__file__).parent / "pages"
_PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def create_app(
    settings: GatewaySettings,
    events: EventLog,
    shared: SharedStore,
    signer: Signer,
    relay_lag: RelayLag | None = None,
) -> FastAPI:
    """The gateway on a log, a shared store and a signer, which stay the caller's to close.

    `relay_lag` tells how many events wait for Kafka and the age of the oldest in seconds.
    """
    gateway = Gateway(settings, events, shared, signer, relay_lag)
    app = FastAPI(
        lifespan=gateway.lifespan, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    route = app.add_api_route
    route("/v1/chat/completions", gateway.chat_completions, methods=["POST"])
    route("/v1/comparisons", gateway.comparisons, methods=["POST"])
    route("/v1/feedback", gateway.feedback, methods=["POST"])
    route("/v1/models", gateway.models, methods=["GET"])
    route("/v1/models/{model:path}", gateway.model, methods=["GET"])
    route("/livez", gateway.livez, methods=["GET"])
    route("/readyz", gateway.readyz, methods=["GET"])
    route("/metrics", gateway.show_metrics, methods=["GET"])
    for path, file in (("/", "index.html"), ("/app.js", "app.js"), ("/style.css", "style.css")):
        route(path, _page(file), methods=["GET", "HEAD"])
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_middleware(Observe, metrics=gateway.metrics)
    return app


class Gateway:
    """The handlers, and what they share."""

    def __init__(
        self,
        settings: GatewaySettings,
        events: EventLog,
        shared: SharedStore,
        signer: Signer,
        relay_lag: RelayLag | None,
    ) -> None:
        self.metrics = Metrics()
        self._background: list[asyncio.Task[None]] = []
        self._settings = settings
        self._relay_lag = relay_lag
        self._recorder = Recorder(events, self.metrics)
        self._follower = TableFollower(events, settings.data / "table.json", self.metrics)
        self._upstream = Upstream(settings.engine_timeout_seconds)
        self._fleet = Fleet(settings.engines, self._upstream, self.metrics, settings.poll_seconds)
        self._chat = Chat(
            settings.model_name,
            signer,
            self._follower,
            self._fleet,
            self._upstream,
            self._recorder,
            self.metrics,
        )
        self._comparisons = Comparisons(self._chat, settings.model_name)
        self._feedback = FeedbackApi(signer, self._recorder)
        self._idempotency = Idempotency(shared)

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Runs the background tasks while the application serves."""
        await self._upstream.open()
        work = [self._follower.follow(), *(self._fleet.watch(engine) for engine in self._fleet.engines)]
        self._background = [asyncio.create_task(each) for each in work]
        for task in self._background:
            task.add_done_callback(_report_end)
        try:
            yield
        finally:
            for task in self._background:
                task.cancel()
            await asyncio.gather(*self._background, return_exceptions=True)
            await self._upstream.close()

    async def chat_completions(self, request: Request) -> Response:
        """POST /v1/chat/completions, OpenAI's."""
        asked = parse_chat(await self._body(request), self._settings.model_name)
        route = self._chat.route(self._chat.pseudonym(asked.user, _address(request)))
        if not asked.stream:
            return json_response(await _unless_gone(request, self._chat.whole(asked, route)))
        events = self._chat.stream(asked, route)
        # The status is decided by the first event, so that an early failure is an HTTP error.
        first = await _unless_gone(request, anext(events))
        return EventStream(_with_first(first, events), headers=_STREAM_HEADERS)

    async def comparisons(self, request: Request) -> Response:
        """POST /v1/comparisons: two answers to choose from."""
        asked = parse_chat(await self._body(request), self._settings.model_name)
        user = self._chat.pseudonym(asked.user, _address(request))
        return json_response(await _unless_gone(request, self._comparisons.compare(asked, user)))

    async def feedback(self, request: Request) -> Response:
        """POST /v1/feedback: a vote; 202 when it is durable."""
        raw = await self._body(request)
        address = _address(request)
        answer = await self._idempotency.once(
            request.headers.get("idempotency-key"), raw, lambda: self._feedback.accept(raw, address)
        )
        return json_response(answer, 202)

    async def models(self) -> Response:
        """GET /v1/models: the one public model."""
        return json_response({"object": "list", "data": [self._model()]})

    async def model(self, model: str) -> Response:
        """GET /v1/models/{model}."""
        if model != self._settings.model_name:
            raise unknown_model(model, self._settings.model_name)
        return json_response(self._model())

    def _model(self) -> dict[str, object]:
        card: dict[str, object] = {
            "id": self._settings.model_name,
            "object": "model",
            "created": 0,
            "owned_by": "hearken",
        }
        if self._settings.max_model_len is not None:
            card["max_model_len"] = self._settings.max_model_len
        return card

    async def livez(self) -> Response:
        """200 while the process answers and its background tasks run; otherwise it needs a restart."""
        if any(task.done() for task in self._background):
            return json_response({"status": "a background task has ended"}, 503)
        return json_response({"status": "ok"})

    async def readyz(self) -> Response:
        """200 when an engine can serve everyone in the routing table, 503 with the reasons otherwise."""
        problems = self._fleet.problems(self._follower.table)
        if problems:
            return json_response({"status": "not ready", "reasons": problems}, 503, {"retry-after": "1"})
        return json_response({"status": "ready"})

    async def show_metrics(self) -> Response:
        """GET /metrics for Prometheus."""
        if self._relay_lag is not None:
            lag_events, age_seconds = await asyncio.to_thread(self._relay_lag)
            self.metrics.relay_lag_events.set(lag_events)
            self.metrics.relay_age_seconds.set(age_seconds)
        return Response(self.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _body(self, request: Request) -> bytes:
        return await read_body(request, self._settings.max_body_bytes)


def _report_end(task: asyncio.Task[None]) -> None:
    """Background tasks run for ever: one that ends by itself is a bug, and must not go unseen."""
    if not task.cancelled():
        log.critical("a background task has ended", exc_info=task.exception())


class EventStream(StreamingResponse):
    """Server-sent events; closes its generator, and with it the engine's request, however it ends."""

    media_type = "text/event-stream"

    async def stream_response(self, send: Send) -> None:
        assert isinstance(self.body_iterator, AsyncGenerator)
        async with aclosing(self.body_iterator):
            await super().stream_response(send)


async def _with_first(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(rest):
        yield first
        async for event in rest:
            yield event


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client goes away. Raises ClientGone then."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working = asyncio.ensure_future(work)
    watching = asyncio.create_task(gone())
    try:
        await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        watching.cancel()
        working.cancel()
        await asyncio.wait([working, watching])


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else "unknown"


def _page(name: str) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        return FileResponse(_PAGES / name, headers=_PAGE_HEADERS)

    return page


async def _on_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Unknown routes and methods, which the framework reports."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        answer = error_response(
            MethodNotAllowed(
                f"{request.method} is not allowed on {request.url.path}.", code="method_not_allowed"
            )
        )
        answer.headers.update(error.headers or {})
        return answer
    if error.status_code == 404:
        return error_response(
            NotFound(f"There is no {request.method} {request.url.path}.", code="unknown_url")
        )
    return json_response(
        {"error": ApiError(str(error.detail), code="http_error").as_dict()["error"]}, error.status_code
    )
