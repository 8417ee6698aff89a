"""GET /v1/releases and /v1/learning, and POST /v1/releases/actions: an operator looks at releases and at
learning, and steers.

A gateway decides nothing: what is asked for is a command in the log, which the release controller answers.
"""

import asyncio
import math
import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deploy.history.asking import Asked, not_yet
from deploy.history.releases import Command, Decision, make_command
from deploy.registry.versions import is_version
from deploy.reports.status import told
from feedback.core.events import BASE
from feedback.core.log import EventLog, LogError
from feedback.shared import SharedStore
from serve.http.bodies import json_response, parse_object, read_json
from serve.http.errors import BadRequest, Conflict, IdempotencyConflict
from serve.http.idempotency import KEY_HEADER, check_header
from serve.http.routes import at
from serve.releases.board import Board, log_away
from serve.releases.openapi import ACTION, MAX_PAGE, MAX_WAIT_SECONDS, PAGE, WAIT_SECONDS, WITH_VERSION
from serve.releases.operators import Operators
from serve.schemas.validator import check

Json = dict[str, Any]

LOOK_SECONDS = 0.1
"""How often a request that waits looks at the log, and at gateways' leases."""

SEEN_SECONDS = 5.0
"""How long a command may take to come back from the log, whatever the request's patience."""


class ReleasesApi:
    """Answers what operators ask for."""

    def __init__(
        self, board: Board, events: EventLog, shared: SharedStore, operators: Operators, max_body_bytes: int
    ) -> None:
        self._board = board
        self._events = events
        self._shared = shared
        self._operators = operators
        self._max_body_bytes = max_body_bytes

    @property
    def routes(self) -> list[Route]:
        return [
            at("/v1/releases", self.show, "GET"),
            at("/v1/learning", self.learning, "GET"),
            at("/v1/releases/actions", self.act, "POST"),
        ]

    async def show(self, request: Request) -> Response:
        """GET /v1/releases: where releases stand, why, and a page of decisions, the newest last.

        Raises BadRequest, Unavailable.
        """
        await self._operators.enter(request)
        query = request.query_params
        limit, before = _number(query, "limit", MAX_PAGE) or PAGE, _number(query, "before", 2**53)
        return json_response(await self._board.release(limit, before))

    async def learning(self, request: Request) -> Response:
        """GET /v1/learning: how learning goes in words, what users said of versions, and the learner's steps
        as series.

        Raises Unavailable.
        """
        await self._operators.enter(request)
        return json_response(await self._board.learning())

    async def act(self, request: Request) -> Response:
        """POST /v1/releases/actions: ask the controller for something, and wait for its decision, and until
        gateways serve by it.

        With an idempotency key the command has an id that follows from it, so whatever is sent again is the
        same command, which the controller does once. Raises BadRequest, Conflict when it was not done,
        IdempotencyConflict, and Unavailable.
        """
        caller, who = await self._operators.enter(request)
        raw, key = await read_json(request, self._max_body_bytes), request.headers.get(KEY_HEADER)
        if key is not None:
            check_header(key)
        deadline = time.monotonic() + _wait_seconds(request.query_params)
        command = parse_action(raw, who, "" if key is None else f"{caller.tenant}\0{key}")
        asked = Asked(self._events, command)
        try:
            await asyncio.to_thread(asked.append)
        except LogError as error:
            raise log_away("written") from error
        decision = await self._decision(asked, deadline)
        if decision is None:
            return _reply(202, command, "asked", None, "no controller has decided yet")
        if decision.outcome == "not_done":
            raise Conflict(decision.sentence, param="action", code="not_done")
        missing = None if decision.table is None else await self._missing(decision, deadline)
        if missing is not None:
            return _reply(202, command, "decided", decision, missing)
        return _reply(200, command, "done", decision, None)

    async def _decision(self, asked: Asked, deadline: float) -> Decision | None:
        """The decision that answers, None where there is none in time."""
        seen_by = time.monotonic() + SEEN_SECONDS
        while True:
            try:
                while await asyncio.to_thread(asked.look):
                    pass
            except LogError as error:
                raise log_away("read") from error
            if asked.is_another:
                raise IdempotencyConflict(
                    "This idempotency key was used for another action; use a new key for a new request.",
                    code="idempotency_key_reused",
                    param="idempotency_key",
                )
            until = deadline if asked.first is not None else max(deadline, seen_by)
            if asked.decision is not None or time.monotonic() >= until:
                return asked.decision
            await asyncio.sleep(LOOK_SECONDS)

    async def _missing(self, decision: Decision, deadline: float) -> str | None:
        while True:
            missing = await asyncio.to_thread(not_yet, self._shared, decision)
            if missing is None or time.monotonic() >= deadline:
                return missing
            await asyncio.sleep(LOOK_SECONDS)


def parse_action(raw: bytes, who: str, key: str) -> Command:
    """The command in a body. Raises BadRequest."""
    body = parse_object(raw)
    check(body, ACTION)
    action, version = body["action"], body.get("version")
    if version is None and action == "pin":
        raise BadRequest("pin needs the version to pin.", param="version", code="missing_required_parameter")
    if version is not None and action not in WITH_VERSION:
        raise BadRequest(f"{action} takes no version; leave it out.", param="version")
    if version is not None and version != BASE and not is_version(version):
        raise BadRequest(
            f"version must be one like policy-12-1c9ab2d4, or {BASE}, not {version!r:.60}.", param="version"
        )
    return make_command(action, version, reason=body["reason"], who=who, key=key)


def _reply(
    status: int, command: Command, how_far: str, decision: Decision | None, waits_for: str | None
) -> Response:
    body = {
        "object": "release.action",
        "id": command.event_id,
        "action": command.action,
        "version": command.version,
        "status": how_far,
        "decision": None if decision is None else told(decision),
        "waits_for": waits_for,
    }
    return json_response(body, status)


def _number(query: Mapping[str, str], name: str, most: int) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    number = int(text) if text.isdecimal() and text.isascii() and len(text) <= 16 else 0
    if not 1 <= number <= most:
        raise BadRequest(f"{name} must be an integer from 1 to {most}.", param=name)
    return number


def _wait_seconds(query: Mapping[str, str]) -> float:
    try:
        seconds = float(query.get("wait", WAIT_SECONDS))
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        raise BadRequest(f"wait must be seconds from 0 to {MAX_WAIT_SECONDS}.", param="wait")
    return seconds
