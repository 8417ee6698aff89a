"""The gateway as an ASGI application: routes, and what every route shares."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from feedback.ids import MESSAGE_PREFIX, RESPONSE_PREFIX, Signer
from feedback.log import EventLog
from feedback.opening import open_sealer
from feedback.redaction import load_redactor
from feedback.shared import SharedStore
from serve.access import Access
from serve.addresses import Addresses
from serve.blame import Blame
from serve.blinding import check_blind
from serve.bodies import parse_object, read_body
from serve.caller import Caller, Scope
from serve.chat import Chat
from serve.comparisons import Comparison, Comparisons, comparable, one_of_two
from serve.completions import check_text
from serve.conversations import Conversations
from serve.cors import allow_origins, is_of_another_page
from serve.dialects import error_at
from serve.doors import ChatDoor, Door, Json
from serve.engines import Fleet
from serve.errors import (
    ApiError,
    ClientGone,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    error_response,
    json_response,
)
from serve.feedback_api import FeedbackApi
from serve.feedback_tokens import BROWSER, EXTENSION, HEADER, Tokens, found, presented
from serve.following import TableFollower
from serve.generation import Route, consents
from serve.hosts import TrustedHosts
from serve.idempotency import Idempotency
from serve.imports import Imports
from serve.leases import Leases
from serve.limits import NO_LIMITS
from serve.listening import most_connections
from serve.marks import open_marks
from serve.media import check_json
from serve.messages_door import MessageDoor
from serve.messages_request import parse_count, parse_message
from serve.messages_request import to_chat as message_as_chat
from serve.metering import Metering
from serve.metrics import Metrics
from serve.observing import Observe
from serve.openapi import document
from serve.privacy import Privacy
from serve.protocol import Edge
from serve.receipt_api import ReceiptApi
from serve.receipt_store import ReceiptStore
from serve.receipts import Receipts
from serve.recording import Recorder
from serve.releases_api import ReleasesApi, operator_of
from serve.requests import (
    ChatRequest,
    check_chat,
    unknown_model,
    user_of,
)
from serve.responses_door import ResponseDoor
from serve.responses_request import echo_of, parse_response
from serve.responses_request import to_chat as response_as_chat
from serve.responses_stored import StoredResponses, check_length, kept_with
from serve.settings import GatewaySettings
from serve.stored import StoredCompletions
from serve.stored_api import StoredApi
from serve.streaming import EventStream, while_present
from serve.tensorzero import translate
from serve.tokenizing import PATH as TOKENIZE_PATH
from serve.tokenizing import parse_tokenize, question_of
from serve.tracing import Tracing
from serve.upstream import Upstream
from serve.users import Users
from serve.visit import visit_of
from serve.voters import Sender, Voters
from serve.votes import REASONS
from serve.windows import LocalWindows, RedisWindows, Windows

log = logging.getLogger(__name__)

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
_PAGE_FILES = (
    *("app.js", "api.js", "conversation.js", "copying.js", "dom.js", "key.js", "markdown.js", "theme.js"),
    *("votes.js", "style.css"),
    *("operate.js", "decisions.js", "standing.js", "steering.js", "operate.css"),
)
_WIDGET_FILES = ("feedback.js", "signals.js")
# The widget is two modules for pages of any origin; they have no secret, and votes need a token.
_WIDGET_HEADERS = {
    "access-control-allow-origin": "*",
    "cross-origin-resource-policy": "cross-origin",
    "x-content-type-options": "nosniff",
    "cache-control": "public, max-age=3600",
}
_READ = ["GET", "HEAD"]  # load balancers look with HEAD
_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class _Name(PathConvertor):
    """All that is left of a path, line ends too: a user's name may have any character."""

    regex = "(?s:.*)"


register_url_convertor("name", _Name())


