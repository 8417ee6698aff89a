"""The gateway as an ASGI application: puts services, routes and what every route shares together."""

import asyncio
from collections.abc import Sequence
from functools import partial

from fastapi import FastAPI
from starlette.routing import BaseRoute, Route

from deploy.engines.discovery import Resolve, addresses
from feedback.core.ids import Signer
from feedback.core.log import EventLog
from feedback.shared import SharedStore
from serve.apis.messages_routes import MessagesRoutes
from serve.apis.responses_routes import ResponsesRoutes
from serve.apis.responses_stored import StoredResponses
from serve.auth.cors import allow_origins
from serve.completions.answering import Answering
from serve.completions.routes import ChatRoutes
from serve.gateway.health import HealthApi, RelayLag
from serve.gateway.lifespan import lifespan_of
from serve.gateway.models import ModelsApi
from serve.gateway.page_routes import page_routes
from serve.gateway.preferences_routes import PreferencesRoutes
from serve.gateway.vote_routes import vote_routes
from serve.gateway.wiring import Gate, Model, Records, open_gate, open_model, open_records
from serve.generation.held import Holding
from serve.generation.requests import check_chat
from serve.imports.api import Imports, import_route
from serve.metrics import Metrics
from serve.openapi import openapi_route
from serve.releases.api import ReleasesApi
from serve.releases.board import Board
from serve.releases.operators import Operators
from serve.releases.trying import Trying
from serve.releases.watching import Watching
from serve.server.background import Background
from serve.server.error_handlers import HANDLERS
from serve.server.hosts import TrustedHosts
from serve.server.listening import most_connections
from serve.server.observing import Observe
from serve.server.protocol import Edge
from serve.server.readers import Pressure
from serve.settings import GatewaySettings
from serve.storage.api import StoredApi
from serve.storage.stored import StoredCompletions
from serve.tracing import Tracing
from serve.users import Users


def create_app(
    settings: GatewaySettings,
    events: EventLog,
    shared: SharedStore,
    signer: Signer,
    stored: StoredCompletions,
    relay_lag: RelayLag | None = None,
    import_command: Sequence[str] | None = None,
    tracing: Tracing | None = None,
    resolve: Resolve = addresses,
) -> FastAPI:
    """The gateway on a log, its stores and a signer, which stay the caller's to close.

    `relay_lag` tells how many events wait for Kafka and the age of the oldest in seconds. `import_command`
    starts the process in which imports are worked off; without it there are none. `tracing` is told of chats.
    `resolve` looks up names of engines. Raises KeysUnusable and BadWebhookSenders.
    """
    metrics, background, leaving = Metrics(), Background(), asyncio.Event()
    gate = open_gate(settings, signer, metrics)
    records = open_records(settings, events, signer, stored, gate, metrics, tracing)
    model = open_model(settings, events, shared, signer, gate, records, metrics, resolve)
    imports = Imports(
        import_command, settings.data, signer, events, shared, settings.redact, settings.max_import_bytes
    )
    health = HealthApi(
        gate.access, background, model.fleet, model.follower, records.sealer, events, records.receipts,
        relay_lag, metrics,
    )  # fmt: skip
    limit, entrance = settings.max_body_bytes, gate.entrance
    users = Users(signer, records.sealer, records.recorder, records.receipts, stored, records.lists, entrance)
    routes: list[BaseRoute] = [
        *_answers(settings, gate, records, model),
        *StoredApi(records.answers, entrance, limit).routes,
        *vote_routes(settings, signer, shared, gate, records),
        import_route(imports, entrance),
        *_releases(settings, events, shared, gate, records, model, leaving),
        *PreferencesRoutes(records.preferences, users, entrance, records.privacy, limit).routes,
        *users.routes,
        *ModelsApi(gate.access, settings.model_name, settings.max_model_len, settings.suggestions).routes,
        openapi_route(settings.model_name),
        *health.routes,
        *page_routes(),
    ]

    lifespan = lifespan_of(background, gate, records, model, imports, health)
    app = FastAPI(
        routes=routes,
        exception_handlers=HANDLERS,
        lifespan=lifespan,
        openapi_url=None,  # the document is `serve.openapi`'s
        redirect_slashes=False,
    )
    app.add_middleware(TrustedHosts, patterns=(settings.host, *settings.trusted_hosts))
    app.add_middleware(Observe, metrics=metrics)
    allow_origins(app, settings.cors_origins)  # around everything else, so that pages can read errors too
    pressure = Pressure(lambda: model.fleet.waiting)
    app.state.edge = Edge(settings.bounds, metrics.connections_cut, pressure, most_connections(), leaving)
    return app


def _answers(settings: GatewaySettings, gate: Gate, records: Records, model: Model) -> list[Route]:
    """The routes that answer with generated text."""
    name, limit = settings.model_name, settings.max_body_bytes
    check = partial(check_chat, model_name=name, default_max_tokens=settings.default_max_tokens)
    alive = settings.keep_alive_seconds
    answering = Answering(
        gate.entrance,
        records.privacy,
        records.preferences,
        model.chat,
        gate.tokens,
        limit,
        alive,
        Holding(settings.preference_hold, gate.windows),
    )
    stored = StoredResponses(records.answers)
    return [
        *ChatRoutes(answering, model.comparisons, check, name).routes,
        *MessagesRoutes(answering, check, name).routes,
        *ResponsesRoutes(answering, gate.entrance, stored, check, name, limit).routes,
    ]


def _releases(
    settings: GatewaySettings,
    events: EventLog,
    shared: SharedStore,
    gate: Gate,
    records: Records,
    model: Model,
    leaving: asyncio.Event,
) -> list[Route]:
    """What operators see of releases, and how they steer them."""
    operators, limit = Operators(gate.entrance, gate.addresses), settings.max_body_bytes
    trying = Trying(operators, model.follower, model.fleet, model.upstream, model.leases, limit)
    board = Board(events, shared, records.receipts)
    return [
        *ReleasesApi(board, events, shared, operators, limit).routes,
        *Watching(board, operators, leaving).routes,
        *trying.routes,
    ]