def create_app(
    settings: GatewaySettings,
    events: EventLog,
    shared: SharedStore,
    signer: Signer,
    stored: StoredCompletions,
    relay_lag: RelayLag | None = None,
    import_command: Sequence[str] | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The gateway on a log, its stores and a signer, which stay the caller's to close.

    `relay_lag` tells how many events wait for Kafka and the age of the oldest in seconds. `import_command`
    starts the process in which imports are worked off; without it there are none. `tracing` is told of chats.
    """
    gateway = Gateway(settings, events, shared, signer, stored, relay_lag, import_command, tracing)
    app = FastAPI(
        lifespan=gateway.lifespan, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    route = app.add_api_route
    # A plain route: FastAPI's would resolve dependencies that there are none of, for every request.
    app.add_route("/v1/chat/completions", gateway.chat_completions, methods=["POST", "GET"])
    one = "/v1/chat/completions/{completion_id}"
    app.add_route(one, gateway.stored_one, methods=["GET", "POST", "DELETE"])
    app.add_route(one + "/messages", gateway.stored_messages, methods=["GET"])
    app.add_route("/v1/completions", gateway.completions, methods=["POST"])
    app.add_route("/v1/messages", gateway.messages, methods=["POST"])
    app.add_route("/v1/messages/count_tokens", gateway.count_tokens, methods=["POST"])
    app.add_route(TOKENIZE_PATH, gateway.tokenize, methods=["POST"])
    app.add_route("/v1/responses", gateway.responses, methods=["POST"])
    app.add_route("/v1/responses/{response_id}", gateway.stored_response, methods=["GET", "DELETE"])
    route("/v1/comparisons", gateway.comparisons, methods=["POST"])
    app.add_route("/v1/feedback", gateway.feedback, methods=["POST"])
    app.add_route("/feedback", gateway.tensorzero_feedback, methods=["POST"])
    route("/v1/feedback/{feedback_id}", gateway.receipt, methods=["GET"])
    route("/v1/feedback/{feedback_id}", gateway.retraction, methods=["DELETE"])
    route("/v1/policies/{version}/feedback", gateway.policy_feedback, methods=["GET"])
    app.add_route("/v1/imports", gateway.imports, methods=["POST"])
    route("/v1/releases", gateway.releases, methods=["GET"])
    route("/v1/releases/actions", gateway.release_action, methods=["POST"])
    for path in ("/v1/users", "/v1/users/{user:name}"):
        route(path, gateway.show_user, methods=["GET"])
        route(path, gateway.erase_user, methods=["DELETE"])
    route("/v1/models", gateway.models, methods=_READ)
    route("/v1/models/{model:path}", gateway.model, methods=_READ)
    route("/openapi.json", gateway.openapi, methods=_READ)
    route("/livez", gateway.livez, methods=_READ)
    route("/readyz", gateway.readyz, methods=_READ)
    route("/metrics", gateway.show_metrics, methods=_READ)
    route("/", _page("index.html"), methods=_READ)
    route("/operate", _page("operate.html"), methods=_READ)
    for file in _PAGE_FILES:
        route(f"/{file}", _page(file), methods=_READ)
    for file in _WIDGET_FILES:
        route(f"/{file}", _page(file, _WIDGET_HEADERS), methods=_READ)
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_client_gone)
    app.add_middleware(TrustedHosts, patterns=(settings.host, *settings.trusted_hosts))
    app.add_middleware(Observe, metrics=gateway.metrics)
    allow_origins(app, settings.cors_origins)  # around everything else, so that pages can read errors too
    app.state.edge = gateway.edge
    return app


class Gateway:
    """The handlers, and what they share."""

    def __init__(
        self,
        settings: GatewaySettings,
        events: EventLog,
        shared: SharedStore,
        signer: Signer,
        stored: StoredCompletions,
        relay_lag: RelayLag | None,
        import_command: Sequence[str] | None,
        tracing: Tracing | None,
    ) -> None:
        self.metrics = Metrics()
        self._background: list[asyncio.Task[None]] = []
        self._complaint: str | None = None  # of the vault
        self._settings = settings
        self._events = events
        self._relay_lag = relay_lag
        self._access = Access(
            settings.key_file,
            settings.keys is not None,
            settings.limits,
            self.metrics,
            settings.consent,
            settings.blind_voters,
        )
        self._addresses = Addresses(settings.trusted_proxies)
        self._metering = Metering(_windows(settings, self.metrics), self.metrics)
        self._sealer = sealer = open_sealer(settings.data)
        self._privacy = privacy = Privacy(signer, sealer, load_redactor(settings.redact))
        self._recorder = Recorder(events, privacy, self.metrics, self._metering.charge, tracing)
        self._leases = Leases(shared, settings.conversation_seconds)
        self._stored = StoredApi(stored, privacy)
        self._responses = StoredResponses(self._stored)
        self._upstream = Upstream(settings.engine_timeout_seconds)
        self._fleet = Fleet(settings, self._upstream, self.metrics)
        table_file = settings.data / "table.json"
        self._follower = TableFollower(events, table_file, self._fleet, self._leases, self.metrics)
        marks = open_marks(
            settings.data / "conversations.db",
            settings.redis,
            settings.conversation_seconds,
            settings.conversation_answers,
        )
        self._conversations = Conversations(
            signer, marks, self._follower, self._fleet, self._leases, self.metrics
        )
        self._chat = Chat(
            settings.model_name,
            signer,
            self._follower,
            self._fleet,
            self._upstream,
            Blame(settings.model_name, self.metrics, self._metering.strike, 2 * settings.hang_seconds),
            self._recorder,
            self._leases,
            self._stored,
            self._conversations,
            self.metrics,
        )
        self._comparisons = Comparisons(self._chat, signer)
        self._tokens = Tokens(signer, self._access.still_trusts)
        self._receipts = Receipts(events, ReceiptStore(settings.data / "receipts.db"))
        self._users = Users(signer, sealer, self._recorder, self._receipts, stored)
        self._feedback = FeedbackApi(
            signer,
            Voters(signer, self._tokens),
            self._recorder,
            privacy,
            Idempotency(shared),
            self._receipts,
            settings.feedback_reasons or REASONS,
            self._take_votes,
        )
        self._receipt_api = ReceiptApi(self._receipts, self._recorder, signer)
        self._releases = ReleasesApi(events, shared)
        self._imports = Imports(
            import_command, settings.data, signer, events, shared, settings.redact, settings.max_import_bytes
        )

    @property
    def edge(self) -> Edge:
        """What the server in front needs to know."""
        cut = self.metrics.connections_cut
        return Edge(self._settings.bounds, cut, lambda: self._fleet.waiting > 0, most_connections())

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Runs the background tasks while the application serves."""
        await self._upstream.open()
        await asyncio.to_thread(self._lacks_vault)
        work = [
            self._follower.follow(),
            self._leases.renew(),
            self._access.follow(),
            self._metering.settle(),
            self._receipts.follow(),
            *(self._fleet.watch(engine) for engine in self._fleet.engines),
        ]
        self._background = [asyncio.create_task(each) for each in work]
        for task in self._background:
            task.add_done_callback(_report_end)
        try:
            yield
        finally:
            for task in self._background:
                task.cancel()
            await asyncio.gather(*self._background, return_exceptions=True)
            self._receipts.close()
            self._conversations.close()
            await asyncio.to_thread(self._imports.close)
            await asyncio.to_thread(self._sealer.close)  # what waits for a key is in the log then
            await self._upstream.close()

    async def chat_completions(self, request: Request) -> Response:
        """POST /v1/chat/completions, OpenAI's; GET lists those that were stored."""
        if request.method != "POST":
            return await self._stored_list(request)
        since = self._privacy.instant()
        caller = await self._enter(request, "chat")
        asked = self._check_chat(parse_object(await self._json(request)))
        if asked.wants_comparison:
            compared, token = await self._compare(request, one_of_two(asked), caller, since)
            answer = compared.as_choices()
            return json_response(answer | {EXTENSION: answer[EXTENSION] | token})
        return await self._answer(request, asked, caller, since)

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions, OpenAI's older one."""
        since = self._privacy.instant()
        caller = await self._enter(request, "chat")
        asked = check_text(parse_object(await self._json(request)), self._settings.model_name)
        return await self._answer(request, asked, caller, since)

    async def responses(self, request: Request) -> Response:
        """POST /v1/responses, OpenAI's newer API."""
        since = self._privacy.instant()
        caller = await self._enter(request, "chat")
        raw = await self._json(request)
        body = parse_response(raw, self._settings.model_name)
        history, previous, name = [], body.get("previous_response_id"), user_of(body)
        if previous is not None:
            user = self._chat.pseudonym(caller, name, self._addresses.of(request))
            history = await self._responses.history(previous, caller, user, name is not None)
            check_length(history, len(raw), self._settings.max_body_bytes)
        asked = self._check_chat(response_as_chat(body, history))
        echo = echo_of(body, asked.wants_storing and consents(asked, caller))
        asked = replace(asked, id_prefix=RESPONSE_PREFIX, kept_with=kept_with(echo, name is not None))
        return await self._answer(request, asked, caller, since, partial(ResponseDoor, echo))

    async def messages(self, request: Request) -> Response:
        """POST /v1/messages, Anthropic's API."""
        since = self._privacy.instant()
        caller = await self._enter(request, "chat")
        body = parse_message(await self._json(request), self._settings.model_name)
        asked = replace(self._check_chat(message_as_chat(body)), id_prefix=MESSAGE_PREFIX)
        return await self._answer(request, asked, caller, since, MessageDoor)

    async def count_tokens(self, request: Request) -> Response:
        """POST /v1/messages/count_tokens, Anthropic's."""
        since = self._privacy.instant()
        caller = await self._enter(request, "chat")
        body = parse_count(await self._json(request), self._settings.model_name)
        asked = self._check_chat(message_as_chat(body))
        told = await self._tokenize(request, question_of(asked), asked, caller, since)
        return json_response({"input_tokens": told["count"]})

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize, vLLM's."""
        since = self._privacy.instant()
        caller = await self._enter(request, "chat")
        asked, question = parse_tokenize(await self._json(request), self._settings.model_name)
        return json_response(await self._tokenize(request, question, asked, caller, since))

    async def _tokenize(
        self, request: Request, question: Json, asked: ChatRequest, caller: Caller, since: int
    ) -> Json:
        user = await self._user(request, caller, asked.user)
        route = await self._chat.route(asked, user, caller, since)
        async with while_present(request.receive):
            return await self._chat.tokenized(question, asked, route)

    async def stored_response(self, request: Request) -> Response:
        """GET and DELETE /v1/responses/{response_id}."""
        caller = await self._enter(request, "chat")
        response_id = request.path_params["response_id"]
        work = self._responses.delete if request.method == "DELETE" else self._responses.read
        return json_response(await work(caller.tenant, response_id))

    async def _answer(
        self,
        request: Request,
        asked: ChatRequest,
        caller: Caller,
        since: int,
        make_door: Callable[[str, Json], Door] = ChatDoor,
    ) -> Response:
        check_blind(asked, caller)
        user = await self._user(request, caller, asked.user)
        route = await self._chat.route(asked, user, caller, since)
        _show_operator(request, caller, route)
        token = self._token(request, caller, since, route.user, route.completion_id)
        door = make_door(route.completion_id, token)
        if asked.stream:
            events = self._chat.stream(asked, route, door)
            return EventStream(events, _STREAM_HEADERS, door, self._settings.keep_alive_seconds)
        async with while_present(request.receive):
            return json_response(door.whole(await self._chat.whole(asked, route)))

    async def _stored_list(self, request: Request) -> Response:
        caller = await self._enter(request, "chat")
        return json_response(await self._stored.page(caller.tenant, request.query_params))

    async def stored_one(self, request: Request) -> Response:
        """GET, POST and DELETE /v1/chat/completions/{completion_id}."""
        caller = await self._enter(request, "chat")
        completion_id = request.path_params["completion_id"]
        if request.method == "POST":
            raw = await self._json(request)
            return json_response(await self._stored.change(caller.tenant, completion_id, raw))
        if request.method == "DELETE":
            return json_response(await self._stored.delete(caller.tenant, completion_id))
        return json_response(await self._stored.read(caller.tenant, completion_id))

    async def stored_messages(self, request: Request) -> Response:
        """GET /v1/chat/completions/{completion_id}/messages."""
        caller = await self._enter(request, "chat")
        completion_id = request.path_params["completion_id"]
        page = await self._stored.messages(caller.tenant, completion_id, request.query_params)
        return json_response(page)

    async def comparisons(self, request: Request) -> Response:
        """POST /v1/comparisons: two answers to choose from."""
        since = self._privacy.instant()
        caller = await self._enter(request, "chat")
        asked = self._check_chat(parse_object(await self._json(request)))
        compared, token = await self._compare(request, comparable(asked), caller, since)
        return json_response(compared.as_sides() | {EXTENSION: token})

    async def _compare(
        self, request: Request, asked: ChatRequest, caller: Caller, since: int
    ) -> tuple[Comparison, dict[str, object]]:
        check_blind(asked, caller)
        user = await self._user(request, caller, asked.user)
        async with while_present(request.receive):
            compared = await self._comparisons.compare(asked, user, caller, since)
        return compared, self._token(request, caller, since, user, compared.a["id"], compared.b["id"])

    async def feedback(self, request: Request) -> Response:
        """POST /v1/feedback: a vote (202) or a batch of them (207), answered when it is durable."""
        since = self._privacy.instant()
        sender = await self._sender(request)
        by_key = sender is not None and sender.grant is None
        raw = await self._body(request, None if by_key else self._settings.token_vote_bytes)
        if sender is None:
            sender = await self._granted(request, found(raw))
        sender = replace(sender, since=since)
        content_type = request.headers.get("content-type", "")
        key = request.headers.get("idempotency-key")
        reply = await self._feedback.post(raw, content_type, key, sender)
        return json_response(reply.body, reply.status)

    async def tensorzero_feedback(self, request: Request) -> Response:
        """POST /feedback, in the shape of TensorZero's API."""
        since = self._privacy.instant()
        caller = await self._enter(request, "feedback")
        vote = orjson.dumps(translate(parse_object(await self._json(request))))
        key = request.headers.get("idempotency-key")
        sender = Sender(self._addresses.of(request), caller, since=since)
        reply = await self._feedback.post(vote, "application/json", key, sender)
        return json_response({"feedback_id": reply.body["id"]})

    async def receipt(self, request: Request, feedback_id: str) -> Response:
        """GET /v1/feedback/{id}: what became of a vote."""
        sender = await self._sender(request) or await self._granted(request, None)
        return json_response(await self._receipt_api.receipt(feedback_id, sender))

    async def retraction(self, request: Request, feedback_id: str) -> Response:
        """DELETE /v1/feedback/{id}: the vote is taken back; answered when that is durable."""
        sender = await self._sender(request) or await self._granted(request, None)
        await self._take_votes(sender, 1)
        user = request.query_params.get("user")
        return json_response(await self._receipt_api.retract(feedback_id, sender, user))

    async def policy_feedback(self, request: Request, version: str) -> Response:
        """GET /v1/policies/{version}/feedback: the votes that shaped a version."""
        caller = self._access.caller(request, "operate")
        query = request.query_params
        page = self._receipt_api.shaped(version, caller.tenant, query.get("after"), query.get("limit"))
        return json_response(await page)

    def _token(self, request: Request, caller: Caller, since: int, user: str, *ids: str) -> dict[str, object]:
        """The token to vote on answers with: in a header of the answer, and for its body."""
        token, expires_at = self._tokens.issue(caller, user, list(ids), time.time(), since)
        visit_of(request.scope).headers[HEADER] = token
        return {"feedback_token": token, "feedback_token_expires_at": expires_at}

    async def _sender(self, request: Request) -> Sender | None:
        """Who votes: by a feedback token, or by what access says. Raises Unauthorized, Forbidden, 429.

        None: a request that shows neither key nor token, where one is needed. An open service knows nobody,
        but a page of another origin is not to vote in the name of whoever looks at it.
        """
        token = presented(request.headers)
        if token is not None:
            return await self._granted(request, token)
        if self._access.is_open:
            if is_of_another_page(request.headers, self._settings.cors_origins):
                return None
        elif not {"authorization", "x-api-key"}.intersection(request.headers):
            return None
        return Sender(self._addresses.of(request), await self._enter(request, "feedback"))

    async def _granted(self, request: Request, token: str | None) -> Sender:
        """The sender who has a token. Raises Unauthorized when there is none of ours, or 429."""
        if token is None:
            self._access.caller(request, "feedback")  # which refuses, but in an open service
            raise Forbidden(
                "A web page of another origin can vote with the answer's feedback token only, or when its "
                "origin is allowed: --cors-origin.",
                code="cross_site",
            )
        grant = self._tokens.check(token, time.time())
        await self._metering.admit_user(BROWSER, grant.rater)
        return Sender(self._addresses.of(request), grant=grant)

    async def _take_votes(self, sender: Sender, votes: int) -> None:
        """Count votes, before they are checked, for the key or token they come with. Raises 429, 413."""
        if sender.grant is None:
            limit = sender.caller.limits.votes_per_minute or 0
            await self._metering.admit_votes(f"key/{sender.caller.key_id}", limit, votes)
        else:
            whose = f"token/{min(sender.grant.completion_ids)}"
            await self._metering.admit_votes(whose, self._settings.token_votes_per_minute, votes)

    async def erase_user(self, request: Request, user: str = "") -> Response:
        """DELETE /v1/users/{user}: forget a user, for an operator."""
        caller = await self._enter(request, "operate")
        return json_response(await self._users.erase(user, request.query_params, caller))

    async def show_user(self, request: Request, user: str = "") -> Response:
        """GET /v1/users/{user}: what is kept of a user, for an operator."""
        caller = await self._enter(request, "operate")
        return json_response(await self._users.show(user, request.query_params, caller))

    async def imports(self, request: Request) -> Response:
        """POST /v1/imports: judged examples of a file, for an operator."""
        caller = await self._enter(request, "operate")
        told = self._imports.post(request.headers, request.query_params, request.stream(), caller)
        return json_response(await told)

    async def releases(self, request: Request) -> Response:
        """GET /v1/releases: where releases stand, why, and the decisions, for an operator."""
        await self._enter(request, "operate")
        return json_response(await self._releases.show(request.query_params))

    async def release_action(self, request: Request) -> Response:
        """POST /v1/releases/actions: what an operator asks the release controller for."""
        caller = await self._enter(request, "operate")
        who = operator_of(caller, self._addresses.of(request), request.headers)
        raw, key = await self._json(request), request.headers.get("idempotency-key")
        reply = await self._releases.act(raw, request.query_params, key, caller.tenant, who)
        return json_response(reply.body, reply.status)

    async def models(self, request: Request) -> Response:
        """GET /v1/models: the one public model."""
        self._access.caller(request, "chat")
        return json_response({"object": "list", "data": [self._model()]})

    async def model(self, request: Request, model: str) -> Response:
        """GET /v1/models/{model}."""
        self._access.caller(request, "chat")
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
        if self._settings.suggestions:
            card["suggestions"] = list(self._settings.suggestions)
        return card

    async def openapi(self) -> Response:
        """GET /openapi.json."""
        return json_response(document(self._settings.model_name))

    async def livez(self) -> Response:
        """200 while the process answers and its background tasks run; otherwise it needs a restart."""
        if any(task.done() for task in self._background):
            return json_response({"status": "a background task has ended"}, 503)
        return json_response({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """200 when an engine can serve everyone in the routing table, 503 with the reasons otherwise.

        Where engines are and what they said is for an operator's key.
        """
        problems = self._fleet.problems(self._follower.table, self._access.is_operator(request))
        if problems:
            return json_response({"status": "not ready", "reasons": problems}, 503, {"retry-after": "1"})
        return json_response({"status": "ready"})

    def _lacks_vault(self) -> bool:
        """Whether texts cannot be sealed: shown as a metric, and why in the log, once."""
        problem = self._sealer.problem()
        self.metrics.vault_lost.set(problem is not None)
        if problem is not None and problem != self._complaint:
            log.error("no text can be sealed: %s", problem)
        self._complaint = problem
        return problem is not None

    async def show_metrics(self, request: Request) -> Response:
        """GET /metrics for Prometheus."""
        self._access.caller(request, "operate")
        await asyncio.to_thread(self._lacks_vault)
        if self._relay_lag is not None:
            lag_events, age_seconds = await asyncio.to_thread(self._relay_lag)
            self.metrics.relay_lag_events.set(lag_events)
            self.metrics.relay_age_seconds.set(age_seconds)
            self.metrics.losses.show(self._events)
        return Response(self.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _enter(self, request: Request, scope: Scope) -> Caller:
        """Who sent a request that is work: the key has the scope (401, 403) and keeps to its limits (429)."""
        caller = self._access.caller(request, scope)
        if caller.limits is not NO_LIMITS:
            await self._metering.admit(caller, scope, visit_of(request.scope))
        return caller

    async def _user(self, request: Request, caller: Caller, name: str | None) -> str:
        """The pseudonym of a request's end user, who is within their limit (429).

        Where keys tell callers apart, a user without a name is not limited as a user: behind one address may
        be a whole product.
        """
        user = self._chat.pseudonym(caller, name, self._addresses.of(request))
        if caller.limits is not NO_LIMITS:
            await self._metering.admit_user(caller, user if name or not caller.key_id else None)
        return user

    def _check_chat(self, body: Json) -> ChatRequest:
        return check_chat(body, self._settings.model_name, self._settings.default_max_tokens)

    async def _json(self, request: Request) -> bytes:
        """A body that says that it is JSON. Raises UnsupportedMediaType, BodyTooLarge."""
        check_json(request.headers.get("content-type", ""))
        return await self._body(request)

    async def _body(self, request: Request, limit: int | None = None) -> bytes:
        return await read_body(request, limit or self._settings.max_body_bytes)


def _report_end(task: asyncio.Task[None]) -> None:
    """Background tasks run for ever: one that ends by itself is a bug, and must not go unseen."""
    if not task.cancelled():
        log.critical("a background task has ended", exc_info=task.exception())


def _windows(settings: GatewaySettings, metrics: Metrics) -> Windows:
    return LocalWindows() if settings.redis is None else RedisWindows(settings.redis, metrics.limits_alone)


def _show_operator(request: Request, caller: Caller, route: Route) -> None:
    """Arm and version, in headers, for an operator's key; for nobody else, so that voters stay blind."""
    if caller.is_operator:
        headers = visit_of(request.scope).headers
        headers["x-hearken-arm"] = route.arm
        headers["x-hearken-policy-version"] = route.version


def _page(name: str, headers: Mapping[str, str] = _PAGE_HEADERS) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        return FileResponse(_PAGES / name, headers=headers)

    return page


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_at(request.url.path, error)


async def _on_client_gone(_: Request, error: Exception) -> Response:
    """Who leaves while sending is no failure of ours: a 499, without a traceback."""
    assert isinstance(error, ClientDisconnect)
    return error_response(ClientGone())


def _methods(request: Request) -> set[str]:
    """What may be done with the path of a request, whichever routes it has."""
    found: set[str] = set()
    for route in request.app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods
    return found


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Unknown routes and methods, which the framework reports."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        answer = error_at(
            request.url.path,
            MethodNotAllowed(
                f"{request.method} is not allowed on {request.url.path}.", code="method_not_allowed"
            ),
        )
        answer.headers["allow"] = ", ".join(sorted(_methods(request)))
        return answer
    if error.status_code == 404:
        return error_at(
            request.url.path,
            NotFound(f"There is no {request.method} {request.url.path}.", code="unknown_url"),
        )
    return json_response(
        {"error": ApiError(str(error.detail), code="http_error").as_dict()["error"]}, error.status_code
    )
